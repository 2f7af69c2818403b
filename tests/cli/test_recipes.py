"""Every recipe of configs/recipes through main(), on small images, with a small model of its kind."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from classifier import main
from classifier.arguments import parse
from classifier.config import read_config
from classifier.model.classifier import ImageClassifier
from classifier.runs import Result
from tests.conftest import write_classes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox"]
HUB = {"google/vit-base-patch16-224", "google/vit-base-patch16-224-in21k"}


@pytest.fixture
def photos(workplace: Path) -> Path:
    """Six classes below photos/, and photos.csv with two labels for some of them."""
    folder = write_classes(workplace / "photos", 5, CLASSES)
    rows = [
        f"{file.relative_to(folder)},{file.parent.name}" + ("|ant" if file.stem == "00" else "")
        for file in sorted(folder.rglob("*.png"))
    ]
    (workplace / "photos.csv").write_text("\n".join(["image,labels", *rows]))
    return folder


def content_of(stem: str) -> dict[str, Any]:
    return read_config(FOLDER / f"{stem}.yaml")


def words_for(stem: str, photos: Path) -> list[str]:
    """A recipe on these images, with a small model at random weights; all else is the recipe's."""
    content = content_of(stem)
    words = ["--config", str(FOLDER / f"{stem}.yaml"), "--model.init_args.pretrained", "false"]
    name = content["model"]["init_args"]["model_name"]
    if name.startswith(("timm/", "torchvision/")):
        name = "timm/test_vit" if "vit" in name else "timm/test_resnet"
    elif "/" in name:
        name = str(small_vit(photos.parent))
    words += ["--model.init_args.model_name", name, "--data.init_args.num_workers", "0"]
    for stage, given in content["data"]["init_args"]["dataset_classes"].items():
        key = f"--data.init_args.dataset_classes.{stage}.init_args"
        words += [f"{key}.root", str(photos)]
        if "table" in given["init_args"]:
            words += [f"{key}.table", str(photos.with_suffix(".csv"))]
    return words


def small_vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 224, "patch_size": 32,
    }  # fmt: skip
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(folder / "vit")
    return folder / "vit"


def train(stem: str, photos: Path, *more: str) -> Result:
    words = ["--data.init_args.batch_size", "4", "--trainer.max_epochs", "2", *more]
    result = main([*words_for(stem, photos), *words])
    assert result is not None and result.status == "completed"
    return result


@pytest.mark.parametrize("stem", [file.stem for file in RECIPES])
def test_recipe_trains(stem: str, photos: Path) -> None:
    limit = [] if stem == "feature_extraction" else ["--trainer.limit_train_batches", "2"]
    result = train(stem, photos, *limit)
    soup = (result.soup or {}).get("checkpoint")
    assert result.best_checkpoint == (soup or "checkpoints/best.ckpt")
    checkpoint = torch.load(
        Path(result.output_dir, "checkpoints/best.ckpt"), weights_only=True, map_location="cpu"
    )
    assert checkpoint["epoch"] in (0, 1)


@pytest.mark.parametrize("stem", [file.stem for file in RECIPES])
def test_recipe_passes_its_check(stem: str, photos: Path) -> None:
    result = main(["--check", *words_for(stem, photos)])
    assert result is not None and (result.mode, result.status) == ("check", "completed")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_says_what_it_is(file: Path) -> None:
    """Data, recipe, expectation and a command that exists; a score where it was measured."""
    lines = file.read_text(encoding="utf-8").split("seed_everything:")[0].splitlines()
    facts = {line[4:].split(" ")[0]: line[14:] for line in lines if line[4:5].strip()}
    assert lines[0].startswith("# ") and lines[0].endswith(".")
    assert {"data", "recipe", "expected", "command"} <= set(facts)
    measured = "CIFAR-10" in facts["expected"]
    assert measured or "depends on your images" in facts["expected"]
    program, script, *words = shlex.split(facts["command"])
    command = parse(words)
    assert (program, script, command.mode) == ("python", "main.py", "train")
    assert [ROOT / name for name in command.configs] == [file]


@pytest.mark.parametrize("stem", [file.stem for file in RECIPES])
def test_recipe_names_an_encoder_that_exists(stem: str) -> None:
    import timm
    from torchvision.models import get_model_weights

    arguments = content_of(stem)["model"]["init_args"]
    source, _, name = arguments["model_name"].partition("/")
    if source == "timm" and arguments.get("pretrained", True):
        assert name in timm.list_pretrained()
    elif source == "timm":
        assert timm.is_model(name)
    elif source == "torchvision":
        assert name.split(".")[1] in get_model_weights(name.split(".")[0]).__members__
    elif name:
        assert f"{source}/{name}" in HUB  # that a test cannot ask


@pytest.mark.parametrize("stem", ["transfer_learning_notes", "techniques_catalogue", "layer_decay"])
def test_encoder_of_the_recipe_takes_its_options(stem: str) -> None:
    """At its real size, without weights: dropout, stochastic depth and head are the library's."""
    arguments = content_of(stem)["model"]["init_args"]
    model = ImageClassifier(**{**arguments, "pretrained": False, "num_classes": 2})
    model.build()
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 2)


# What the techniques catalogue says: epochs, batch size, learning rate, weight decay, dropout.
SIZES = {
    "small_data": (range(50, 101), range(32, 33), (1e-4, 1e-4), 1e-3, 0.5),
    "medium_data": (range(50, 51), range(64, 65), (1e-3, 1e-3), 1e-4, 0.3),
    "large_data": (range(30, 51), range(128, 257), (1e-3, 1e-2), 1e-4, 0.2),
}


@pytest.mark.parametrize("stem", SIZES)
def test_recipe_of_a_size_has_the_numbers_of_the_catalogue(stem: str) -> None:
    epochs, batch, (low, high), weight_decay, dropout = SIZES[stem]
    content = content_of(stem)
    model = content["model"]["init_args"]
    optimizer = model["optimizer_config"]
    assert content["trainer"]["max_epochs"] in epochs
    assert content["data"]["init_args"]["batch_size"] in batch
    assert low <= optimizer["lr"] <= high
    assert (optimizer["weight_decay"], model["drop_rate"]) == (weight_decay, dropout)


def log_of(result: Result) -> str:
    return Path(result.output_dir, "log.txt").read_text(encoding="utf-8")


def test_feature_extraction_runs_the_encoder_once(photos: Path) -> None:
    assert "run once for each image" in log_of(train("feature_extraction", photos))


@pytest.mark.parametrize("stem", ["last_layers", "gradual_unfreezing"])
def test_quarter_of_the_layers_is_layer4_of_a_resnet18(stem: str) -> None:
    arguments = content_of(stem)["model"]["init_args"]
    fraction = arguments.get("freeze_encoder", 0.75)
    assert arguments.get("unfreeze_schedule", {2: 0.25})[2] == 1 - fraction
    model = ImageClassifier(
        arguments["model_name"], pretrained=False, num_classes=2, freeze_encoder=fraction
    )
    model.build()
    assert model.network is not None
    trained = [name for name, p in model.network.named_parameters() if p.requires_grad]
    assert any(".layer4.0." in name for name in trained)
    assert all(".layer4." in name or ".fc." in name for name in trained), trained


@pytest.mark.parametrize(("stem", "patience"), [("autotrain", 5), ("hydra_framework", 3)])
def test_recipe_stops_after_its_patience(stem: str, patience: int, photos: Path) -> None:
    """With a learning rate that changes nothing, the first epoch stays the best."""
    still = ["--model.init_args.optimizer_config.lr", "1e-12", "--trainer.max_epochs", "9"]
    result = train(stem, photos, *still, "--trainer.limit_train_batches", "1")
    assert result.num_epochs == 1 + patience


@pytest.mark.parametrize(
    ("losses", "epochs"),
    [
        ([1.0] + 8 * [0.9901], 6),  # better by less than the threshold: five such epochs end it
        ([1.0] + 8 * [0.9899], 7),  # better by more, once
        ([1.0 - 0.006 * epoch for epoch in range(9)], 9),  # two small steps make a large one
    ],
)
def test_autotrain_counts_improvements_above_its_threshold(
    losses: list[float], epochs: int
) -> None:
    callbacks = content_of("autotrain")["trainer"]["callbacks"]
    (given,) = [item for item in callbacks if item["class_path"] == "EarlyStopping"]
    stopping = EarlyStopping(**given["init_args"])
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    seen = 0
    while seen < len(losses) and not trainer.should_stop:
        loss = torch.tensor(losses[seen], dtype=torch.float64)
        trainer.callback_metrics["validation_loss"] = loss
        stopping._run_early_stopping_check(trainer)
        seen += 1
    assert seen == epochs


def test_hydra_framework_has_its_folder_and_its_checkpoint_name(photos: Path) -> None:
    result = train("hydra_framework", photos, "--trainer.limit_train_batches", "1")
    folder = Path(result.output_dir)
    assert folder.parent == Path("runs/EXAMS/default")
    (named,) = folder.glob("checkpoints/epoch=*.ckpt")
    assert named.stem.endswith(f"-validation_accuracy={result.best_score:.3f}")


def test_autotrain_squashes_validation_images_and_keeps_one_checkpoint(photos: Path) -> None:
    result = train("autotrain", photos, "--trainer.limit_train_batches", "1")
    names = {item.name for item in Path(result.output_dir, "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"}
    checkpoint = torch.load(Path(result.output_dir, "checkpoints/best.ckpt"), weights_only=True)
    (found,) = [value for value in nested(checkpoint) if "interpolation" in value]
    assert (found["resize_mode"], found["resize"]) == ("squash", found["size"])


def nested(tree: Any) -> list[dict[str, Any]]:
    if not isinstance(tree, dict):
        return []
    return [tree, *(found for value in tree.values() for found in nested(value))]


@pytest.mark.long
def test_lightning_runner_sweeps_when_tune_is_true(photos: Path) -> None:
    result = train(
        "lightning_runner", photos, "--optuna.tune", "true", "--optuna.n_trials", "1",
        "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1",
    )  # fmt: skip
    assert (Path(result.output_dir) / "best_config.yaml").is_file()
