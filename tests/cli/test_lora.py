"""Adapters from the command line: training, resuming, and what their checkpoints are good for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import main
from classifier.errors import ConfigError
from tests.model.test_families import VIT

RECIPE = "configs/recipes/lora.yaml"
TINY: dict[str, Any] = {
    "model_name": "timm/vit_tiny_patch16_224",
    "model_args": VIT,
    "image_size": 32,
}


@pytest.fixture
def adapted(config: dict[str, Any], train: Any) -> Any:
    config["model"]["init_args"] |= {
        **TINY,
        "lora": {"r": 2, "target_modules": ["attn.qkv", "fc1"]},
    }
    return train


def weights(folder: str | Path, name: str = "last") -> dict[str, torch.Tensor]:
    file = Path(folder, f"checkpoints/{name}.ckpt")
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def test_checkpoint_tests_and_predicts_on_its_own(adapted: Any, images: Path) -> None:
    trained = adapted()
    checkpoint = f"{trained.output_dir}/checkpoints/last.ckpt"
    tested = main(["--test", "--ckpt_path", checkpoint])
    assert tested is not None and "test_loss" in tested.metrics
    validated = main(["--val", "--ckpt_path", checkpoint])
    assert validated is not None
    assert validated.metrics["validation_loss"] == pytest.approx(trained.metrics["validation_loss"])
    predicted = main(["--predict", str(images / "new"), "--ckpt_path", checkpoint])
    assert predicted is not None
    with Path(predicted.output_dir, "predictions.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 3
    assert "LoRA r 2 on 4 layers" in Path(trained.output_dir, "log.txt").read_text()


def test_only_adapters_and_head_move(adapted: Any) -> None:
    before = weights(adapted("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1",
                             "--model.optimizer_config.lr", "0.0").output_dir)  # fmt: skip
    after = weights(adapted().output_dir)
    moved = {
        name
        for name in before
        if name.startswith("network.") and not torch.equal(before[name], after[name])
    }
    expected = {
        name for name in before if ".lora_" in name or name.startswith("network.model.head.")
    }
    assert moved == expected and len(expected) == 10


def test_resumed_training_comes_to_the_same(adapted: Any) -> None:
    whole = weights(adapted("--trainer.max_epochs", "3").output_dir)
    part = adapted("--trainer.max_epochs", "2").output_dir
    resumed = adapted("--trainer.max_epochs", "3", "--ckpt_path", f"{part}/checkpoints/last.ckpt")
    found = weights(resumed.output_dir)
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_averages_clipping_class_weights_and_layer_decay_go_with_it(
    adapted: Any, config: dict[str, Any]
) -> None:
    average = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}
    config["trainer"] |= {"callbacks": [average], "gradient_clip_val": 0.5}
    config["model"]["init_args"] |= {"class_weights": "auto"}
    config["model"]["init_args"]["optimizer_config"] |= {"layer_decay": 0.5, "lr_head": 0.01}
    trained = adapted()
    checkpoint = f"{trained.output_dir}/checkpoints/last.ckpt"
    validated = main(["--val", "--ckpt_path", checkpoint])
    assert validated is not None
    assert validated.metrics["validation_loss"] == pytest.approx(trained.metrics["validation_loss"])


@pytest.mark.parametrize("first_has_lora", [True, False])
def test_weights_of_a_checkpoint_begin_another_training(
    adapted: Any, config: dict[str, Any], first_has_lora: bool
) -> None:
    lora = config["model"]["init_args"].pop("lora")
    if first_has_lora:
        config["model"]["init_args"]["lora"] = lora
    first = adapted().output_dir
    config["model"]["init_args"]["lora"] = lora
    words = ["--only_weights_load", "true", "--ckpt_path", f"{first}/checkpoints/last.ckpt"]
    second = adapted(*words, "--trainer.max_epochs", "1", "--model.optimizer_config.lr", "0.0")
    before = {name.replace("base_layer.", ""): value for name, value in weights(first).items()}
    for name, value in weights(second.output_dir).items():
        if name.startswith("network.") and (first_has_lora or ".lora_" not in name):
            assert torch.equal(value, before[name.replace("base_layer.", "")]), name


def test_misspelt_layer_ends_before_a_run_folder_is_made(adapted: Any, workplace: Path) -> None:
    with pytest.raises(ConfigError, match="no such layer in the encoder, got 'qvk'"):
        adapted("--model.lora", "{target_modules: [qvk]}")
    assert not (workplace / "runs").exists()


def test_checkpoint_without_peft_says_what_to_install(
    adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = f"{adapted().output_dir}/checkpoints/last.ckpt"
    monkeypatch.setattr("classifier.model.lora_config._LIBRARY", "peft_that_is_not_there")
    with pytest.raises(ConfigError, match=r"needs peft, which is not installed\. pip install peft"):
        main(["--test", "--ckpt_path", checkpoint])


def test_recipe_trains_with_a_tiny_encoder(images: Path, pytestconfig: pytest.Config) -> None:
    result = main([
        "--config", str(pytestconfig.rootpath / RECIPE), "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
        "--data.num_workers", "0", "--data.init_args.dataset_classes.train.init_args.root", str(images / "train"),
        "--model.model_name", TINY["model_name"], "--model.pretrained", "false", "--model.image_size", "32",
        "--model.model_args", str(VIT), "--model.lora.r", "2",
        "--data.augmentations.train.0.init_args.size", "[32, 32]",
    ])  # fmt: skip
    assert result is not None and result.status == "completed"
