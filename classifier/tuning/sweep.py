"""One sweep, from its configuration to its result."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import yaml

import classifier
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.files import write_text
from classifier.runs import ERROR, RUNS
from classifier.terminal import Log, show
from classifier.trees import lookup
from classifier.tuning.confirming import CANDIDATE, SEED, judge, plan, values_by_seed
from classifier.tuning.devices import pool_of, showing
from classifier.tuning.driver import Driver, Ending, obeying
from classifier.tuning.following import tail
from classifier.tuning.launching import (
    ForkServer,
    Launcher,
    Program,
    Subprocess,
    kill,
    open_standard_files,
)
from classifier.tuning.progress import Progress
from classifier.tuning.settings import parse_settings
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
    write_pictures,
    write_result,
    write_trials,
)
from classifier.tuning.trials import DEFAULT, OUTSIDE

log = logging.getLogger(__name__)

_ROOT = Path(classifier.__file__).resolve().parents[1]
_POLL_SECONDS = 0.02


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
    try:
        job = _Sweep(tree, experiment, started, (program, preload), record)
        with obeying(job.note):
            return job.execute()
    finally:
        record.stop()


class _Sweep:
    """A sweep on its way: check, study, trials, repetitions, summary."""

    def __init__(
        self,
        tree: dict[str, Any],
        experiment: str,
        started: float,
        program: tuple[Program, str],
        record: Log,
    ) -> None:
        self.section = tree["optuna"]
        self.tree = {key: value for key, value in tree.items() if key != "optuna"}
        self.tree["custom_folder_name"] = experiment
        self.experiment = experiment
        self.started = started
        self.program = program
        self.record = record
        self.ending = Ending()
        self.until = float("inf")

    def note(self, signum: int, frame: FrameType | None) -> None:
        """A signal while no trial runs: what is being done is finished, and nothing begun."""
        self.ending.signum = signum

    def execute(self) -> SweepResult:
        self._check_resuming()
        launcher = self._launcher(str(self.section.get("launcher") or ""))
        facts = self._survey(launcher)
        self.settings = parse_settings(self.section, self.experiment)
        self.config: dict[str, Any] = facts["config"]
        self.launcher = self._launcher_for(launcher, int(facts["num_devices"]))
        self.devices = pool_of(self.settings.devices)
        self.folder = RUNS / self.settings.folder_name
        if self.settings.storage is not None:
            sqlalchemy_url(self.settings.storage)  # a mistake in it shall leave no folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "optuna.study_name", f"its folder cannot be made ({error.strerror})",
                got=self.settings.study_name, remedy="Use another name",
            ) from error  # fmt: skip
        url = self.settings.storage or f"sqlite:///{(self.folder / 'study.db').as_posix()}"
        storage = Storage(url, self.settings.study_name, self.folder)
        try:
            return self._search(storage)
        finally:
            storage.close()

    def _check_resuming(self) -> None:
        if self.tree.get("ckpt_path") and not self.tree.get("only_weights_load"):
            raise ConfigError(
                "ckpt_path", "trials cannot resume a training", got=self.tree["ckpt_path"],
                remedy="Write null, or only_weights_load: true to begin each from its weights",
            )  # fmt: skip
        if self.tree.get("seed_everything") is True:
            raise ConfigError(
                "seed_everything", "trials can only be compared with one seed", got=True,
                remedy="Write a number",
            )  # fmt: skip

    # Processes

    def _launcher(self, asked: str) -> Launcher:
        if asked != "subprocess" and "forkserver" in multiprocessing.get_all_start_methods():
            try:
                return ForkServer(*self.program, _ROOT)
            except OSError as error:
                log.warning("no server to fork trials from (%s): each is started anew", error)
        return Subprocess(_ROOT / "main.py")

    def _launcher_for(self, launcher: Launcher, num_devices: int) -> Launcher:
        """Lightning starts further ranks by running the command again: it must be one."""
        if num_devices == 1 or isinstance(launcher, Subprocess):
            return launcher
        if self.settings.launcher == "forkserver":
            raise ConfigError(
                "optuna.launcher", f"a trial of {num_devices} devices cannot be forked",
                got="forkserver", remedy="Write subprocess, null, or trainer.devices: 1",
            )  # fmt: skip
        log.info("a trial uses %d devices: each is a process of its own", num_devices)
        return Subprocess(_ROOT / "main.py")

    def _survey(self, launcher: Launcher) -> dict[str, Any]:
        """Check everything in a process that is gone afterwards, with what it took of a GPU."""
        folder = Path(tempfile.mkdtemp(prefix="sweep-"))
        try:
            file = folder / "config.yaml"
            write_text(file, _dumped({**self.tree, "optuna": self.section}))
            words = ["--check", "--config", str(file)]
            child = launcher.start(words, folder, self._first_device())
            try:
                while (code := child.poll()) is None:
                    if self.ending.signum is not None:
                        raise Interrupted(self.ending.signum)
                    time.sleep(_POLL_SECONDS)
            finally:
                kill(child)
            if code == 0:
                facts: dict[str, Any] = json.loads((folder / "survey.json").read_text())
                return facts
            if code == 2 and (folder / ERROR).is_file():
                raise ConfigError.worded((folder / ERROR).read_text(encoding="utf-8"))
            raise RunError(f"the check of the configuration ended with {code}:\n{tail(folder)}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _first_device(self) -> dict[str, str]:
        """The check sees what a trial will see; a mistake in the section is for it to find."""
        devices = self.section.get("devices")
        if isinstance(devices, list) and devices and isinstance(devices[0], int):
            return showing(devices[0])
        return showing(pool_of("auto")[0]) if devices == "auto" else {}

    # The search

    def _search(self, storage: Storage) -> SweepResult:
        settings = self.settings
        if settings.timeout_seconds is not None:
            self.until = time.monotonic() + settings.timeout_seconds
        own, outside = settings.space.own_values(self.config)
        spec = settings.sampler or {"class_path": ""}
        if outside and str(spec["class_path"]).endswith("BruteForceSampler"):
            raise ConfigError(
                f"optuna.search_spaces.{outside[0]}", "BruteForceSampler needs the configuration's "
                "own value among the choices", got=lookup(self.config, outside[0]),
                remedy="Add it, or change the configuration",
            )  # fmt: skip
        attributes = {DEFAULT: True, OUTSIDE: {key: lookup(self.config, key) for key in outside}}
        study = SweepStudy(settings, storage, self.config, [(own, attributes)], self._given_up)
        self._check_folder(study)
        show(self.folder.as_posix())
        self.record.write_to(self.folder / "log.txt")
        for key in outside:
            log.warning(
                "trial 0 keeps the configuration's own %s, which lies outside of its search "
                "space and is not told to the sampler", key,
            )  # fmt: skip
        shown = settings.storage_shown or storage.shown
        log.info('watch it with: optuna-dashboard "%s"  (pip install optuna-dashboard)', shown)
        if len(study.counted()) >= settings.n_trials:
            log.info(
                "all %d trials were begun before; raise optuna.n_trials for more", settings.n_trials
            )
        self._drive(study, self.folder / TRIALS, self._write_trial)
        result = summarise(study, self.folder)
        if self._may_confirm(study):
            self._confirm(study, storage, result)
        else:
            result.verdict = list(compared_once(settings, result))
        return self._close(study, result)

    def _given_up(self) -> bool:
        return self.ending.signum is not None

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
        write_config: Callable[[Path, Mapping[str, Any]], None],
        noun: str = "trial",
    ) -> None:
        epochs = (self.config.get("trainer") or {}).get("max_epochs")
        max_epochs = epochs if isinstance(epochs, int) and epochs > 0 else None
        num_jobs = study.settings.n_jobs or len(self.devices) or 1
        driver = Driver(
            study.settings, study, self.launcher, folder, write_config, max_epochs,
            self.devices, Progress(study.settings, study, max_epochs, num_jobs, noun), self.ending,
            self.until,
        )  # fmt: skip
        driver.run()
        study.queue_interrupted()

    # Configurations

    def _config_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return self.settings.space.applied_to(copy.deepcopy(self.tree), params)

    def _write_trial(self, file: Path, params: Mapping[str, Any]) -> None:
        write_text(file, _dumped(self._config_of(params)))

    def _write_best(self, file: Path, params: Mapping[str, Any], heading: str) -> None:
        lines = [f"# {line}" for line in heading.splitlines()]
        # runs/<study>/ is the sweep's: what is trained from here has a folder of its own.
        name = f"{self.experiment}-{file.stem.replace('_config', '').replace('_', '-')}"
        content = _dumped({**self._config_of(params), "custom_folder_name": name})
        write_text(file, "\n".join([*lines, content]))

    # Repetitions

    def _may_confirm(self, study: SweepStudy) -> bool:
        done = len([t for t in study.counted() if t.state.is_finished()])
        return (
            self.settings.confirm is not None
            and not self._given_up()
            and self.ending.failure is None
            and done >= self.settings.n_trials
        )

    def _confirm(self, study: SweepStudy, storage: Storage, result: SweepResult) -> None:
        """Repeat the best trials and the default; the one that proves better is the best."""
        assert self.settings.confirm is not None
        trials = study.trials()
        repeats = plan(self.settings, self.settings.confirm, trials, study.seed)
        if repeats is None:
            result.verdict = ["Nothing to confirm: the default or all other trials have no value."]
            return
        log.info("trials %s: %d seeds each", repeats.candidates, self.settings.confirm.seeds)

        def write(file: Path, params: Mapping[str, Any]) -> None:
            tree = self._config_of(trials[params[CANDIDATE]].params)
            write_text(file, _dumped({**tree, "seed_everything": params[SEED]}))

        first: list[tuple[Mapping[str, Any], Mapping[str, Any]]]
        first = [(pair, {}) for pair in repeats.pairs]
        again = SweepStudy(repeats.settings, storage, self.config, first, self._given_up)
        self._drive(
            again, self.folder / "confirm" / repeats.settings.study_name[-8:], write, "repetition"
        )
        if len([t for t in again.counted() if t.state.is_finished()]) < len(repeats.pairs):
            result.verdict = ["The repetitions over seeds are not complete yet."]
            return
        result.confirmed = values_by_seed(repeats, again.trials())
        best, result.verdict = judge(self.settings.objective, result.confirmed)
        if best != repeats.candidates[0]:
            take_as_best(result, trials[best], self.settings, self.folder)

    # The end

    def _close(self, study: SweepStudy, result: SweepResult) -> SweepResult:
        if self.ending.signum is not None:
            result.status, result.error = "interrupted", "ended by a signal"
        elif not result.num_complete:
            result.status, result.error = "failed", self._why_nothing()
        write_best_configs(study, result, self.folder, self._write_best)
        write_trials(study, result, self.folder / "trials.csv")
        result.wall_seconds = round(time.time() - self.started, 3)
        write_result(result, self.folder)
        if result.status != "interrupted":
            write_pictures(study, result, self.folder)
        if self.ending.failure is not None and result.num_complete:
            log.warning("the sweep ended early: %s", self.ending.failure)
        print_summary(result)
        show(self.folder.as_posix())
        if self.ending.signum is not None:
            raise Interrupted(self.ending.signum)
        if result.error is not None:
            raise RunError(result.error)
        return result

    def _why_nothing(self) -> str:
        reasons = self.ending.reasons
        said = self.ending.failure or "no trial completed"
        return f"{said}: {reasons[0]}" if reasons else said


def _dumped(tree: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True))
