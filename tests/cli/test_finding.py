"""--lr_find, auto_batch_size, Lightning's finders, and memory that runs out."""

from __future__ import annotations

import csv
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from classifier import main
from classifier.entry import console
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.model.classifier import ImageClassifier
from tests.cli.running_out import limit_memory

LR = "model.init_args.optimizer_config.lr"
BATCH = "data.init_args.batch_size"


def log_of(result: Any) -> str:
    return Path(result.output_dir, "log.txt").read_text()


def saved_config(result: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(result.output_dir, "config.yaml").read_text())
    return content


def checkpoint(result: Any) -> dict[str, Any]:
    file = Path(result.output_dir, "checkpoints/last.ckpt")
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


@pytest.mark.parametrize("word", ["--lr_find", "lr_find"])
def test_range_test_suggests_a_rate_and_changes_nothing(
    config: Any, save: Any, workplace: Path, capsys: Any, word: str
) -> None:
    result = main([word, "--config", save(config)])
    assert result is not None and result.status == "completed" and result.mode == "lr_find"
    out = capsys.readouterr().out.splitlines()
    assert out[0] == out[-1] == result.output_dir
    assert out[1] == f"{LR}: {result.found[LR]:.3g}" and len(out) == 3
    assert 1e-8 < result.found[LR] < 1
    with Path(result.output_dir, "report/lr_find.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rates = [float(row["lr"]) for row in rows]
    assert rates == sorted(rates) and rates[0] == pytest.approx(1e-8, rel=0.3)
    assert any(rate == pytest.approx(result.found[LR], rel=0.01) for rate in rates)
    assert Path(result.output_dir, "report/lr_find.png").read_bytes()[:4] == b"\x89PNG"
    assert not Path(result.output_dir, "checkpoints").exists()
    assert saved_config(result)["model"]["init_args"]["optimizer_config"]["lr"] == 0.003
    assert not list(workplace.rglob(".lr_find*"))


def test_range_test_keeps_the_rates_of_layers_in_proportion(
    config: Any, save: Any, monkeypatch: Any
) -> None:
    model = config["model"]["init_args"]
    model["optimizer_config"] = {
        "name": "SGD", "lr_backbone": 0.01, "lr_head": 0.1, "layer_decay": 0.5,
    }  # fmt: skip
    model["scheduler_config"] = {"name": "cosine", "warmup_epochs": 1}
    model["unfreeze_schedule"] = {0: 0.5, 1: "all"}
    used: list[list[float]] = []
    step = torch.optim.SGD.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        if len(parameters) > 1:  # not the one of a check
            used.append([group["lr"] for group in self.param_groups])
            assert any(p.grad is None for p in parameters)  # frozen, as in epoch 0
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    result = main(["--lr_find", "--config", save(config)])
    assert result is not None
    rates = [
        result.found[f"model.init_args.optimizer_config.{k}"] for k in ("lr_head", "lr_backbone")
    ]
    assert rates[0] == pytest.approx(10 * rates[1], rel=0.01)
    assert used
    for row in used:
        assert row[-1] == max(row) and min(row) < 0.01 * max(row)


def test_range_test_survives_a_loss_that_is_no_number(
    config: Any, save: Any, monkeypatch: Any
) -> None:
    config["model"]["init_args"]["optimizer_config"] = {"name": "SGD", "lr": 0.1}
    original = ImageClassifier._logits

    def broken(self: Any, *args: Any) -> Any:
        logits = original(self, *args)
        return logits * float("nan") if self.training and self.global_step > 60 else logits

    monkeypatch.setattr(ImageClassifier, "_logits", broken)
    result = main(["--lr_find", "--config", save(config)])
    assert result is not None and result.found[LR] < 1e-2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr_find", "--check"], "--check: stands beside --lr_find"),
        (["lr_find", "--test"], "--test: stands beside lr_find"),
        (["--lr_find", "--trainer.fast_dev_run", "true"], "--lr_find makes 100 steps"),
        (["--lr_find", "--trainer.devices", "2"], "lr_find run on one device, got 2"),
        (
            ["--lr_find", "--model.optimizer_config", "{lr_backbone: 0, lr_head: 0}"],
            "optimizer_config.lr: every learning rate is 0",
        ),
    ],
)
def test_range_test_is_refused_where_it_makes_no_sense(
    config: Any, save: Any, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*words, "--config", save(config)])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["--lr_find"], ["--data.auto_batch_size", "true"]])
def test_search_is_ended_by_a_signal(
    config: Any, save: Any, monkeypatch: Any, workplace: Path, words: list[str], signum: int
) -> None:
    original = ImageClassifier._logits

    def interrupted(self: Any, *args: Any) -> Any:
        signal.raise_signal(signum)
        return original(self, *args)

    monkeypatch.setattr(ImageClassifier, "_logits", interrupted)
    with pytest.raises(Interrupted) as caught:
        main([*words, "--config", save(config)])
    assert caught.value.signum == signum
    (folder,) = (workplace / "runs/colours").iterdir()
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"


def test_rate_alone_completes_the_default_optimizer(train: Any, config: Any) -> None:
    del config["model"]["init_args"]["optimizer_config"]
    short = train("--trainer.max_epochs", "1", "--model.optimizer_config.lr", "1e-3")
    written = "{name: AdamW, lr: 1e-3, weight_decay: 0.05}"
    whole = train("--trainer.max_epochs", "1", "--model.optimizer_config", written)
    assert short.metrics == whole.metrics


def test_range_test_of_a_resumed_training_is_refused(trained: Path, workplace: Path) -> None:
    with pytest.raises(ConfigError, match="ckpt_path: --lr_find tries the beginning"):
        main(["--lr_find", "--ckpt_path", str(trained)])


def test_learning_rate_finder_trains_as_if_the_rate_had_been_written(
    train: Any, config: Any, save: Any
) -> None:
    model = config["model"]["init_args"]
    model["optimizer_config"] = {"name": "AdamW", "lr": 0.003, "layer_decay": 0.8}
    model["scheduler_config"] = {"name": "cosine", "min_lr": 1e-5}
    config["trainer"] |= {
        "max_epochs": 10,
        "callbacks": [
            {"class_path": "LearningRateFinder", "init_args": {"num_training_steps": 25}}
        ],
    }
    found = train()
    rate = found.found[LR]
    assert rate != 0.003
    assert f"found: {LR} is {rate:.6g}, it was 0.003" in log_of(found)
    saved = checkpoint(found)
    assert saved["hyper_parameters"]["optimizer_config"]["lr"] == rate
    assert saved["config"]["model"]["init_args"]["optimizer_config"]["lr"] == rate
    assert json.loads(Path(found.output_dir, "result.json").read_text())["found"] == {LR: rate}
    config["trainer"]["callbacks"] = []
    written = train(f"--{LR}", repr(rate))
    assert written.metrics == found.metrics
    assert written.found == {}


def test_batch_size_finder_is_told_and_kept_in_a_resume(train: Any, config: Any) -> None:
    finder = {"class_path": "BatchSizeFinder", "init_args": {"max_trials": 4}}
    config["trainer"]["callbacks"] = [finder]
    first = train("--trainer.max_epochs", "1")
    assert first.found == {BATCH: 16}
    assert f"found: {BATCH} is 16, it was 8" in log_of(first)
    assert checkpoint(first)["config"]["data"]["init_args"]["batch_size"] == 16
    again = train("--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt")
    assert again.num_epochs == 2
    assert "resumed: no search for a batch size, 16 is the checkpoint's" in log_of(again)


def test_auto_batch_size_is_bounded_by_the_training_set_and_repeats(
    train: Any, workplace: Path
) -> None:
    found = train("--data.auto_batch_size", "true")
    assert found.found == {BATCH: 24}
    assert f"auto_batch_size: {BATCH} is 24, all training images" in log_of(found)
    assert log_of(found).count("`Trainer.fit` stopped") == 1  # the training's
    assert log_of(found).count("precision 32-true on 1 x cpu") == 1
    data = saved_config(found)["data"]["init_args"]
    assert (data["batch_size"], data["auto_batch_size"]) == (24, False)
    assert checkpoint(found)["config"]["data"]["init_args"]["batch_size"] == 24
    repeated = main(["--config", f"{found.output_dir}/config.yaml"])
    assert repeated is not None and repeated.metrics == found.metrics
    assert not list(workplace.rglob(".scale_batch_size*"))


def test_auto_batch_size_stays_below_what_runs_out_of_memory(train: Any, monkeypatch: Any) -> None:
    build = ImageClassifier.build

    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.network.register_forward_pre_hook(limit_memory(10))

    monkeypatch.setattr(ImageClassifier, "build", built)
    found = train("--data.auto_batch_size", "true")
    assert found.found == {BATCH: 8}
    assert f"{BATCH} is 8, the largest that fits into memory" in log_of(found)


def test_auto_batch_size_says_when_not_one_image_fits(train: Any, monkeypatch: Any) -> None:
    build = ImageClassifier.build

    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.network.register_forward_pre_hook(
            lambda module, inputs: limit_memory(0)(module, inputs) if module.training else None
        )

    monkeypatch.setattr(ImageClassifier, "build", built)
    with pytest.raises(RunError, match=r"auto_batch_size: not even one image fits"):
        train("--data.auto_batch_size", "true")


def test_resume_keeps_the_size_that_was_found(train: Any) -> None:
    first = train("--data.auto_batch_size", "true")
    more = train(
        "--data.auto_batch_size", "true", "--trainer.max_epochs", "3",
        "--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt",
    )  # fmt: skip
    assert more.num_epochs == 3 and more.num_steps == 3
    data = saved_config(more)["data"]["init_args"]
    assert (data["batch_size"], data["auto_batch_size"]) == (24, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.devices", "2"], "auto_batch_size: finds a size on one device only"),
        (["--trainer.fast_dev_run", "true"], "stands beside trainer.fast_dev_run"),
    ],
)
def test_auto_batch_size_is_refused_where_it_cannot_be_found(
    train: Any, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train("--data.auto_batch_size", "true", *words)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("cuda", "the device's memory is full."), ("old cuda", "the device's memory is full."),
        ("mps", "the device's memory is full."), ("numpy", "the machine's memory is full."),
        ("cpu", "the machine's memory is full."), ("worker", "the machine's memory is full."),
    ],
)  # fmt: skip
def test_full_memory_ends_with_code_1_and_what_helps(
    config: Any, save: Any, monkeypatch: Any, capsys: Any, kind: str, first: str
) -> None:
    runs_out = {"class_path": "tests.cli.running_out.RunOut", "init_args": {"kind": kind}}
    config["trainer"]["callbacks"] = [runs_out]
    monkeypatch.setattr(sys, "argv", ["main.py", "--config", save(config)])
    assert console() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(first)
    for remedy in (
        "data.init_args.batch_size (now 8)", "trainer.accumulate_grad_batches", "bf16-mixed",
        "16-mixed", "model.init_args.image_size", "data.init_args.auto_batch_size: true",
    ):  # fmt: skip
        assert remedy in last


def test_killed_worker_names_the_batch_size(config: Any, save: Any) -> None:
    runs_out = {"class_path": "tests.cli.running_out.RunOut", "init_args": {"kind": "killed"}}
    config["trainer"]["callbacks"] = [runs_out]
    with pytest.raises(RunError, match=r"a DataLoader worker died.*batch_size \(now 8\)"):
        main(["--config", save(config)])
