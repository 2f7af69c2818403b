"""Pictures and the page: made of anything that a study may hold, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from classifier.tuning.plots import short_names, write_plots
from classifier.tuning.report import write_report
from classifier.tuning.settings import parse_settings
from classifier.tuning.storage import Storage
from classifier.tuning.study import SweepStudy
from classifier.tuning.summary import summarise
from tests.tuning.test_settings import GOOD

EVIL = "<script>alert(1)</script>"
SPACE = {
    "model.init_args.optimizer_config.lr": {"distribution": "loguniform", "low": 1e-5, "high": 0.1},
    "model.init_args.optimizer_config": {
        "distribution": "categorical", "choices": [{"name": EVIL}, {"name": "SGD"}],
    },
    "model.init_args.optimizer_config.momentum": {
        "distribution": "uniform", "low": 0.5, "high": 0.9,
        "when": {"model.init_args.optimizer_config": "SGD"},
    },
}  # fmt: skip


@pytest.fixture
def open_study(workplace: Path) -> Any:
    """A study in the working folder, as a sweep opens it; closed after the test."""
    opened = []

    def open_it(section: dict[str, Any]) -> SweepStudy:
        settings = parse_settings({**GOOD, "search_spaces": SPACE, **section}, "study")
        storage = Storage("sqlite:///study.db", "study", workplace)
        opened.append(storage)
        return SweepStudy(settings, storage, {"seed_everything": 1}, [])

    yield open_it
    for storage in opened:
        storage.close()


def fill(study: SweepStudy, number: int, value: Callable[[int], tuple[float, ...]]) -> None:
    """Trials of every kind: each fifth fails, each seventh is pruned."""
    for _ in range(number):
        claim = study.claim()
        assert claim is not None
        trial = claim.trial
        for epoch in range(3):
            study.report(trial, epoch, trial.number / 10 + epoch)
        if trial.number % 5 == 4:
            study.fail(trial, f"exit code 1: {EVIL}", "")
        elif trial.number % 7 == 6:
            study.prune(trial)
        else:
            study.complete(trial, value(trial.number))


def test_report_shows_everything_and_escapes_it(open_study: Any, workplace: Path) -> None:
    study = open_study({"n_trials": 20})
    fill(study, 20, lambda number: (0.5 + number / 100,))
    result = summarise(study, workplace)
    result.verdict = [f"No evidence {EVIL}"]
    plots = write_plots(study, workplace)
    assert [file.name for file in plots.values()] == [
        "history.png", "importance.png", "intermediate_values.png", "parallel_coordinates.png",
    ]  # fmt: skip
    for file in plots.values():
        with Image.open(file) as picture:
            picture.verify()
            assert min(picture.size) > 200
    page = write_report(study, result, workplace, plots).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64,") == 4
    assert "<h1>study</h1>" in page
    assert "14 complete, 2 pruned, 4 failed of 20 trials" in page


def test_report_of_several_objectives_shows_the_front(open_study: Any, workplace: Path) -> None:
    several = {
        "metric": None, "direction": None, "n_trials": 8,
        "metrics": ["validation_accuracy", "num_parameters"], "directions": ["maximize", "minimize"],
    }  # fmt: skip
    study = open_study(several)
    fill(study, 8, lambda number: (float(number), float(number % 3)))
    result = summarise(study, workplace)
    plots = write_plots(study, workplace)
    assert "Pareto front" in plots
    assert "The Pareto front" in write_report(study, result, workplace, plots).read_text()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_report_can_be_made_of_few_trials(open_study: Any, workplace: Path, number: int) -> None:
    study = open_study({"n_trials": 3})
    fill(study, number, lambda number: (0.5,))
    plots = write_plots(study, workplace)
    assert bool(plots) == bool(number)
    write_report(study, summarise(study, workplace), workplace, plots)


def test_keys_are_shortened_to_what_tells_them_apart() -> None:
    keys = [
        "model.init_args.optimizer_config.lr",
        "data.init_args.augmentations.train.1.init_args.p",
        "data.init_args.augmentations.train.2.init_args.p",
        "trainer.max_epochs",
    ]
    assert list(short_names(keys).values()) == [
        "optimizer_config.lr", "train.1.p", "train.2.p", "max_epochs",
    ]  # fmt: skip


def test_pictures_leave_the_callers_own_alone(open_study: Any, workplace: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    study = open_study({"n_trials": 3})
    fill(study, 3, lambda number: (float(number),))
    assert write_plots(study, workplace)
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["$\\frac$", "学习率", "a" * 90])
def test_pictures_can_be_drawn_of_any_name(open_study: Any, workplace: Path, name: str) -> None:
    space = {"model.x": {"distribution": "categorical", "choices": [name, "b", True]}}
    study = open_study({"n_trials": 6, "search_spaces": space})
    fill(study, 6, lambda number: (float(number),))
    assert "Parallel coordinates" in write_plots(study, workplace)
