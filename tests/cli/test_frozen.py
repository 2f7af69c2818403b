"""A frozen encoder runs once: same training, kept features, nothing out of date."""

from __future__ import annotations

import csv
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BaseFinetuning

from classifier import main
from classifier.errors import ConfigError, Interrupted, RunError
from tests.conftest import resize, write_image
from tests.model.test_encoders import write_timm

OFF = ("--data.cache_features", "false")


@pytest.fixture
def frozen(config: dict[str, Any], workplace: Path) -> dict[str, Any]:
    """A frozen encoder whose weights are the same in every run, and nothing random."""
    config["model"]["init_args"]["freeze_encoder"] = True
    config["data"]["init_args"]["augmentations"]["train"] = resize()
    return config


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the frozen part gets, batch by batch, from now on."""
    seen: list[int] = []
    from classifier.commands.frozen_features import FrozenPart

    encode = FrozenPart.encode

    def noted(self: FrozenPart, images: Any) -> Any:
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(FrozenPart, "encode", noted)
    return seen


def weights(result: Any) -> dict[str, torch.Tensor]:
    file = Path(result.output_dir, "checkpoints/last.ckpt")
    return dict(torch.load(file, weights_only=True)["state_dict"])


def assert_same_training(one: Any, other: Any) -> None:
    assert one.metrics == pytest.approx(other.metrics, abs=1e-4)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value.float(), second[name].float(), atol=1e-4), name


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("fraction", ["true", "0.5"])
def test_training_is_the_same_with_kept_features(
    frozen: Any, train: Any, encoded: list[int], fraction: str, name: str
) -> None:
    frozen["model"]["init_args"]["model_name"] = f"timm/{name}"
    if name == "test_vit":
        frozen["data"]["init_args"]["augmentations"] = None
        frozen["data"]["init_args"]["batch_size"] = 16
    words = ("--model.freeze_encoder", fraction)
    plain = train(*words, *OFF)
    assert encoded == []
    kept = train(*words)
    assert sum(encoded) == 30  # every image of training and validation, once in all epochs
    assert_same_training(kept, plain)


def test_later_runs_find_the_features(frozen: Any, train: Any, encoded: list[int]) -> None:
    first = train()
    encoded.clear()
    again = train("--trainer.max_epochs", "2", "--data.val_fraction", "0.3")  # another split too
    assert encoded == []
    assert_same_training(train(), first)
    assert again.metrics.keys() == first.metrics.keys()


def test_head_of_another_size_uses_the_same_features(
    frozen: Any, train: Any, encoded: list[int], images: Path, workplace: Path
) -> None:
    (workplace / "model").mkdir()
    folder = write_timm(workplace / "model")
    frozen["model"]["init_args"] |= {"model_name": str(folder), "pretrained": True}
    train()
    encoded.clear()
    shutil.rmtree(images / "train" / "red")
    train()
    assert encoded == []


def test_only_new_content_is_encoded(
    frozen: Any, train: Any, encoded: list[int], images: Path
) -> None:
    train()
    encoded.clear()
    (images / "train" / "red" / "00.png").rename(images / "train" / "red" / "renamed.png")
    write_image(images / "train" / "red" / "01.png", (9, 9, 9), 1)
    kept = train()
    assert sum(encoded) == 1
    assert_same_training(kept, train(*OFF))


@pytest.mark.parametrize(
    "words",
    [
        ("--seed_everything", "8"),  # other random weights
        ("--model.freeze_encoder", "0.5"),
        ("--trainer.precision", "bf16-mixed"),
        ("--data.augmentations.train.0.init_args.height", "40"),
    ],
)
def test_whatever_features_depend_on_makes_them_anew(
    frozen: Any, train: Any, encoded: list[int], words: tuple[str, str]
) -> None:
    train()
    encoded.clear()
    kept = train(*words)
    assert sum(encoded) >= 24
    tolerant = "bf16-mixed" in words
    plain = train(*words, *OFF)
    assert kept.metrics == pytest.approx(plain.metrics, abs=0.02 if tolerant else 1e-4)


def test_checkpoint_holds_the_whole_model(frozen: Any, train: Any) -> None:
    kept, plain = train(), train(*OFF)
    found = []
    for result in (kept, plain):
        predicted = main(["--predict", "--ckpt_path", result.output_dir])
        assert predicted is not None
        with Path(predicted.output_dir, "predictions.csv").open(newline="") as stream:
            found.append(list(csv.DictReader(stream)))
    for one, other in zip(*found, strict=True):
        assert one["label"] == other["label"]
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=1e-4)


def test_resumed_training_goes_on_with_the_features(
    frozen: Any, train: Any, encoded: list[int]
) -> None:
    whole = train("--trainer.max_epochs", "4")
    half = train("--trainer.max_epochs", "2")
    encoded.clear()
    resumed = train(
        "--trainer.max_epochs", "4", "--ckpt_path", half.output_dir + "/checkpoints/last.ckpt"
    )
    assert encoded == []
    assert_same_training(resumed, whole)


def test_views_are_encoded_once_each(frozen: Any, train: Any, encoded: list[int]) -> None:
    flip = {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}
    frozen["data"]["init_args"]["augmentations"]["train"].append(flip)
    train()
    assert encoded == []  # a new view every epoch: nothing to keep
    first = train("--data.feature_views", "3", "--trainer.max_epochs", "4")
    assert sum(encoded) == 3 * 24 + 6
    assert_same_training(train("--data.feature_views", "3", "--trainer.max_epochs", "4"), first)
    encoded.clear()
    train("--data.feature_views", "4", "--trainer.max_epochs", "4")
    assert sum(encoded) == 24  # the fourth view of each


@pytest.mark.parametrize("mode", [[], ["--check"]])
def test_views_without_a_frozen_encoder_are_refused(
    frozen: Any, save: Any, mode: list[str]
) -> None:
    words = [*mode, "--data.feature_views", "3", "--model.freeze_encoder", "false"]
    with pytest.raises(ConfigError, match=r"feature_views: there are no features to keep: the enc"):
        main(["--config", save(frozen), *words])


def test_features_without_room_on_the_disk_are_not_kept(
    frozen: Any, train: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    plain = train(*OFF)
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr("classifier.data.features.shutil.disk_usage", lambda _: usage)
    kept = train()
    assert "no room for the features of 24 images" in capfd.readouterr().err
    assert_same_training(kept, plain)


def test_bad_image_is_named_also_while_features_are_made(
    frozen: Any, save: Any, images: Path
) -> None:
    (images / "train" / "red" / "05.png").write_bytes(b"no image")
    with pytest.raises(RunError, match=r"05\.png"):
        main(["--config", save(frozen)])


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.limit_train_batches", "2"),
        ("--trainer.fast_dev_run", "true"),
        ("--model.freeze_encoder", "false"),
        ("--model.freeze_encoder", "false", "--model.unfreeze_schedule", "{0: head, 1: all}"),
        ("--model.mixup_config", "{mixup_alpha: 0.2}"),
    ],
)
def test_images_are_used_where_features_would_not_be_the_same_or_not_pay(
    frozen: Any, train: Any, encoded: list[int], words: tuple[str, ...]
) -> None:
    train(*words)
    assert encoded == []


def test_signal_ends_the_encoding_and_the_next_run_goes_on_with_it(
    frozen: Any, train: Any, encoded: list[int], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    from classifier.commands.frozen_features import FrozenPart

    encode = FrozenPart.encode

    def interrupted(self: FrozenPart, images: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return encode(self, images)

    monkeypatch.setattr(FrozenPart, "encode", interrupted)
    with pytest.raises(Interrupted):
        train()
    monkeypatch.setattr(FrozenPart, "encode", encode)
    assert_same_training(train(), train(*OFF))


def test_two_that_need_the_same_features_make_them_once(frozen: Any, workplace: Path) -> None:
    frozen["model"]["init_args"]["freeze_encoder"] = True
    (workplace / "cfg.yaml").write_text(yaml.safe_dump(frozen))
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=run_apart, args=(workplace,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
    assert [child.exitcode for child in children] == [0, 0]
    logs = [log.read_text() for log in (workplace / "runs/colours").glob("*/log.txt")]
    assert sum(log.count("run once: features of") for log in logs) == 2  # train and validation


def run_apart(folder: Path) -> None:
    """A training that encodes so slowly that another one has to wait for it."""
    import os
    import time

    from classifier.commands.frozen_features import FrozenPart

    os.chdir(folder)
    encode = FrozenPart.encode

    def slow(self: FrozenPart, images: Any) -> Any:
        time.sleep(1.0)
        return encode(self, images)

    FrozenPart.encode = slow  # type: ignore[method-assign]
    main(["--config", "cfg.yaml"])


def test_smaller_kept_images_have_other_features(frozen: Any, train: Any) -> None:
    train("--data.create_dataset", "true", "--data.cache_size", "8")
    assert_same_training(train(), train(*OFF))


def test_image_that_changes_while_it_is_encoded_is_told(
    frozen: Any, train: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifier.data.loading import StageDataset

    image = StageDataset.image

    def changing(self: StageDataset, place: int, seed: int) -> Any:
        found = image(self, place, seed)
        if self.path(place).endswith("05.png"):
            write_image(images / "train" / self.path(place), (1, 2, 3), place)
        return found

    frozen["data"]["init_args"]["num_workers"] = 0
    monkeypatch.setattr("classifier.commands.prepare._check_image", lambda *_: None)
    monkeypatch.setattr(StageDataset, "image", changing)
    with pytest.raises(RunError, match=r"05\.png changed while it was read"):
        train()


def test_random_validation_is_that_of_a_validation_on_its_own(frozen: Any, train: Any) -> None:
    crop = {"class_path": "albumentations.RandomCrop", "init_args": {"height": 24, "width": 24}}
    frozen["data"]["init_args"]["augmentations"]["val"] = [*resize(), crop]
    result = train()
    again = main(["--val", "--ckpt_path", f"{result.output_dir}/checkpoints/last.ckpt"])
    assert again is not None
    assert again.metrics["validation_loss"] == pytest.approx(result.metrics["validation_loss"])


def test_dropout_of_the_head_draws_the_same_numbers(frozen: Any, train: Any) -> None:
    frozen["model"]["init_args"]["head"] = {"hidden": 16, "dropout": 0.5}
    assert_same_training(train(), train(*OFF))


def test_transform_of_ones_own_is_not_kept(frozen: Any, train: Any, encoded: list[int]) -> None:
    own = {"class_path": "tests.cli.test_frozen.Brighter"}
    frozen["data"]["init_args"]["augmentations"] = {"train": [own, *resize()], "val": resize()}
    train()
    assert encoded == []


@pytest.mark.parametrize(
    "average",
    [
        {"class_path": "classifier.EpochWeightAveraging", "init_args": {"start_epoch": 1}},
        {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}},
    ],
)
def test_averages_are_the_same_with_kept_features(frozen: Any, train: Any, average: Any) -> None:
    frozen["model"]["init_args"]["freeze_encoder"] = 0.5
    frozen["trainer"]["callbacks"] = [average]
    assert_same_training(train(), train(*OFF))


def test_callback_that_unfreezes_keeps_the_images(
    frozen: Any, train: Any, encoded: list[int]
) -> None:
    frozen["trainer"]["callbacks"] = [{"class_path": "tests.cli.test_frozen.Unfreezes"}]
    train()
    assert encoded == []


def test_trials_of_a_sweep_share_the_features(frozen: Any, save: Any, workplace: Path) -> None:
    frozen["optuna"] = {
        "tune": True, "n_trials": 3, "direction": "maximize", "metric": "validation_f1_score",
        "search_spaces": {
            "model.init_args.optimizer_config.lr": {
                "distribution": "loguniform", "low": 1e-4, "high": 1e-2,
            }
        },
    }  # fmt: skip
    main(["--config", save(frozen)])
    logs = sorted((workplace / "runs/colours/trials").glob("*/log.txt"))
    told = [log.read_text().count("run once: features of") for log in logs]
    assert told == [2, 0, 0]  # training and validation, in the first trial


class Brighter(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """A transform whose code may change."""

    def apply(self, img: Any, **_: Any) -> Any:
        """Brighten."""
        return np.clip(img.astype(int) + 9, 0, 255).astype(np.uint8)


class Unfreezes(BaseFinetuning):
    """Trains everything from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        """Leaves the frozen layers as they are."""

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        """Unfreezes."""
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network.model.conv1, optimizer)
