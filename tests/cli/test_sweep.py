"""Sweeps over real trainings, by both launchers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from classifier.entry import main
from classifier.errors import ConfigError
from classifier.tuning.launching import LAUNCHERS
from classifier.tuning.summary import SweepResult
from tests.tuning.conftest import wait_until_gone

ROOT = Path(__file__).parents[2]
LR = "model.init_args.optimizer_config.lr"
# A process of its own for every trial takes its time to import everything.
launchers = pytest.mark.parametrize(
    "launcher",
    [pytest.param(name, marks=[pytest.mark.long] * (name == "subprocess")) for name in LAUNCHERS],
)


@pytest.fixture
def sweeping(config: dict[str, Any]) -> dict[str, Any]:
    config["optuna"] = {
        "tune": True,
        "n_trials": 2,
        "direction": "maximize",
        "metric": "validation_f1_score",
        "search_spaces": {LR: {"distribution": "loguniform", "low": 1e-4, "high": 1e-2}},
    }
    return config


def study_of(folder: Path, name: str = "colours") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/runs/{name}/study.db")


@launchers
def test_sweep_trains_each_trial_and_leaves_a_configuration_that_trains(
    launcher: str, sweeping: dict[str, Any], save: Any, workplace: Path, capfd: Any
) -> None:
    flip = "data.init_args.augmentations.train.1.init_args.p"
    sweeping["optuna"]["search_spaces"][flip] = {
        "distribution": "categorical",
        "choices": [0.0, 0.5],
    }
    result = main(["--config", save(sweeping), "--optuna.launcher", launcher])
    assert isinstance(result, SweepResult)
    assert result.status == "completed"
    assert result.num_complete == 2
    assert capfd.readouterr().out.splitlines()[0] == "runs/colours"
    # What the first trial was computed in, for all others.
    (speed,) = json.loads((workplace / "runs/colours/speed.json").read_text()).values()
    assert speed["precision"] == "32-true"
    found = study_of(workplace)
    assert found.trials[0].params == {LR: 0.003, flip: 0.5}
    for trial in found.trials:
        folder = workplace / f"runs/colours/trials/{trial.number:04d}"
        own = json.loads((folder / "result.json").read_text())
        assert own["status"] == "completed"
        assert trial.value == own["best_metrics"]["validation_f1_score"]
        assert trial.value == own["best_score"]
        resolved = yaml.safe_load((folder / "config.yaml").read_text())
        assert resolved["model"]["init_args"]["optimizer_config"]["lr"] == trial.params[LR]
        assert "optuna" not in resolved
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        values = {int(r["epoch"]): float(r["validation_f1_score"]) for r in rows}
        assert trial.intermediate_values == values
    again = main(["--config", "runs/colours/best_config.yaml"])
    assert again is not None
    assert again.best_score == pytest.approx(found.best_value, abs=1e-6)
    assert again.output_dir.startswith("runs/colours-best/")
    # The study's folder stands for its best checkpoint.
    tested = main(["--test", "--ckpt_path", "runs/colours"])
    assert tested is not None
    assert "test_f1_score" in tested.metrics


@launchers
def test_trial_is_pruned_in_the_middle_of_its_training(
    launcher: str, sweeping: dict[str, Any], save: Any, workplace: Path
) -> None:
    sweeping["trainer"]["max_epochs"] = 400
    sweeping["optuna"] |= {
        "launcher": launcher,
        "n_trials": 1,
        "pruner": {
            "class_path": "ThresholdPruner",
            "init_args": {"lower": 2.0, "n_warmup_steps": 2},
        },
    }
    with pytest.raises(Exception, match="no trial completed"):
        main(["--config", save(sweeping)])
    (trial,) = study_of(workplace).trials
    assert trial.state is TrialState.PRUNED
    assert trial.last_step is not None
    assert 2 <= trial.last_step < 399
    own = json.loads((workplace / "runs/colours/trials/0000/result.json").read_text())
    assert own["status"] == "interrupted"  # it ended by itself, with a checkpoint
    assert (workplace / "runs/colours/trials/0000/checkpoints/last.ckpt").is_file()


@launchers
def test_trial_whose_loss_explodes_fails_and_the_sweep_goes_on(
    launcher: str, sweeping: dict[str, Any], save: Any, workplace: Path
) -> None:
    sweeping["optuna"]["launcher"] = launcher
    sweeping["optuna"]["search_spaces"] = {
        LR: {"distribution": "categorical", "choices": [1e30, 3e-3]}
    }
    sweeping["optuna"]["sampler"] = {
        "class_path": "GridSampler",
        "init_args": {"search_space": {LR: [1e30]}},
    }
    result = main(["--config", save(sweeping)])
    assert isinstance(result, SweepResult)
    assert (result.num_complete, result.num_failed) == (1, 1)
    failed = study_of(workplace).trials[1]
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["reason"].startswith("exit code 1: the loss became nan")


def test_killed_sweep_goes_on_from_its_checkpoints(
    sweeping: dict[str, Any], save: Any, workplace: Path
) -> None:
    sweeping["trainer"]["max_epochs"] = 30
    sweeping["optuna"]["pruner"] = "NopPruner"
    command = [sys.executable, str(ROOT / "main.py"), "--config", save(sweeping)]
    first = workplace / "runs/colours/trials/0000"
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (first / "checkpoints/last.ckpt").is_file():
        assert time.monotonic() < end
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    end = time.monotonic() + 10
    while processes_in(workplace):  # the child writes its checkpoint and ends
        assert time.monotonic() < end
        time.sleep(0.05)
    result = main(["--config", "cfg.yaml"])
    assert isinstance(result, SweepResult)
    trials = study_of(workplace).trials
    repeated = next(t for t in trials if t.user_attrs.get("retry_of") == 0)
    assert trials[0].state is TrialState.FAIL
    assert repeated.state is TrialState.COMPLETE
    own = json.loads(
        (workplace / f"runs/colours/trials/{repeated.number:04d}/result.json").read_text()
    )
    assert own["checkpoint"].endswith("trials/0000/checkpoints/last.ckpt")
    # The same numbers as a training that was never interrupted.
    alone = main(["--config", "cfg.yaml", "--optuna.tune", "false"])
    assert alone is not None
    assert own["metrics"]["validation_loss"] == alone.metrics["validation_loss"]
    assert repeated.value == alone.best_score


def test_orphaned_training_ends_within_ten_seconds(
    sweeping: dict[str, Any], save: Any, workplace: Path
) -> None:
    sweeping["trainer"]["max_epochs"] = 10_000
    sweeping["data"]["init_args"]["num_workers"] = 1
    command = [sys.executable, str(ROOT / "main.py"), "--config", save(sweeping)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics = workplace / "runs/colours/trials/0000/metrics.csv"
    end = time.monotonic() + 90
    while not metrics.is_file():
        assert time.monotonic() < end
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    working = processes_in(workplace)
    assert len(working) >= 3  # the driver, a trial, its worker
    driver.kill()
    driver.communicate()
    wait_until_gone(*working)


def processes_in(folder: Path) -> list[int]:
    """Processes whose working folder this is, the tests' own left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = os.readlink(process / "cwd")
        except OSError:
            continue
        if Path(here) == folder and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_made(
    sweeping: dict[str, Any], save: Any, workplace: Path
) -> None:
    sweeping["optuna"] |= {
        "metric": "val_f1_score",
        "direction": "maximise",
        "n_trial": 3,
        "search_spaces": {
            LR: {"distribution": "loguniform", "low": 0, "high": 1},
            "model.init_args.optimizer_config.lrr": {"distribution": "uniform", "low": 0, "high": 1},
            "model.init_args.freeze_encoder": {"distribution": "uniform", "low": 0, "high": 2},
            "model.init_args.model_name": {"distribution": "categorical", "choices": ["timm/resnet1000"]},
            "trainer.max_epoch": {"distribution": "int", "low": 1, "high": 2},
            "data.init_args.batch_size": {"distribution": "uniform", "low": 1.5, "high": 2},
            "data.init_args.augmentations.train.7.init_args.p": {"distribution": "uniform", "low": 0, "high": 1},
        },
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(sweeping)])
    spaces = "optuna.search_spaces"
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "optuna.n_trial",
        "optuna.direction",
        f"{spaces}.{LR}.low",
        "optuna.metric",
        f"{spaces}.model.init_args.optimizer_config.lrr",
        f"{spaces}.model.init_args.freeze_encoder",
        f"{spaces}.model.init_args.model_name",
        f"{spaces}.trainer.max_epoch",
        f"{spaces}.data.init_args.batch_size",
        f"{spaces}.data.init_args.augmentations.train.7.init_args.p",
    ]
    assert "Did you mean 'validation_f1_score'?" in str(caught.value)
    assert "Did you mean 'max_epochs'?" in str(caught.value)
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "validation_loss"}, "optuna.direction: maximize would look for the worst validation_loss"),
        ({"tune": "yes"}, "optuna.tune: must be true or false, got 'yes'"),
    ],
)  # fmt: skip
def test_sweep_is_refused_when_its_section_makes_no_sense(
    change: dict[str, Any], message: str, sweeping: dict[str, Any], save: Any
) -> None:
    sweeping["optuna"] |= change
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(sweeping)])
    assert message in str(caught.value)


def test_sweep_cannot_resume_a_training(sweeping: dict[str, Any], save: Any) -> None:
    with pytest.raises(ConfigError, match="ckpt_path: trials cannot resume a training"):
        main(["--config", save(sweeping), "--ckpt_path", "last"])


def test_check_covers_the_section(sweeping: dict[str, Any], save: Any, capsys: Any) -> None:
    sweeping["optuna"]["search_spaces"][LR]["high"] = 2e-3
    result = main(["--check", "--config", save(sweeping)])
    assert result is not None and result.status == "completed"
    said = capsys.readouterr().out
    assert f"sweep: 2 trials, maximize validation_f1_score; 1 searched: {LR}\n" in said
    assert f"sweep: the configuration's own {LR} lies outside of its search space\n" in said
    sweeping["optuna"]["search_spaces"][LR]["high"] = 0
    with pytest.raises(ConfigError, match=f"optuna.search_spaces.{LR}.low"):
        main(["--check", "--config", save(sweeping)])


def test_file_with_a_sweep_trains_once_when_told_so(sweeping: dict[str, Any], save: Any) -> None:
    result = main(["--config", save(sweeping), "--optuna.tune", "false"])
    assert result is not None
    assert result.mode == "train"


def test_print_config_shows_the_section(sweeping: dict[str, Any], save: Any, capsys: Any) -> None:
    assert main(["--print_config", "--config", save(sweeping)]) is None
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["optuna"]["search_spaces"][LR]["low"] == 1e-4


def test_confirmed_sweep_says_what_the_seeds_say(
    sweeping: dict[str, Any], save: Any, workplace: Path, capfd: Any
) -> None:
    sweeping["optuna"] |= {"n_trials": 3, "confirm": {"top_k": 1, "seeds": 2}}
    result = main(["--config", save(sweeping)])
    assert isinstance(result, SweepResult)
    said = capfd.readouterr().out
    assert result.verdict[0] in said
    assert "over 2 seeds" in result.verdict[1]
    runs = sorted((workplace / "runs/colours/confirm").glob("*/*/config.yaml"))
    seeds = [yaml.safe_load(file.read_text())["seed_everything"] for file in runs]
    assert sorted(seeds) == [8, 8, 9, 9]
    assert f"# {result.verdict[0]}" in (workplace / "runs/colours/best_config.yaml").read_text()
    page = (workplace / "runs/colours/report/index.html").read_text()
    assert "Repeated over seeds" in page
    assert "<th>seed 8</th><th>seed 9</th>" in page
    # A second start finds everything done.
    again = main(["--config", "cfg.yaml"])
    assert isinstance(again, SweepResult)
    assert again.verdict == result.verdict


@pytest.mark.long
def test_trial_of_two_devices_is_a_command_of_its_own(
    sweeping: dict[str, Any], save: Any, workplace: Path, capfd: Any
) -> None:
    sweeping["trainer"] |= {"devices": 2, "strategy": "ddp"}
    sweeping["optuna"]["n_trials"] = 1
    result = main(["--config", save(sweeping)])
    assert isinstance(result, SweepResult)
    assert result.num_complete == 1
    assert "a trial uses 2 devices: each is a process of its own" in capfd.readouterr().err
    output = (workplace / "runs/colours/trials/0000/output.txt").read_text()
    assert "2 x cpu" in output
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_in(workplace)]
    assert not [command for command in commands if b"main.py" in command]
