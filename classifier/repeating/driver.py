"""--folds and --repeat: one command, several trainings, and what they come to together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.arguments import Command
from classifier.config import read_config
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.repeating.combined import check_positive_class, report_on_folds
from classifier.repeating.continuing import Earlier, find_earlier
from classifier.repeating.out_of_fold import PREDICTIONS, join_predictions
from classifier.repeating.parts import (
    FOLDS,
    REPEAT,
    SEED_KEY,
    TABLES,
    VALIDATION,
    Part,
    Step,
    fold_parts,
    names_of,
    seed_parts,
    steps_of,
    val_of,
)
from classifier.repeating.running import COMPLETED, FAILED, Runner, Trained
from classifier.repeating.summary import RepeatResult, print_summary, summarise, write_table
from classifier.runs import Run, create_run
from classifier.terminal import Log, show
from classifier.trees import merge
from classifier.tuning.ending import Ending
from classifier.tuning.launching import (
    Launcher,
    Program,
    launcher_of,
    open_standard_files,
    start_launcher,
    write_config,
)
from classifier.tuning.surveying import survey

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
_NOUNS = {FOLDS: "folds", REPEAT: "seeds"}


def repeat(
    tree: dict[str, Any],
    command: Command,
    experiment: str,
    started: float,
    program: Program,
    preload: str,
) -> RepeatResult:
    """Train the folds of a configuration's data, or its repetitions over seeds.

    Args:
        tree: The configuration; files and command line in one.
        command: Has folds or repeat.
        experiment: Name of the experiment where the configuration gives none.
        started: time.time() at the start of the command.
        program: Runs a command line and gives its exit code.
        preload: The module that the warm server imports.

    Raises:
        ConfigError: something is wrong with the configuration or the data; no folder was made.
        RunError: a training failed.
        Interrupted: a signal ended the command; it can be gone on with.
    """
    open_standard_files()
    record = Log()
    record.start()
    ending = Ending()
    try:
        with ending.obeying():
            mode = FOLDS if command.folds is not None else REPEAT
            number = command.folds or command.repeat or 0
            tree = {key: value for key, value in tree.items() if key != "optuna"}
            if command.ckpt_path is not None:
                tree["ckpt_path"] = command.ckpt_path
            experiment = str(tree.get("custom_folder_name") or experiment)
            earlier = find_earlier(tree, command, mode, experiment)
            tree = _whole(tree, earlier, experiment, alone=not command.configs)
            _check(tree, command, mode)
            launcher = start_launcher(None, program, preload)
            first = (fold_parts if mode == FOLDS else _one_part)(number, Path())[0]
            facts = survey(first.config(tree), launcher, ending, {})
            launcher = launcher_of(int(facts["num_devices"]), None, launcher)
            if mode == FOLDS:
                check_positive_class(facts)
            steps = steps_of(facts["config"], mode, command.allowed)
            _check_checkpoints(facts["config"], steps)
            run = _open_run(tree, mode, number, earlier, started)
            record.write_to(run.folder / "log.txt")
            several = _Several(
                tree, command, mode, number, facts, steps, launcher, run, ending
            )  # fmt: skip
            return several.execute()
    finally:
        record.stop()


def _one_part(number: int, folder: Path) -> list[Part]:
    """The configuration as it is, for its check."""
    return [Part("seed", 0, folder, {})]


# Before the first training


def _whole(
    tree: dict[str, Any], earlier: Earlier | None, experiment: str, *, alone: bool
) -> dict[str, Any]:
    """The configuration of all trainings; that of the folder which is gone on with.

    Raises:
        ConfigError: the two differ.
    """
    tree = {**tree, "custom_folder_name": experiment}
    if earlier is None and tree.get("ckpt_path") != "last":
        return tree
    tree.pop("ckpt_path", None)
    if earlier is None:
        return tree
    saved = read_config(earlier.folder / CONFIG)
    if alone:
        tree = merge(saved, {**tree, "custom_folder_name": saved["custom_folder_name"]})
    same = {key: value for key, value in saved.items() if key != "ckpt_path"}
    changed = sorted(
        {key for key in {**same, **tree} if same.get(key) != tree.get(key)}
    )  # fmt: skip
    if changed:
        raise ConfigError(
            changed[0], f"differs from {(earlier.folder / CONFIG).as_posix()}: trainings of two "
            "configurations have no mean",
            remedy="Leave ckpt_path out to begin anew, or go on without --config",
        )  # fmt: skip
    return saved


def _check(tree: Mapping[str, Any], command: Command, mode: str) -> None:
    """Refuse what contradicts several trainings, as far as it shows without torch."""
    if command.label_issues:
        from classifier.repeating.label_issues import check_library

        check_library()
    if mode == FOLDS and val_of(tree) is not None:
        raise ConfigError(
            "data.init_args.dataset_classes.val", "has no place beside --folds, which validates on "
            "parts of train", got=val_of(tree),
            remedy="Write null, or use --repeat; a test set may stay",
        )  # fmt: skip
    seed = tree.get(SEED_KEY)
    if isinstance(seed, bool):
        raise ConfigError(
            SEED_KEY, "must be a number, so that all trainings agree on the folds"
            if mode == FOLDS else "must be a number, from which the seeds are counted",
            got=seed, remedy="Write for example 42",
        )  # fmt: skip


def _check_checkpoints(config: Mapping[str, Any], steps: Sequence[Step]) -> None:
    """Refuse trainings that leave nothing to evaluate."""
    trainer = config.get("trainer") or {}
    for key, is_off in (("enable_checkpointing", False), ("fast_dev_run", True)):
        if len(steps) > 1 and trainer.get(key) is is_off:
            raise ConfigError(
                f"trainer.{key}", "leaves no checkpoint, by which each training is judged",
                got=trainer[key], remedy="Leave it out",
            )  # fmt: skip


def _open_run(
    tree: Mapping[str, Any], mode: str, number: int, earlier: Earlier | None, started: float
) -> Run:
    """The folder of the whole: a new one, or the one that is gone on with."""
    if earlier is not None:
        run = Run(earlier.folder, mode, started)
    else:
        run = create_run(str(tree["custom_folder_name"]), mode, started)
        heading = f"python main.py --config THIS_FILE --{mode} {number}"
        write_config(run.folder / CONFIG, tree, heading)
    run.result = RepeatResult(mode, run.folder.as_posix(), num_parts=number)
    run.write_result()
    show(run.folder.as_posix())
    return run


# The trainings


@dataclass
class _Several:
    """Several trainings on their way."""

    tree: dict[str, Any]  # the configuration of all
    command: Command
    mode: str  # folds or repeat
    number: int
    facts: Mapping[str, Any]  # what the check found out: config (resolved), class_names, task
    steps: list[Step]
    launcher: Launcher
    run: Run
    ending: Ending

    @property
    def result(self) -> RepeatResult:
        assert isinstance(self.run.result, RepeatResult)
        return self.run.result

    def execute(self) -> RepeatResult:
        config = self.facts["config"]
        self.result.seed = config[SEED_KEY]
        folder = self.run.folder
        parts = (
            fold_parts(self.number, folder)
            if self.mode == FOLDS
            else seed_parts(self.number, folder, int(config[SEED_KEY]))
        )
        epochs = (config.get("trainer") or {}).get("max_epochs")
        runner = Runner(
            self.launcher, self.tree, self.steps,
            epochs if isinstance(epochs, int) and epochs > 0 else None, self.ending,
        )  # fmt: skip
        try:
            trained = runner.run(parts)
            summarise(self.result, trained)
            write_table(folder / TABLES[self.mode], self.result.parts)
            if self.mode == FOLDS:
                self._gather(trained)
            self._judge(trained)
        except BaseException as error:
            if self.result.status == "running":
                self.result.status, self.result.error = "failed", f"{error}"
            raise
        finally:
            self.run.write_result()
            show(folder.as_posix())
        return self.result

    def _gather(self, trained: Sequence[Trained]) -> None:
        """Join the predictions of the folds, and judge them where every image has one."""
        files = {
            one.part.number: one.part.folder / VALIDATION / PREDICTIONS
            for one in trained
            if one.status == COMPLETED
        }
        files = {fold: file for fold, file in files.items() if file.is_file()}
        if not files:
            return  # a model of the user's own need not have predictions
        table = self.run.folder / PREDICTIONS
        self.result.num_images = join_predictions(files, table)
        self.result.predictions = PREDICTIONS
        if len(files) == len(trained):
            report_on_folds(
                self.run, table, self.facts, label_issues=self.command.label_issues
            )  # fmt: skip

    def _judge(self, trained: Sequence[Trained]) -> None:
        """Print what there is, and end as the trainings have ended.

        Raises:
            Interrupted: a signal came.
            RunError: a training failed.
        """
        result, folder = self.result, self.run.folder.as_posix()
        again = f"go on with: python main.py --{self.mode} {self.number} --ckpt_path {folder}"
        print_summary(result, _NOUNS[self.mode])
        if self.ending.signum is not None:
            result.status, result.error = "interrupted", "ended by a signal"
            show(again)
            raise Interrupted(self.ending.signum)
        failed = [one for one in trained if one.status == FAILED]
        if failed:
            result.status = "failed"
            said = "".join(f"\n{one.part.name}: {one.error}" for one in failed)
            names = names_of([one.part for one in failed])
            result.error = f"{names} of {self.number} failed{said}\n{again}"
            raise RunError(result.error)
        result.status = "completed"
