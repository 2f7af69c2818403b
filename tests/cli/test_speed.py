"""Precision, memory format and workers that are left open: measured, told, kept, and repeated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer

from classifier.commands import speed_kept, speed_probe
from classifier.data import workers
from classifier.entry import main
from classifier.errors import ConfigError
from classifier.measured import as_measured
from classifier.model.step_times import BF16, FLOAT32, Setting, StepTimes
from classifier.runs import Result

Save = Callable[[dict[str, Any]], str]


def saved(result: Result | None) -> dict[str, Any]:
    assert result is not None
    content: dict[str, Any] = yaml.safe_load((Path(result.output_dir) / "config.yaml").read_text())
    return content


def chosen(result: Result | None) -> tuple[Any, Any, Any]:
    return chosen_in(saved(result))


def chosen_in(tree: dict[str, Any]) -> tuple[Any, Any, Any]:
    return (
        tree["trainer"].get("precision"), tree["model"]["init_args"].get("channels_last"),
        tree["data"]["init_args"]["num_workers"],
    )  # fmt: skip


def test_what_is_open_is_measured_and_saved_as_plain_values(
    left_open: Any, save: Save, measured: list[Setting], capfd: pytest.CaptureFixture[str]
) -> None:
    result = main(["--config", save(left_open)])
    assert chosen(result) == (BF16, False, 1)
    assert result is not None and result.precision == BF16
    told = capfd.readouterr().err
    assert (
        "speed: bf16-mixed + contiguous: 4.8 x 32-true + channels_last; 1 worker (measured in"
        in told
    )
    assert set(measured) == {Setting(p, c) for p in (FLOAT32, BF16) for c in (True, False)}


def test_the_same_is_not_measured_twice_nor_by_what_a_run_has_saved(
    left_open: Any, save: Save, measured: list[Setting], capfd: pytest.CaptureFixture[str]
) -> None:
    first = main(["--config", save(left_open)])
    (kept,) = speed_kept.FOLDER.glob("*.json")
    assert json.loads(kept.read_text())["precision"] == BF16
    measured.clear()
    capfd.readouterr()
    assert chosen(main(["--config", save(left_open)])) == (BF16, False, 1)
    assert "1 worker (measured by an earlier training)" in capfd.readouterr().err
    kept.unlink()
    assert first is not None
    again = main(["--config", f"{first.output_dir}/config.yaml"])
    assert again is not None and again.metrics == first.metrics
    assert measured == []


def test_what_is_given_stays(left_open: Any, save: Save, measured: list[Setting]) -> None:
    left_open["trainer"]["precision"] = "32-true"
    left_open["model"]["init_args"]["channels_last"] = True
    left_open["data"]["init_args"]["num_workers"] = 0
    assert chosen(main(["--config", save(left_open)])) == ("32-true", True, 0)
    assert measured == []
    left_open["data"]["init_args"]["num_workers"] = "auto"
    assert chosen(main(["--config", save(left_open)])) == ("32-true", True, 1)


def test_a_precision_that_changes_the_loss_is_not_chosen(
    left_open: Any, save: Save, measured: list[Setting], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = StepTimes.losses

    def losses(self: StepTimes, setting: Setting, number: int) -> list[float]:
        factor = 1.1 if setting.precision == BF16 else 1.0
        return [factor * loss for loss in real(self, setting, number)]

    monkeypatch.setattr(StepTimes, "losses", losses)
    assert chosen(main(["--config", save(left_open)])) == (FLOAT32, False, 1)
    assert "its loss is 10% off" in capfd.readouterr().err


def test_auto_is_a_word_for_what_is_open(left_open: Any, save: Save, measured: Any) -> None:
    left_open["trainer"]["precision"] = "auto"
    left_open["model"]["init_args"]["channels_last"] = "auto"
    assert chosen(main(["--config", save(left_open)])) == (BF16, False, 1)


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.fast_dev_run", "true"],
        ["--trainer.deterministic", "true"],
        ["--trainer.max_epochs", "1"],
        ["--trainer.max_time", "00:00:00:59"],
    ],
)
def test_nothing_is_measured_where_it_cannot_pay(
    left_open: Any,
    save: Save,
    measured: list[Setting],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if words[0] == "--trainer.max_epochs":
        monkeypatch.setattr(speed_probe, "_MIN_IMAGES", 1_000_000)
    try:
        assert chosen(main(["--config", save(left_open), *words])) == ("32-true", True, 2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert measured == []


def test_short_training_takes_what_a_longer_one_has_measured(
    left_open: Any, save: Save, measured: list[Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(main(["--config", save(left_open)])) == (BF16, False, 1)
    measured.clear()
    monkeypatch.setattr(speed_probe, "_MIN_IMAGES", 1_000_000)
    assert chosen(main(["--config", save(left_open)])) == (BF16, False, 1)
    assert measured == []


def test_fewest_workers_that_come_near_the_best_are_taken() -> None:
    assert speed_probe.fewest_that_do({0: 96.0, 1: 100.0, 2: 97.0}) == 0
    assert speed_probe.fewest_that_do({0: 50.0, 1: 90.0, 2: 100.0}) == 2


def test_numbers_to_try_lie_around_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    assert workers.workers_to_try(0.010, 0.004, on_cpu=False) == [3, 4, 6, 15, 16]
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    assert workers.workers_to_try(0.010, 0.004, on_cpu=True) == [0, 1, 2]
    assert workers.guessed_workers() == 1


def test_start_of_the_workers_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def batches(*_: Any, **__: Any) -> Iterator[Any]:
        # The workers' start, what they have decoded by then, and what comes as it is decoded.
        for seconds in (50.0, 0.0, 0.0, 1.0, 1.0, 1.0):
            clock.now += seconds
            yield SimpleNamespace(targets=[0] * 4)

    monkeypatch.setattr(workers, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(workers, "make_loader", batches)
    assert workers.training_rate(None, 1, 4, lambda: None, 1.5) == 4.0
    assert workers.training_rate(None, 1, 4, lambda: None, 0.5) == 4.0
    monkeypatch.setattr(workers, "make_loader", lambda *_, **__: iter(()))
    assert workers.training_rate(None, 1, 4, lambda: None, 1.5) == 0.0


def test_resumed_training_goes_on_in_what_it_was_computed_in(
    left_open: Any, save: Save, measured: list[Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(left_open)
    first = main(["--config", file])
    assert first is not None
    measured.clear()
    for kept in speed_kept.FOLDER.glob("*.json"):
        kept.unlink()
    words = [
        "--ckpt_path",
        f"{first.output_dir}/checkpoints/last.ckpt",
        "--trainer.max_epochs",
        "3",
    ]
    assert chosen(main(["--config", file, *words])) == (BF16, False, 1)
    assert measured == []


def test_configuration_takes_over_what_a_run_chose_and_keeps_what_the_user_wrote(
    left_open: Any, save: Save, measured: list[Setting]
) -> None:
    first = main(["--config", save(left_open)])
    assert first is not None
    folder = Path(first.output_dir)
    left_open["model"]["init_args"]["channels_last"] = True
    assert chosen_in(as_measured(left_open, folder)) == (BF16, True, 1)
    left_open["trainer"]["precision"] = "32-true"
    left_open["data"]["init_args"]["num_workers"] = 0
    assert as_measured(left_open, folder) == left_open
    del left_open["trainer"]["precision"]
    assert as_measured(left_open, folder / "checkpoints") == left_open  # no run folder


def test_choice_is_not_shared_by_other_images_or_other_data_when_the_rest_is_equal(
    left_open: Any, save: Save, measured: list[Setting], images: Path
) -> None:
    def kept() -> int:
        main(["--config", save(left_open)])
        return len(list(speed_kept.FOLDER.glob("*.json")))

    data = left_open["data"]["init_args"]
    left_open["trainer"]["max_epochs"] = 1
    size: dict[str, Any] = {
        "class_path": "tests.cli.own_resize.OwnResize",
        "init_args": {"side": 32},
    }
    data["augmentations"]["train"] = [size]
    assert kept() == 1
    assert kept() == 1
    size["init_args"]["side"] = 48
    assert kept() == 2
    data["dataset_classes"]["train"]["init_args"]["root"] = str(images / "test")
    assert kept() == 3


@pytest.mark.parametrize(
    ("seconds", "share", "budget"), [(math.inf, 400.0, 8.0), (100.0, 400.0, 2.0), (1e9, 1e9, 20.0)]
)
def test_budget_is_a_share_of_what_ends_first(seconds: float, share: float, budget: float) -> None:
    found = speed_probe.Budget(seconds)
    found.limit(share)
    assert found.left == pytest.approx(budget, abs=0.1)


def test_end_by_a_timer_is_known_before_the_training() -> None:
    timers = [Timer("00:00:02:00"), Timer(timedelta(seconds=90)), Timer()]
    assert speed_probe.time_limit(SimpleNamespace(callbacks=timers)) == 90.0
    assert speed_probe.time_limit(SimpleNamespace(callbacks=[])) == math.inf


def test_lock_is_gone_when_nothing_was_measured(workplace: Path) -> None:
    file = speed_kept.FOLDER / "a.json"
    assert speed_kept.measured_once(file, lambda: None) is None
    assert not list(speed_kept.FOLDER.iterdir())
    found = speed_probe.Choice(BF16, True, 1, "told", 2.0)
    assert speed_kept.measured_once(file, lambda: found) == found
    assert speed_kept.measured_once(file, lambda: None) == replace(found, seconds=0.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--data.init_args.num_workers", "-1"],
            "data.init_args.num_workers: must be at least 0, got -1. "
            "Write auto, or a whole number from 0 on.",
        ),
        (
            ["--model.init_args.channels_last", "maybe"],
            "model.init_args.channels_last: must be true or false or auto or null, got 'maybe'.",
        ),
    ],
)
def test_auto_is_named_where_something_else_was_written(
    left_open: Any, save: Save, words: list[str], told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        main(["--config", save(left_open), *words])
    assert str(error.value) == told
