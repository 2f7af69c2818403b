from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from classifier import main
from classifier.checkpoints import carry_over
from classifier.entry import console
from classifier.errors import ConfigError, Interrupted, RunError
from tests.conftest import write_classes

EPOCHS = "3"
SENDER = "tests.cli.interrupting.SendSignal"


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    file = Path(folder, "checkpoints/last.ckpt")
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def epoch_rows(folder: str | Path) -> list[dict[str, str]]:
    with Path(folder, "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def newest(workplace: Path) -> Path:
    return sorted((workplace / "runs/colours").iterdir())[-1]


@pytest.fixture
def interrupted(config: Any, save: Any, workplace: Path) -> Any:
    """Train until a signal comes; gives the run folder."""

    def run(signum: int = signal.SIGTERM, step: int = 4, stage: str = "train", *words: str) -> Path:
        sender = {
            "class_path": SENDER,
            "init_args": {"signum": int(signum), "step": step, "stage": stage},
        }
        content = json.loads(json.dumps(config))
        content["trainer"] |= {"callbacks": [sender], "max_epochs": int(EPOCHS)}
        with pytest.raises(Interrupted) as caught:
            main(["--config", save(content, "interrupted.yaml"), *words])
        assert caught.value.signum == signum
        config["trainer"]["callbacks"] = []  # not the checkpoint's, which would send it again
        return newest(workplace)

    return run


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("stage", "step"), [("train", 1), ("train", 4), ("train", 5), ("validation", 6)]
)
def test_resume_after_a_signal_reaches_the_same_numbers(
    train: Any, interrupted: Any, signum: int, stage: str, step: int
) -> None:
    whole = train("--trainer.max_epochs", EPOCHS)
    half = interrupted(signum, step, stage)
    assert json.loads((half / "result.json").read_text())["status"] == "interrupted"
    resumed = train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "last")
    assert resumed.num_steps == whole.num_steps
    assert resumed.metrics == whole.metrics
    assert resumed.best_score == whole.best_score
    before, after = weights(whole.output_dir), weights(resumed.output_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert epoch_rows(resumed.output_dir) == epoch_rows(whole.output_dir)


def test_signal_ends_a_training_of_one_batch_an_epoch(
    train: Any, config: Any, interrupted: Any
) -> None:
    config["data"]["init_args"]["batch_size"] = 24
    whole = train("--trainer.max_epochs", EPOCHS)
    interrupted(signal.SIGTERM, 1)
    resumed = train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "last")
    assert resumed.metrics == whole.metrics
    assert epoch_rows(resumed.output_dir) == epoch_rows(whole.output_dir)


def test_resume_after_a_signal_with_dropout_workers_and_schedule(
    train: Any, config: Any, interrupted: Any
) -> None:
    config["model"]["init_args"]["scheduler_config"] = {"name": "cosine", "warmup_epochs": 1}
    config["model"]["init_args"]["model_name"] = "timm/test_efficientnet"
    config["data"]["init_args"]["num_workers"] = 2
    whole = train("--trainer.max_epochs", EPOCHS)
    interrupted(signal.SIGTERM, 4)
    resumed = train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "last")
    assert resumed.metrics == whole.metrics


def test_resume_mixes_and_smooths_as_an_uninterrupted_training(
    train: Any, config: Any, interrupted: Any
) -> None:
    config["model"]["init_args"] |= {
        "mixup_config": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "prob": 0.9},
        "loss_config": {"name": "bce", "label_smoothing": 0.1},
        "class_weights": {"red": 2.0},
    }
    whole = train("--trainer.max_epochs", EPOCHS)
    interrupted(signal.SIGTERM, 4)
    resumed = train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "last")
    assert resumed.metrics == whole.metrics
    before, after = weights(whole.output_dir), weights(resumed.output_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("step", [4, 7])
def test_resume_within_an_epoch_follows_the_unfreezing(
    train: Any, config: Any, interrupted: Any, step: int
) -> None:
    model = config["model"]["init_args"]
    model["unfreeze_schedule"] = {0: "head", 1: 0.5, 2: "all"}
    model["optimizer_config"] |= {"layer_decay": 0.7, "lr_head": 0.01}
    model["scheduler_config"] = {"name": "cosine", "min_lr": 1e-5}
    whole = train("--trainer.max_epochs", EPOCHS)
    interrupted(signal.SIGTERM, step)
    resumed = train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "last")
    assert resumed.metrics == whole.metrics
    before, after = weights(whole.output_dir), weights(resumed.output_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "optimizer", [{"name": "sgd", "lr": 0.01}, {"name": "muon", "lr": 3e-3, "weight_decay": 0.05}]
)
def test_resume_goes_on_with_the_optimizer_of_timm(
    train: Any, config: Any, optimizer: dict[str, Any]
) -> None:
    config["model"]["init_args"]["optimizer_config"] = optimizer
    whole = train("--trainer.max_epochs", EPOCHS)
    part = train("--trainer.max_epochs", "2")
    resumed = train(
        "--trainer.max_epochs", EPOCHS, "--ckpt_path", part.output_dir + "/checkpoints/last.ckpt"
    )
    assert resumed.metrics == whole.metrics
    before, after = weights(whole.output_dir), weights(resumed.output_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resume_goes_on_to_more_epochs_with_nothing_but_the_checkpoint(train: Any) -> None:
    first = train()
    more = main(
        ["--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt", "--trainer.max_epochs", "4"]
    )
    assert more is not None
    assert more.num_epochs == 4
    assert more.output_dir.startswith("runs/colours/")
    epochs = [row["epoch"] for row in epoch_rows(more.output_dir) if row["validation_loss"]]
    assert epochs == ["0", "1", "2", "3"]


def test_resume_keeps_the_best_score_of_before(train: Any) -> None:
    first = train("--trainer.max_epochs", "5")
    best = Path(first.output_dir, "checkpoints/best.ckpt")
    more = main(
        ["--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt", "--trainer.max_epochs", "6",
         "--model.init_args.optimizer_config.lr", "0.5"]
    )  # fmt: skip
    assert more is not None
    assert more.best_score is not None and more.best_score >= (first.best_score or 0)
    assert Path(more.output_dir, "checkpoints/best.ckpt").is_file()
    assert best.is_file()


def inodes(folder: str) -> dict[str, int]:
    return {
        file.relative_to(folder).as_posix(): file.stat().st_ino
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def test_run_shares_no_file_with_the_run_that_it_resumed(config: dict[str, Any], save: Any) -> None:
    config["trainer"] |= {"logger": True, "max_epochs": 1}  # with TensorBoard's event files
    saver = {"monitor": "validation_loss", "save_top_k": -1, "filename": "{epoch}"}
    config["trainer"]["callbacks"] = [{"class_path": "ModelCheckpoint", "init_args": saver}]
    first = main(["--config", save(config)])
    assert first is not None
    before = inodes(first.output_dir)
    more = main(["--ckpt_path", first.output_dir, "--trainer.max_epochs", "2"])
    assert more is not None
    after = inodes(more.output_dir)
    assert not set(before.values()) & set(after.values())
    name = "checkpoints/epoch=0.ckpt"
    assert Path(first.output_dir, name).read_bytes() == Path(more.output_dir, name).read_bytes()
    taken_over = [name for name in after if "events.out" in name and name in before]
    assert len(taken_over) == 1


def test_files_that_were_one_are_one_when_they_are_taken_over(workplace: Path) -> None:
    for name in ("old", "new"):
        (workplace / name).mkdir()
    Path("old/best.ckpt").write_bytes(b"weights")
    Path("old/epoch=0.ckpt").hardlink_to("old/best.ckpt")
    state = {"dirpath": "old", "best_model_path": "old/epoch=0.ckpt", "best_k_models": {}}
    content = {"checkpoints_folder": "old", "callbacks": {"ModelCheckpoint{}": state}}
    carry_over(content, Path("old"), Path("new"))
    assert Path("new/best.ckpt").samefile("new/epoch=0.ckpt")
    assert not Path("new/best.ckpt").samefile("old/best.ckpt")
    assert Path("new/best.ckpt").read_bytes() == b"weights"
    assert state["best_model_path"] == "new/epoch=0.ckpt"


def test_finished_training_is_not_resumed(train: Any) -> None:
    first = train()
    with pytest.raises(ConfigError) as caught:
        train("--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt")
    assert str(caught.value) == (
        "trainer.max_epochs: the checkpoint has trained 2 epochs already, got 2. "
        "Write a larger number to go on."
    )


def test_last_starts_fresh_and_says_so_when_nothing_is_unfinished(train: Any) -> None:
    train("--trainer.max_epochs", "1")
    result = train("--ckpt_path", "last", "--trainer.max_epochs", "1")
    text = Path(result.output_dir, "log.txt").read_text()
    assert "ckpt_path: last: no unfinished run of colours, starting fresh" in text


def test_resume_works_after_the_run_folder_was_moved(
    train: Any, interrupted: Any, workplace: Path
) -> None:
    half = interrupted()
    shutil.move(half, workplace / "elsewhere")
    result = train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "elsewhere/checkpoints/last.ckpt")
    assert result.num_epochs == 3


def test_resume_with_other_classes_is_refused_with_both_lists(train: Any, workplace: Path) -> None:
    first = train()
    write_classes(workplace / "other", 3, ["blue", "green", "yellow"])
    with pytest.raises(ConfigError) as caught:
        train(
            "--ckpt_path", first.output_dir, "--trainer.max_epochs", "3",
            "--data.init_args.dataset_classes.train.init_args.root", "other",
        )  # fmt: skip
    assert "blue, green, red; the data's are blue, green, yellow" in str(caught.value)


def test_only_weights_starts_anew_with_the_old_weights(train: Any) -> None:
    first = train("--trainer.max_epochs", "4")
    again = train(
        "--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt", "--only_weights_load", "true",
        "--trainer.max_epochs", "1", "--model.init_args.optimizer_config", "{name: SGD, lr: 1e-9}",
    )  # fmt: skip
    assert again.num_epochs == 1
    assert again.metrics["validation_loss"] == pytest.approx(
        first.metrics["validation_loss"], rel=0.5
    )
    saved = yaml.safe_load(Path(again.output_dir, "config.yaml").read_text())
    assert saved["ckpt_path"].endswith("last.ckpt")


def test_only_weights_makes_a_new_head_for_another_number_of_classes(
    train: Any, workplace: Path
) -> None:
    first = train()
    write_classes(workplace / "two", 6, ["blue", "red"])
    result = train(
        "--ckpt_path", first.output_dir, "--only_weights_load", "true", "--trainer.max_epochs", "1",
        "--data.init_args.dataset_classes.train.init_args.root", "two",
    )  # fmt: skip
    text = Path(result.output_dir, "log.txt").read_text()
    assert "the head is new, for 2 classes instead of 3" in text


def test_only_weights_of_another_encoder_is_refused(train: Any) -> None:
    first = train()
    with pytest.raises(
        ConfigError, match=r"the checkpoint holds timm/test_resnet, .*Write model_name"
    ):
        train(
            "--ckpt_path", first.output_dir, "--only_weights_load", "true",
            "--model.init_args.model_name", "timm/test_efficientnet",
        )  # fmt: skip


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_exit_code_tells_the_signal(
    config: Any, save: Any, monkeypatch: Any, signum: int, code: int
) -> None:
    config["trainer"]["callbacks"] = [
        {"class_path": SENDER, "init_args": {"signum": int(signum), "step": 1}}
    ]
    monkeypatch.setattr(sys, "argv", ["main.py", "--config", save(config)])
    assert console() == code


def test_killed_worker_ends_the_run_with_a_hint(config: Any, save: Any) -> None:
    config["trainer"]["callbacks"] = [{"class_path": "tests.cli.interrupting.KillWorker"}]
    config["data"]["init_args"] |= {"num_workers": 2, "batch_size": 2}
    with pytest.raises(
        RunError, match=r"a DataLoader worker died.*Lower data\.init_args\.num_workers"
    ):
        main(["--config", save(config)])


def test_interrupted_prediction_leaves_no_table(trained: Path, workplace: Path) -> None:
    write_classes(workplace / "p", 2)
    (workplace / "p/bad.png").write_bytes(b"x")
    import os

    from classifier.callbacks.predictions import PredictionsWriter

    original = PredictionsWriter.on_predict_batch_end

    def interrupt(self: Any, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PredictionsWriter, "on_predict_batch_end", interrupt)
        with pytest.raises(Interrupted):
            words = ["--data.batch_size", "2", "--trainer.accelerator", "cpu"]  # by Lightning
            main(["--predict", "p", "--ckpt_path", str(trained), *words])
    folder = newest(workplace)
    assert not [item for item in folder.iterdir() if "predictions" in item.name]


def test_last_does_not_repeat_what_was_resumed_and_finished(train: Any, interrupted: Any) -> None:
    interrupted()
    train("--trainer.max_epochs", EPOCHS, "--ckpt_path", "last")
    again = train("--trainer.max_epochs", "1", "--ckpt_path", "last")
    assert again.checkpoint is None
    assert again.num_epochs == 1


def test_resume_within_an_epoch_needs_batches_of_the_same_size(
    train: Any, interrupted: Any
) -> None:
    interrupted()
    words = ["--ckpt_path", "last", "--data.init_args.batch_size"]
    with pytest.raises(ConfigError, match=r"middle of an epoch with batches of 8, got 4\. Write 8"):
        train(*words, "4")
    assert train(*words, "8").status == "completed"


def test_interrupted_run_tells_how_far_it_came(interrupted: Any) -> None:
    saved = json.loads((interrupted() / "result.json").read_text())
    assert saved["num_steps"] == 5
    assert saved["last_checkpoint"] == "checkpoints/last.ckpt"
    assert saved["metrics"]["validation_loss"] > 0


def test_resume_of_a_lone_copy_says_what_is_missing(train: Any, workplace: Path) -> None:
    first = train()
    (workplace / "alone").mkdir()
    shutil.copy(Path(first.output_dir, "checkpoints/last.ckpt"), workplace / "alone/mine.ckpt")
    (workplace / "alone/unrelated.ckpt").write_bytes(b"x")
    more = main(["--ckpt_path", "alone/mine.ckpt", "--trainer.max_epochs", "3"])
    assert more is not None and more.best_score is not None
    text = Path(more.output_dir, "log.txt").read_text()
    assert "best.ckpt is not beside the resumed checkpoint" in text
    assert "metrics.csv of the run before was not found" in text
    names = sorted(item.name for item in Path(more.output_dir, "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt"]


def test_training_that_began_from_weights_is_resumed_and_not_begun_again(train: Any) -> None:
    first = train()
    source = f"{first.output_dir}/checkpoints/last.ckpt"
    begun = train("--ckpt_path", source, "--only_weights_load", "true")
    file = f"{begun.output_dir}/checkpoints/last.ckpt"
    resumed = main(["--ckpt_path", file, "--trainer.max_epochs", "3"])
    assert resumed is not None
    assert (resumed.num_epochs, resumed.num_steps) == (3, 9)


def test_broken_weights_are_never_scored(trained: Path, workplace: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.model.fc.bias"] += float("nan")
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(RunError, match="the test loss became nan: the weights are broken"):
        main(["--test", "--ckpt_path", "x.ckpt"])
    assert not list(newest(workplace).glob("*predictions*"))
