"""One sweep, from its configuration to its result."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from classifier.errors import ConfigError, Interrupted, RunError
from classifier.measured import CONFIG, as_measured, left_open
from classifier.runs import RUNS, slug
from classifier.terminal import Log, show
from classifier.trees import lookup
from classifier.tuning.confirming import CANDIDATE, SEED, judge, plan, values_by_seed
from classifier.tuning.devices import pool_of, showing
from classifier.tuning.driver import Driver
from classifier.tuning.ending import Ending
from classifier.tuning.launching import (
    Launcher,
    Program,
    launcher_of,
    open_standard_files,
    start_launcher,
)
from classifier.tuning.settings import Settings, parse_settings
from classifier.tuning.storage import Storage, sqlalchemy_url
from classifier.tuning.study import SweepStudy
from classifier.tuning.summary import (
    TRIALS,
    SweepResult,
    compared_once,
    print_summary,
    summarise,
    take_as_best,
    write_best_configs,
    write_result,
    write_trials,
)
from classifier.tuning.surveying import survey
from classifier.tuning.trials import DEFAULT, OUTSIDE

log = logging.getLogger(__name__)


def sweep(
    tree: dict[str, Any], experiment: str, started: float, program: Program, preload: str
) -> SweepResult:
    """Search the configurations that the section `optuna` describes.

    Args:
        tree: The configuration, the section included; files and command line in one.
        experiment: Name of the experiment, and of the study where the section gives none.
        started: time.time() at the start of the command.
        program: Runs a command line and gives its exit code.
        preload: The module that the warm server imports.

    Raises:
        ConfigError: something is wrong with the configuration; no folder was made.
        RunError: no trial completed.
        Interrupted: a signal ended the sweep; the same command continues it.
    """
    open_standard_files()
    record = Log()
    record.start()
    # Optuna tells every trial on its own; here a line is for what a person wants to know.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    section = tree["optuna"]
    tree = {key: value for key, value in tree.items() if key != "optuna"}
    tree["custom_folder_name"] = experiment
    ending = Ending()
    try:
        with ending.obeying():
            _check_comparable(tree)
            launcher = start_launcher(section.get("launcher"), program, preload)
            environment = _first_device(section.get("devices"))
            facts = survey({**tree, "optuna": section}, launcher, ending, environment)
            settings = parse_settings(section, experiment)
            launcher = launcher_of(facts["num_devices"], settings.launcher, launcher)
            devices = pool_of(settings.devices)
            folder, storage = _open_folder(settings, ending)
            until = time.monotonic() + (settings.timeout_seconds or float("inf"))
            search = _Search(
                tree, facts["config"], settings, launcher, devices, folder, storage, ending,
                record, started, until,
            )  # fmt: skip
            try:
                return search.execute()
            finally:
                storage.close()
    finally:
        record.stop()


# Before the search


def _check_comparable(tree: Mapping[str, Any]) -> None:
    if tree.get("ckpt_path") and not tree.get("only_weights_load"):
        raise ConfigError(
            "ckpt_path", "trials cannot resume a training", got=tree["ckpt_path"],
            remedy="Write null, or only_weights_load: true to begin each from its weights",
        )  # fmt: skip
    if tree.get("seed_everything") is True:
        raise ConfigError(
            "seed_everything", "trials can only be compared with one seed", got=True,
            remedy="Write a number",
        )  # fmt: skip


def _first_device(devices: Any) -> dict[str, str]:
    """The check sees what a trial will see; a mistake in the section is for it to find."""
    if isinstance(devices, list) and devices and isinstance(devices[0], int):
        return showing(devices[0])
    return showing(pool_of("auto")[0]) if devices == "auto" else {}


def _open_folder(settings: Settings, ending: Ending) -> tuple[Path, Storage]:
    """The study's folder and its storage."""
    folder = RUNS / slug(settings.study_name)
    if settings.storage is not None:
        sqlalchemy_url(settings.storage)  # a mistake in it shall leave no folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "optuna.study_name", f"its folder cannot be made ({error.strerror})",
            got=settings.study_name, remedy="Use another name",
        ) from error  # fmt: skip
    url = settings.storage or f"sqlite:///{(folder / 'study.db').as_posix()}"
    storage = Storage(url, settings.study_name, folder, lambda: ending.signum is not None)
    return folder, storage


# The search


@dataclass
class _Search:
    """A search on its way: study, trials, repetitions, summary."""

    tree: dict[str, Any]  # the configuration without the section, as it was written
    config: Mapping[str, Any]  # the same, resolved
    settings: Settings
    launcher: Launcher
    devices: tuple[int, ...]  # the pool's; empty without one
    folder: Path  # the study's
    storage: Storage
    ending: Ending
    record: Log
    started: float  # time.time() at the start of the command
    until: float  # time.monotonic() after which no further trial starts

    def execute(self) -> SweepResult:
        settings = self.settings
        own, outside = settings.space.own_values(self.config)
        sampler = str((settings.sampler or {}).get("class_path"))
        if outside and sampler.endswith("BruteForceSampler"):
            raise ConfigError(
                f"optuna.search_spaces.{outside[0]}", "BruteForceSampler needs the configuration's "
                "own value among the choices", got=lookup(self.config, outside[0]),
                remedy="Add it, or change the configuration",
            )  # fmt: skip
        attributes = {DEFAULT: True, OUTSIDE: {key: lookup(self.config, key) for key in outside}}
        study = SweepStudy(settings, self.storage, self.config, [(own, attributes)])
        self._check_folder(study)
        show(self.folder.as_posix())
        self.record.write_to(self.folder / "log.txt")
        for key in outside:
            log.warning(
                "trial 0 keeps the configuration's own %s, which lies outside of its search "
                "space and is not told to the sampler", key,
            )  # fmt: skip
        shown = settings.storage_shown or self.storage.shown
        log.info('watch it with: optuna-dashboard "%s"  (pip install optuna-dashboard)', shown)
        if len(study.counted()) >= settings.n_trials:
            log.info(
                "all %d trials were begun before; raise optuna.n_trials for more", settings.n_trials
            )
        self._drive(study, self.folder / TRIALS, self._config_of, "trial")
        result = summarise(study, self.folder)
        if settings.confirm is not None and not self.ending.is_due and study.is_done():
            self._confirm(study, result)
        else:
            result.verdict = compared_once(result)
        return self._close(study, result)

    def _check_folder(self, study: SweepStudy) -> None:
        """Trials of another study in this one's folder would be taken for its own."""
        trials = self.folder / TRIALS
        if not study.trials() and trials.is_dir() and any(trials.iterdir()):
            raise ConfigError(
                "optuna.study_name", f"{trials} holds trials of another study",
                got=self.settings.study_name,
                remedy="Use a new study_name, or move that folder away",
            )  # fmt: skip

    def _drive(
        self,
        study: SweepStudy,
        folder: Path,
        config_of: Callable[[Mapping[str, Any]], dict[str, Any]],
        noun: str,
    ) -> None:
        epochs = (self.config.get("trainer") or {}).get("max_epochs")
        max_epochs = epochs if isinstance(epochs, int) and epochs > 0 else None
        Driver(
            study, self.launcher, folder, config_of, max_epochs, self.devices, self.ending,
            self.until, noun,
        ).run()  # fmt: skip
        study.queue_interrupted()

    def _config_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return self.settings.space.applied_to(copy.deepcopy(self.tree), params)

    def _config_as_run(self, trial: FrozenTrial) -> dict[str, Any]:
        """The configuration of a trial that has run, with what it has measured."""
        config = self._config_of(trial.params)
        folder = self.folder / TRIALS / f"{trial.number:04d}"
        if not (folder / CONFIG).is_file() and (left := left_open(config)):
            log.warning(
                "%s is not here: what trial %d chose as %s is unknown, and will be measured again",
                (folder / CONFIG).as_posix(), trial.number, ", ".join(left),
            )  # fmt: skip
        return as_measured(config, folder)

    def _confirm(self, study: SweepStudy, result: SweepResult) -> None:
        """Repeat the best trials and the default; the one that proves better is the best."""
        trials = study.trials()
        repeats = plan(self.settings, trials, study.seed)
        if repeats is None:
            result.verdict = ["Nothing to confirm: the default or all other trials have no value."]
            return
        num_seeds = len(repeats.pairs) // len(repeats.candidates)
        log.info("trials %s: %d seeds each", repeats.candidates, num_seeds)

        candidates = {number: self._config_as_run(trials[number]) for number in repeats.candidates}

        def config_of(params: Mapping[str, Any]) -> dict[str, Any]:
            return {**candidates[params[CANDIDATE]], "seed_everything": params[SEED]}

        again = SweepStudy(
            repeats.settings, self.storage, self.config, [(pair, {}) for pair in repeats.pairs]
        )
        folder = self.folder / "confirm" / repeats.settings.study_name[-8:]
        self._drive(again, folder, config_of, "repetition")
        if not again.is_done():
            result.verdict = ["The repetitions over seeds are not complete yet."]
            return
        result.confirmed = values_by_seed(repeats, again.trials())
        best, result.verdict = judge(self.settings.objective, result.confirmed)
        if best != repeats.candidates[0]:
            take_as_best(result, trials[best], self.settings)

    def _close(self, study: SweepStudy, result: SweepResult) -> SweepResult:
        if self.ending.signum is not None:
            result.status, result.error = "interrupted", "ended by a signal"
        elif not result.num_complete:
            result.status, result.error = "failed", self.ending.why_nothing()
        write_best_configs(study, result, self._config_as_run)
        write_trials(study, result)
        result.wall_seconds = round(time.time() - self.started, 3)
        write_result(result)
        if result.status != "interrupted":
            write_pictures(study, result)
        if self.ending.failure is not None and result.num_complete:
            log.warning("the sweep ended early: %s", self.ending.failure)
        print_summary(result)
        show(self.folder.as_posix())
        if self.ending.signum is not None:
            raise Interrupted(self.ending.signum)
        if result.error is not None:
            raise RunError(result.error)
        return result


def write_pictures(study: SweepStudy, result: SweepResult) -> None:
    """Write report/: plots and a page that shows them.

    Nothing depends on them: what goes wrong here is told, and the sweep's result stands.
    """
    from classifier.tuning.plots import write_plots
    from classifier.tuning.report import write_report

    report = Path(result.output_dir, "report")
    report.mkdir(exist_ok=True)
    try:
        write_report(study, result, report, write_plots(study, report))
    except Exception:
        log.exception("the report could not be drawn")
