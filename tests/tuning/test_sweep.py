"""Whole sweeps over a fake training: nothing is lost, nothing runs twice, every fault is told."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy
import yaml
from optuna.trial import TrialState

from classifier.errors import ConfigError
from classifier.runs import find_checkpoint
from classifier.tuning.trials import MOST_CRASHES
from tests.tuning.conftest import (
    ROOT,
    SECRET,
    SPACE,
    Sweep,
    alive,
    shared_trials,
    starts,
    study,
    tree,
    wait_until_gone,
)
from tests.tuning.fake_training import curve


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def counted(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """Trials that stand for themselves: begun, and not repeated by another one."""
    repeated = {trial.user_attrs.get("retry_of") for trial in trials}
    return [t for t in trials if t.number not in repeated and t.state.is_finished()]


def test_sweep_leaves_everything_that_the_contract_names(run_sweep: Any, workplace: Path) -> None:
    code, out, err = run_sweep(tree(n_trials=12), "pictures")
    assert code == 0, err
    folder = workplace / "runs" / "study"
    assert out.splitlines()[0] == out.splitlines()[-1] == "runs/study"
    assert "optuna-dashboard" in err
    found = study(workplace)
    assert [t.number for t in found.trials] == list(range(12))
    assert found.trials[0].params == {"model.x": 0.9}  # the configuration's own
    best = yaml.safe_load((folder / "best_config.yaml").read_text())
    assert best["model"]["x"] == found.best_params["model.x"]
    assert "optuna" not in best
    rows = read_table(folder / "trials.csv")
    assert [int(row["number"]) for row in rows] == list(range(12))
    assert [row["is_best"] for row in rows].index("True") == found.best_trial.number
    for trial in found.trials:
        if trial.state is TrialState.COMPLETE:
            assert trial.value == pytest.approx(curve(trial.params["model.x"], 3))
        config = yaml.safe_load((folder / f"trials/{trial.number:04d}/config.yaml").read_text())
        assert config["model"]["x"] == trial.params["model.x"]
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["best_score"] == found.best_value
    names = {file.name for file in (folder / "report").iterdir()}
    assert {"index.html", "history.png", "importance.png", "parallel_coordinates.png"} <= names
    assert "intermediate_values.png" in names


def test_pruning_decisions_are_those_of_optuna_in_one_process(
    run_sweep: Any, workplace: Path
) -> None:
    pruner = {"class_path": "MedianPruner", "init_args": {"n_startup_trials": 2}}
    content = tree(n_trials=15, pruner=pruner)
    content["trainer"]["pause"] = 0.01
    assert run_sweep(content)[0] == 0
    swept = study(workplace).trials
    alone = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2)
    )
    for trial in swept:
        alone.enqueue_trial(trial.params)

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("model.x", 0.0, 1.0)
        for epoch in range(4):
            trial.report(curve(x, epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return curve(x, 3)

    alone.optimize(objective, n_trials=15)
    assert [t.state for t in swept] == [t.state for t in alone.trials]
    assert [t.intermediate_values for t in swept] == [t.intermediate_values for t in alone.trials]
    assert TrialState.PRUNED in {t.state for t in swept}
    assert [t.value for t in swept] == [t.value for t in alone.trials]


FAILING = {
    **SPACE,
    "model.behaviour": {"distribution": "categorical", "choices": ["well", "error"]},
}
REASONS = {
    "killed": "killed by SIGKILL",
    "error": "exit code 1: model.x: is broken.",
    "traceback": "exit code 1: RuntimeError: the roof is on fire",
    "silent": "exit code 0, but there is no result.json",
    "nan": "validation_f1_score is None, which is not finite",
    "garbage": "exit code 0, but result.json is no JSON",
}


def test_trial_counts_only_with_a_whole_finite_result(run_sweep: Any, workplace: Path) -> None:
    kinds = ["well", *REASONS]
    space = {"model.behaviour": {"distribution": "categorical", "choices": kinds}}
    grid = {"class_path": "GridSampler", "init_args": {"search_space": {"model.behaviour": kinds}}}
    content = tree(n_trials=8, search_spaces=space, sampler=grid)
    content["model"]["behaviour"] = "well"
    code, _, err = run_sweep(content)
    assert code == 0, err
    trials = {trial.params["model.behaviour"]: trial for trial in study(workplace).trials}
    assert set(trials) == set(kinds)
    for kind, reason in REASONS.items():
        assert trials[kind].state is TrialState.FAIL
        assert trials[kind].user_attrs["reason"] == reason
        assert f"failed: {reason}" in err
    assert trials["well"].state is TrialState.COMPLETE
    assert "in _misbehave" in trials["traceback"].user_attrs["log_tail"]


def test_same_failure_is_told_once(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=10, search_spaces=FAILING, sampler="RandomSampler")
    content["model"]["behaviour"] = "well"
    code, _, err = run_sweep(content)
    assert code == 0, err
    assert sum(t.state is TrialState.FAIL for t in study(workplace).trials) > 1
    assert err.count("is broken") == 1
    assert "failed: for the same reason" in err


def test_sweep_gives_up_when_its_first_three_trials_fail(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=20)
    content["model"]["behaviour"] = "error"
    code, out, err = run_sweep(content)
    assert code == 1
    assert len(study(workplace).trials) == 3
    assert err.endswith("the first 3 trials all failed: exit code 1: model.x: is broken.\n")
    assert err.count("is broken") == 2  # when it happened, and at the end
    assert out.splitlines()[-1] == "runs/study"
    result = json.loads((workplace / "runs/study/result.json").read_text())
    assert result["status"] == "failed"


def test_max_failures_ends_a_sweep_that_has_results(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=40, search_spaces=FAILING, max_failures=2, sampler="RandomSampler")
    content["model"]["behaviour"] = "well"
    code, _, err = run_sweep(content)
    assert code == 0
    assert "the sweep ended early: 2 trials failed, which is optuna.max_failures" in err
    assert sum(t.state is TrialState.FAIL for t in study(workplace).trials) == 2


def test_hanging_trial_is_killed_when_its_time_is_over(run_sweep: Any, workplace: Path) -> None:
    space = {**SPACE, "model.behaviour": {"distribution": "categorical", "choices": ["hangs"]}}
    content = tree(n_trials=1, search_spaces=space, trial_timeout_seconds=0.3)
    content["model"]["behaviour"] = "hangs"
    code, _, err = run_sweep(content, "impatient")
    assert code == 1
    assert "took longer than trial_timeout_seconds (0.3 s)" in err
    (trial,) = study(workplace).trials
    assert trial.state is TrialState.FAIL
    assert not alive(int(starts(workplace)[0][1]))


def test_resumed_sweep_reaches_its_total_and_draws_what_a_whole_one_draws(
    run_sweep: Any, workplace: Path
) -> None:
    assert run_sweep(tree(n_trials=5))[0] == 0
    assert run_sweep(tree(n_trials=14))[0] == 0
    assert run_sweep(tree(n_trials=14))[0] == 0
    drawn = [trial.params["model.x"] for trial in study(workplace).trials]
    assert len(set(drawn)) == len(drawn) == 14
    assert len(starts(workplace)) == 14
    assert run_sweep(tree(n_trials=14, study_name="whole"))[0] == 0
    assert drawn == [trial.params["model.x"] for trial in study(workplace, "whole").trials]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"direction": "minimize"}, "optuna.objectives was [['validation_f1_score', 'maximize']]"),
        ({"metric": "train_loss"}, "optuna.objectives was"),
        (
            {"search_spaces": {"model.x": {"distribution": "uniform", "low": 0, "high": 2}}},
            "optuna.search_spaces.model.x.distribution.high was 1.0 and is 2.0",
        ),
    ],
)
def test_changed_study_is_refused_with_the_difference(
    run_sweep: Any, workplace: Path, change: dict[str, Any], told: str
) -> None:
    assert run_sweep(tree(n_trials=2))[0] == 0
    code, _, err = run_sweep(tree(n_trials=4, **change))
    assert code == 2
    assert told in err
    assert "Use a new study_name" in err
    assert len(study(workplace).trials) == 2


def test_changed_configuration_is_told(run_sweep: Any) -> None:
    run_sweep(tree(n_trials=2))
    content = tree(n_trials=3)
    content["trainer"]["max_epochs"] = 5
    code, _, err = run_sweep(content)
    assert code == 0
    assert "trials may not compare: trainer.max_epochs was 4 and is 5" in err


def test_signal_to_every_process_of_a_job_loses_no_trial(workplace: Path) -> None:
    content = tree(n_trials=3, n_jobs=2, pruner="NopPruner")
    content["trainer"].update(pause=0.2, max_epochs=8)
    sweep = Sweep(workplace, content)
    sweep.until_started(2)
    for start in starts(workplace):
        os.kill(int(start[1]), signal.SIGTERM)
    sweep.process.send_signal(signal.SIGTERM)
    assert sweep.wait()[0] == 143
    content["trainer"]["pause"] = 0.01
    assert Sweep(workplace, content).wait()[0] == 0
    trials = study(workplace).trials
    assert [t.state for t in counted(trials)] == [TrialState.COMPLETE] * 3
    assert trials[0].params in [t.params for t in counted(trials)]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_sweep_needs_nobody_to_listen(workplace: Path, closed: str) -> None:
    (workplace / "cfg.yaml").write_text(yaml.safe_dump(tree(n_trials=2)))
    command = f"{sys.executable} -m tests.tuning.fake_driver cfg.yaml {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=workplace, env=environment, check=False)
    assert done.returncode == 0
    assert [t.state for t in study(workplace).trials] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_sweep_that_goes_on_later(workplace: Path, signum: int) -> None:
    content = tree(n_trials=4, n_jobs=2, pruner="NopPruner")
    content["trainer"].update(pause=0.2, max_epochs=8)
    sweep = Sweep(workplace, content)
    sweep.until(lambda: len(list(workplace.glob("runs/study/trials/*/checkpoints/last.ckpt"))) == 2)
    sweep.process.send_signal(signum)
    code, out, _ = sweep.wait()
    assert code == 128 + signum
    assert "2 to be repeated" in out
    assert out.splitlines()[-1] == "runs/study"
    assert not any(alive(int(start[1])) for start in starts(workplace))
    states = [trial.state for trial in study(workplace).trials]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING, TrialState.WAITING]
    content["trainer"]["pause"] = 0.01
    assert Sweep(workplace, content).wait()[0] == 0
    found = study(workplace)
    assert [t.state for t in counted(found.trials)] == [TrialState.COMPLETE] * 4
    repeats = [t for t in found.trials if "retry_of" in t.user_attrs]
    assert [t.params for t in repeats] == [t.params for t in found.trials[:2]]
    # They went on from their checkpoints, and told the values of the epochs before.
    assert all(int(first) > 0 for _, _, first, _ in starts(workplace)[2:4])
    assert all(sorted(t.intermediate_values) == list(range(8)) for t in repeats)


def test_killed_sweep_loses_no_trial_and_leaves_no_process(workplace: Path) -> None:
    content = tree(n_trials=12, n_jobs=2, pruner="NopPruner")
    content["trainer"].update(pause=0.1, max_epochs=6)
    for attempt in range(MOST_CRASHES - 1):  # a busy machine may get no epoch further in any
        sweep = Sweep(workplace, content)
        sweep.until_started(1)
        time.sleep(0.15 + 0.07 * (attempt % 5))
        sweep.kill()
        wait_until_gone(*(int(start[1]) for start in starts(workplace)))
    code, _, err = Sweep(workplace, content).wait()
    assert code == 0, err
    found = study(workplace)
    assert len(counted(found.trials)) == 12
    ended_otherwise = [t for t in counted(found.trials) if t.state is not TrialState.COMPLETE]
    assert not ended_otherwise, err
    assert not [t for t in found.trials if t.state is TrialState.RUNNING]
    repeated = [t.user_attrs["retry_of"] for t in found.trials if "retry_of" in t.user_attrs]
    assert len(repeated) == len(set(repeated)) > 0  # each once
    # A trial that completed was never run again.
    state = {t.number: t.state for t in found.trials}
    assert all(state[number] is not TrialState.COMPLETE for number in repeated)


def test_second_sweep_on_the_same_sqlite_study_is_refused(workplace: Path) -> None:
    content = tree(n_trials=500)
    content["trainer"]["pause"] = 0.3
    first = Sweep(workplace, content)
    first.until(lambda: len(starts(workplace)) > 0)
    code, _, err = Sweep(workplace, content).wait()
    trials = len(starts(workplace))
    first.until(lambda: len(starts(workplace)) > trials)  # it goes on undisturbed
    first.kill()
    assert code == 2
    assert "another sweep is working on this study" in err


def test_each_trial_of_a_pool_has_a_device_of_its_own(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=6, devices=[0, 2])
    content["trainer"]["pause"] = 0.05
    assert run_sweep(content, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b,GPU-c")[0] == 0
    assert {start[3] for start in starts(workplace)} == {"GPU-a", "GPU-c"}


def test_sweep_starts_no_trial_after_its_time(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=500, timeout_seconds=1.5)
    code, _, _ = run_sweep(content)
    assert code == 0
    trials = study(workplace).trials
    assert 0 < len(trials) < 500
    assert all(t.state.is_finished() for t in trials)


def test_conditional_and_named_choices_reach_the_trials(run_sweep: Any, workplace: Path) -> None:
    space = {
        **SPACE,
        "model.optimizer": {
            "distribution": "categorical",
            "choices": [{"name": "AdamW", "lr": 0.001}, {"name": "SGD", "nesterov": True}],
        },
        "model.optimizer.momentum": {
            "distribution": "uniform", "low": 0.5, "high": 0.9, "when": {"model.optimizer": "SGD"},
        },
    }  # fmt: skip
    content = tree(n_trials=12, search_spaces=space)
    content["model"]["optimizer"] = {"name": "AdamW", "lr": 0.001}
    assert run_sweep(content)[0] == 0
    trials = study(workplace).trials
    assert trials[0].params == {"model.x": 0.9, "model.optimizer": "AdamW"}
    assert {t.params["model.optimizer"] for t in trials} == {"AdamW", "SGD"}
    for trial in trials:
        file = workplace / f"runs/study/trials/{trial.number:04d}/config.yaml"
        optimizer = yaml.safe_load(file.read_text())["model"]["optimizer"]
        if trial.params["model.optimizer"] == "SGD":
            momentum = trial.params["model.optimizer.momentum"]
            assert optimizer == {"name": "SGD", "nesterov": True, "momentum": momentum}
        else:
            assert optimizer == {"name": "AdamW", "lr": 0.001}
            assert "model.optimizer.momentum" not in trial.params


def test_own_value_outside_of_the_space_is_told_and_kept(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=3)
    content["model"]["x"] = 7.0
    code, _, err = run_sweep(content)
    assert code == 0
    assert "trial 0 keeps the configuration's own model.x, which lies outside" in err
    first = study(workplace).trials[0]
    assert first.params == {}
    assert first.value == pytest.approx(curve(7.0, 3))
    rows = read_table(workplace / "runs/study/trials.csv")
    assert rows[0]["params_model.x"] == "7.0"  # what it ran with


def test_trial_queued_by_hand_with_misspelt_values_fails(run_sweep: Any, workplace: Path) -> None:
    run_sweep(tree(n_trials=1))
    study(workplace).enqueue_trial({"model.x": 5.0, "model.y": 1})
    code, _, _ = run_sweep(tree(n_trials=3))
    assert code == 0
    queued = study(workplace).trials[1]
    assert queued.state is TrialState.FAIL
    assert "outside of the search space: model.y, model.x" in queued.user_attrs["reason"]


def test_several_objectives_give_a_front_and_a_configuration_for_each_point(
    run_sweep: Any, workplace: Path
) -> None:
    content = tree(n_trials=8)
    content["trainer"]["precision"] = "auto"
    section = content["optuna"]
    del section["metric"], section["direction"]
    section["metrics"] = ["validation_f1_score", "num_parameters"]
    section["directions"] = ["maximize", "minimize"]
    code, out, err = run_sweep(content)
    assert code == 0, err
    front = sorted(t.number for t in study(workplace).best_trials)
    assert f"Pareto front: trials {', '.join(map(str, front))}" in out
    folder = workplace / "runs/study"
    files = sorted(file.name for file in folder.glob("best_config*.yaml"))
    assert files == [f"best_config_{number:04d}.yaml" for number in front]
    for number, file in zip(front, files, strict=True):
        point = yaml.safe_load((folder / file).read_text())
        assert point["trainer"]["precision"] == f"measured-{number:04d}"
    rows = read_table(folder / "trials.csv")
    assert [int(r["number"]) for r in rows if r["is_best"] == "True"] == front
    with pytest.raises(ConfigError) as caught:
        find_checkpoint("runs/study")
    assert f"runs/study/trials/{front[0]:04d}" in str(caught.value)


def test_study_name_stays_below_the_runs_folder(run_sweep: Any, workplace: Path) -> None:
    assert run_sweep(tree(n_trials=1, study_name="../../x"))[0] == 0
    assert (workplace / "runs" / "x" / "study.db").is_file()


@pytest.mark.parametrize(
    "sampler",
    [
        {"class_path": "GridSampler", "init_args": {"search_space": {"model.x": [0.2, 0.4, 0.6]}}},
        "BruteForceSampler",
    ],
)
def test_sweep_ends_when_its_sampler_has_tried_everything(
    run_sweep: Any, workplace: Path, sampler: Any
) -> None:
    space = {"model.x": {"distribution": "categorical", "choices": [0.2, 0.4, 0.6]}}
    content = tree(n_trials=30, sampler=sampler, search_spaces=space)
    content["model"]["x"] = 0.4
    for _ in range(2):
        code, _, err = run_sweep(content)
        assert code == 0, err
        assert "the sampler has tried everything" in err
    trials = study(workplace).trials
    assert len(trials) < 6
    assert {t.params["model.x"] for t in trials} == {0.2, 0.4, 0.6}


def test_brute_force_is_refused_when_the_own_value_is_no_choice(run_sweep: Any) -> None:
    space = {"model.x": {"distribution": "categorical", "choices": [0.2, 0.4]}}
    code, _, err = run_sweep(tree(sampler="BruteForceSampler", search_spaces=space))
    assert code == 2
    assert "optuna.search_spaces.model.x: BruteForceSampler needs" in err


@pytest.mark.parametrize(
    "sampler", ["RandomSampler", "NSGAIISampler", "QMCSampler", "GPSampler", "TPESampler"]
)
def test_samplers_of_optuna_draw_something_new_each_time(
    run_sweep: Any, workplace: Path, sampler: str
) -> None:
    code, _, err = run_sweep(tree(n_trials=6, sampler=sampler))
    assert code == 0, err
    assert len({t.params["model.x"] for t in study(workplace).trials}) == 6


def test_sweep_over_pure_noise_finds_no_improvement(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=12, confirm={"top_k": 3, "seeds": 4}, n_jobs=2, pruner="NopPruner")
    content["model"]["noise"] = 0.05
    code, out, err = run_sweep(content)
    assert code == 0, err
    result = json.loads((workplace / "runs/study/result.json").read_text())
    assert (
        result["metrics"]["validation_f1_score"] > result["default_metrics"]["validation_f1_score"]
    )
    assert "No evidence of an improvement over the default." in out
    heading = (workplace / "runs/study/best_config.yaml").read_text().splitlines()[1]
    assert heading == "# No evidence of an improvement over the default."


def test_confirmed_improvement_is_told_with_its_spread(run_sweep: Any, workplace: Path) -> None:
    content = tree(n_trials=8, confirm={"top_k": 1, "seeds": 3}, pruner="NopPruner")
    code, out, err = run_sweep(content)
    assert code == 0, err
    best = study(workplace).best_trial.number
    gain = curve(study(workplace).best_params["model.x"], 3) - curve(0.9, 3)
    assert f"Trial {best} is better than the default by {gain:.4g} +- 0" in out
    assert len(study(workplace).trials) == 8  # the repetitions are no trials of the study
    result = json.loads((workplace / "runs/study/result.json").read_text())
    assert {number: list(of) for number, of in result["confirmed"].items()} == {
        "0": ["2", "3", "4"], str(best): ["2", "3", "4"],
    }  # fmt: skip


def test_best_config_and_repetitions_have_what_each_trial_measured_when_it_was_left_open(
    run_sweep: Any, workplace: Path
) -> None:
    content = tree(n_trials=6, confirm={"top_k": 1, "seeds": 2}, pruner="NopPruner")
    content["trainer"]["precision"] = "auto"
    content["data"] = {"init_args": {"num_workers": 3}}
    code, _, err = run_sweep(content)
    assert code == 0, err
    folder = workplace / "runs/study"
    result = json.loads((folder / "result.json").read_text())
    best = yaml.safe_load((folder / "best_config.yaml").read_text())
    assert best["trainer"]["precision"] == f"measured-{result['best_trial']:04d}"
    assert best["data"] == content["data"]
    repeated = [yaml.safe_load(f.read_text()) for f in folder.glob("confirm/*/*/config.yaml")]
    candidates = [f"measured-{int(number):04d}" for number in result["confirmed"]]
    assert sorted(config["trainer"]["precision"] for config in repeated) == sorted(candidates * 2)
    shutil.rmtree(folder / f"trials/{result['best_trial']:04d}")  # as of another host
    code, _, err = run_sweep(content)
    assert code == 0
    assert f"what trial {result['best_trial']} chose as trainer.precision" in err
    best = yaml.safe_load((folder / "best_config.yaml").read_text())
    assert best["trainer"]["precision"] == "auto"


def test_live_lines_on_a_terminal_and_plain_ones_elsewhere(workplace: Path) -> None:
    content = tree(n_trials=3, n_jobs=2)
    content["trainer"]["pause"] = 0.3
    (workplace / "cfg.yaml").write_text(yaml.safe_dump(content))
    main, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tuning.fake_driver", "cfg.yaml"],
        cwd=workplace, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        stdout=subprocess.DEVNULL, stderr=child,
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while data := os.read(main, 65536):
            shown += data
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert process.wait(timeout=30) == 0
    text = shown.decode()
    assert re.search(
        r"trial 0 \|.*\| 2/4 epochs, 00:0\d left, validation_f1_score 0\.4800", text
    ), text
    assert "\x1b[A" in text  # two lines at a time: the cursor goes up
    assert "trial 2 completed, validation_f1_score" in text


# PostgreSQL


def test_three_drivers_on_postgresql_share_the_trials(workplace: Path, postgres: str) -> None:
    content = tree(n_trials=20, study_name="shared", storage="${STUDY_URL}", n_jobs=2)
    sweeps = [Sweep(workplace, content, {"STUDY_URL": postgres}) for _ in range(3)]
    for sweep in sweeps:
        code, _, err = sweep.wait()
        assert code == 0, err
    trials = shared_trials(postgres, "shared")
    assert [t.number for t in trials] == list(range(20))
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    assert len({t.params["model.x"] for t in trials}) == 20
    ran = [start[0] for start in starts(workplace)]
    assert sorted(ran) == [f"{number:04d}" for number in range(20)]  # no trial twice
    drivers = {t.user_attrs["driver"] for t in trials}
    assert len(drivers) == 3


def test_killed_drivers_on_postgresql_lose_no_trial(workplace: Path, postgres: str) -> None:
    content = tree(n_trials=10, study_name="killed", storage=postgres, pruner="NopPruner")
    content["trainer"].update(pause=0.05, max_epochs=6)
    for _ in range(4):
        pair = [Sweep(workplace, content) for _ in range(2)]
        pair[0].until_started(2)
        pair[0].kill()
        pair[1].kill()
    code, _, err = Sweep(workplace, content).wait()
    assert code == 0, err
    trials = shared_trials(postgres, "killed")
    assert len(counted(trials)) == 10
    assert all(t.state is TrialState.COMPLETE for t in counted(trials))
    repeated = [t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs]
    assert len(repeated) == len(set(repeated)) > 0


def test_trial_of_a_silent_driver_on_another_host_runs_again(
    workplace: Path, postgres: str
) -> None:
    content = tree(n_trials=2, study_name="silent", storage=postgres, pruner="NopPruner")
    assert (
        Sweep(workplace, {**content, "optuna": {**content["optuna"], "n_trials": 1}}).wait()[0] == 0
    )
    storage = optuna.storages.RDBStorage(postgres)
    elsewhere = optuna.load_study(study_name="silent", storage=storage)
    lost = elsewhere.ask()
    lost.suggest_float("model.x", 0.0, 1.0)
    lost.set_user_attr("driver", "another-host.0123456789ab.lock")
    storage.record_heartbeat(lost._trial_id)
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                f"UPDATE trial_heartbeats SET heartbeat = now() - interval '1 hour' WHERE trial_id = {lost._trial_id}"
            )
        )
    storage.remove_session()
    storage.engine.dispose()
    assert Sweep(workplace, content).wait()[0] == 0
    trials = shared_trials(postgres, "silent")
    assert trials[1].state is TrialState.FAIL
    assert trials[2].user_attrs["retry_of"] == 1
    assert trials[2].params == trials[1].params
    assert trials[2].state is TrialState.COMPLETE


def test_trial_of_a_living_driver_on_another_host_is_left_alone(
    workplace: Path, postgres: str
) -> None:
    content = tree(n_trials=2, study_name="living", storage=postgres, timeout_seconds=2)
    assert (
        Sweep(workplace, {**content, "optuna": {**content["optuna"], "n_trials": 1}}).wait()[0] == 0
    )
    storage = optuna.storages.RDBStorage(postgres)
    other = optuna.load_study(study_name="living", storage=storage).ask()
    other.set_user_attr("driver", "another-host.0123456789ab.lock")
    storage.record_heartbeat(other._trial_id)
    storage.remove_session()
    storage.engine.dispose()
    assert Sweep(workplace, content).wait()[0] == 0
    trials = shared_trials(postgres, "living")
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_sweep_waits_for_a_database_that_is_away(workplace: Path, postgres: str) -> None:
    content = tree(n_trials=3, study_name="away", storage=postgres, pruner="NopPruner")
    content["trainer"]["pause"] = 0.3
    sweep = Sweep(workplace, content)
    sweep.until_started(1)
    address = sqlalchemy.make_url(postgres).set(drivername="postgresql")
    with psycopg.connect(
        address.render_as_string(hide_password=False), autocommit=True
    ) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    code, _, err = sweep.wait()
    assert code == 0, err
    trials = shared_trials(postgres, "away")
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3


def test_password_of_the_storage_reaches_no_file_and_no_log(workplace: Path, postgres: str) -> None:
    content = tree(n_trials=2, study_name="secret", storage=postgres.replace(SECRET, "${PW}"))
    code, out, err = Sweep(workplace, content, {"PW": SECRET}).wait()
    assert code == 0, err
    assert "${PW}" in err  # the command to watch it with
    broken = tree(study_name="other", storage=postgres.replace("tester", "nobody"))
    code, more_out, more_err = Sweep(workplace, broken).wait()
    assert code == 2
    assert "optuna.storage: cannot be opened" in more_err
    assert SECRET not in out + err + more_out + more_err
    for file in (workplace / "runs").rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file


def test_variable_that_is_not_set_is_named(run_sweep: Any, workplace: Path) -> None:
    os.environ.pop("STUDY_URL", None)
    code, _, err = run_sweep(tree(storage="${STUDY_URL}"))
    assert code == 2
    assert "optuna.storage: the environment has no variable STUDY_URL" in err
    assert not (workplace / "runs").exists()
