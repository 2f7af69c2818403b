"""Averages of weights through the whole program."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import main
from classifier.checkpoints import load_checkpoint
from classifier.commands.weights import load_weights
from classifier.errors import ConfigError, Interrupted
from classifier.model.classifier import ImageClassifier
from tests.cli.test_resume import EPOCHS, SENDER, epoch_rows

EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.8}}
BY_EPOCH = {"class_path": "classifier.EpochWeightAveraging", "init_args": {"start_epoch": 0}}
LATER = {"class_path": "classifier.EpochWeightAveraging", "init_args": {"start_epoch": 2}}
KEEPING = {
    "class_path": "ModelCheckpoint",
    "init_args": {"monitor": "validation_loss", "mode": "min", "save_top_k": 3},
}
SOUP = {"class_path": "classifier.GreedySoup"}


def last(folder: str) -> dict[str, Any]:
    return load_checkpoint(Path(folder, "checkpoints/last.ckpt"))


@pytest.mark.parametrize(
    ("averaging", "step"), [(EMA, 1), (EMA, 6), (BY_EPOCH, 4), (LATER, 1), (LATER, 7)]
)
def test_average_survives_a_resume(
    train: Any, config: Any, save: Any, averaging: Any, step: int
) -> None:
    config["model"]["init_args"] |= {"freeze_encoder": 0.4, "pretrained": False}
    config["model"]["init_args"] |= {"class_weights": "auto"}
    config["trainer"] |= {"max_epochs": int(EPOCHS), "callbacks": [averaging]}
    whole = train()
    sender = {"class_path": SENDER, "init_args": {"signum": int(signal.SIGTERM), "step": step}}
    content = json.loads(json.dumps(config))
    content["trainer"]["callbacks"].append(sender)
    with pytest.raises(Interrupted):
        main(["--config", save(content, "interrupted.yaml")])
    resumed = train("--ckpt_path", "last")
    assert resumed.metrics == whole.metrics
    assert epoch_rows(resumed.output_dir) == epoch_rows(whole.output_dir)
    before, after = last(whole.output_dir), last(resumed.output_dir)
    for state in ("state_dict", "current_model_state", "averaging_state"):
        assert set(before[state]) == set(after[state])
        assert all(torch.equal(before[state][name], after[state][name]) for name in before[state])


@pytest.mark.parametrize("averaging", [EMA, LATER])
def test_every_command_uses_the_average(train: Any, config: Any, averaging: Any) -> None:
    config["trainer"] |= {"max_epochs": 4, "callbacks": [averaging]}
    result = train()
    checkpoint = last(result.output_dir)
    name = "network.model.fc.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    file = f"{result.output_dir}/checkpoints/last.ckpt"
    again = main(["--val", "--ckpt_path", file])
    assert again is not None and again.metrics == {
        key: value for key, value in result.metrics.items() if key.startswith("validation_")
    }
    best = main(["--val", "--ckpt_path", result.output_dir])
    assert best is not None
    for key, value in best.metrics.items():
        assert result.best_metrics[key] == pytest.approx(value)
    model = ImageClassifier.load_from_checkpoint(file, weights_only=True, map_location="cpu")
    assert torch.equal(model.state_dict()[name], checkpoint["state_dict"][name])
    for words in (["--test"], ["--predict"]):
        used = main([*words, "--ckpt_path", file])
        assert used is not None and used.status == "completed"


def test_only_weights_takes_the_average(train: Any, config: Any) -> None:
    config["trainer"]["callbacks"] = [EMA]
    first = train()
    checkpoint = last(first.output_dir)
    model = ImageClassifier("timm/test_resnet", pretrained=False)
    model.build(["blue", "green", "red"])
    load_weights(model, checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])
    more = train("--only_weights_load", "true", "--ckpt_path", first.output_dir)
    assert more.num_epochs == 2


def test_average_that_starts_late_is_warned_of(train: Any, config: Any) -> None:
    late = {"class_path": "EMAWeightAveraging", "init_args": {"update_starting_at_step": 4}}
    config["trainer"]["callbacks"] = [late]
    text = Path(train().output_dir, "log.txt").read_text()
    assert "EMAWeightAveraging.update_starting_at_step: until then validation and" in text


def test_average_and_loss_work_in_half_precision(train: Any, config: Any) -> None:
    config["trainer"] |= {"callbacks": [EMA], "precision": 16}
    config["model"]["init_args"] |= {
        "mixup_config": {"mixup_alpha": 0.2}, "loss_config": {"name": "focal"},
    }  # fmt: skip
    result = train()
    assert result.precision == "bf16-mixed"
    assert "precision bf16-mixed on 1 x cpu" in Path(result.output_dir, "log.txt").read_text()
    assert all(
        value.dtype != torch.bfloat16 for value in last(result.output_dir)["state_dict"].values()
    )


def test_soup_is_a_checkpoint_as_the_others(train: Any, config: Any, workplace: Path) -> None:
    config["trainer"] |= {"max_epochs": 5, "callbacks": [SOUP, KEEPING]}
    result = train()
    facts = json.loads(Path(result.output_dir, "result.json").read_text())["soup"]
    assert facts == result.soup
    assert facts["checkpoint"] == "checkpoints/soup.ckpt" and facts["num_checkpoints"] == 3
    assert facts["score"] < facts["best_score"]
    assert (result.best_checkpoint, result.best_score) == (facts["checkpoint"], facts["score"])
    assert result.best_metrics["validation_loss"] == facts["score"]
    folder = main(["--val", "--ckpt_path", result.output_dir])
    assert folder is not None
    assert folder.metrics["validation_loss"] == pytest.approx(facts["score"], abs=1e-5)
    (workplace / "away.ckpt").write_bytes(Path(result.output_dir, facts["checkpoint"]).read_bytes())
    again = main(["--val", "--ckpt_path", "away.ckpt"])
    assert again is not None
    assert again.metrics["validation_loss"] == pytest.approx(facts["score"])
    for words in (["--test"], ["--predict"]):
        assert main([*words, "--ckpt_path", "away.ckpt"]) is not None
    # The training itself is as without a soup.
    config["trainer"]["callbacks"] = [KEEPING]
    plain = train()
    assert plain.metrics == result.metrics and plain.soup is None


def test_soup_of_averages_takes_the_averages(train: Any, config: Any) -> None:
    config["trainer"] |= {"max_epochs": 4, "callbacks": [EMA, SOUP, KEEPING]}
    result = train()
    assert result.soup is not None and result.soup["num_checkpoints"] >= 2
    if result.soup["checkpoint"]:
        names = load_checkpoint(Path(result.output_dir, result.soup["checkpoint"]))
        assert "current_model_state" not in names


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([SOUP], "trainer.callbacks.0: GreedySoup averages what a ModelCheckpoint"),
        ([{**KEEPING, "init_args": {**KEEPING["init_args"], "save_top_k": 1}}, SOUP],  # type: ignore[dict-item]
         "trainer.callbacks.0.init_args.save_top_k: GreedySoup averages at least two checkpoints, got 1."),
        ([{**LATER, "init_args": {"start_epoch": -1}}],
         "trainer.callbacks.0.init_args.start_epoch: must be an epoch from 0 on"),
    ],
)  # fmt: skip
def test_wrong_averaging_is_told_before_a_run_folder_is_made(
    train: Any, config: Any, workplace: Path, callbacks: Any, message: str
) -> None:
    config["trainer"]["callbacks"] = callbacks
    with pytest.raises(ConfigError) as caught:
        train()
    assert str(caught.value).startswith(message)
    assert not (workplace / "runs").exists()
