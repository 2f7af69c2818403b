"""One command, from its configuration to its result."""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder

from classifier.arguments import Command
from classifier.assembly import Assembly
from classifier.callbacks.finders import BATCH_SIZE, FINDERS, keep_batch_size, keep_rates
from classifier.callbacks.recorder import RunRecorder
from classifier.checkpoints import CONFIG_KEY, check_unfinished
from classifier.cli import ClassifierCLI, print_all_keys
from classifier.data.datamodule import ImageDataModule
from classifier.data.folders import ImagePathsDataset
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.files import write_text
from classifier.finding import (
    check_auto_batch_size,
    find_batch_size,
    find_rate,
    range_test_arguments,
)
from classifier.frozen import on_images, run_frozen_part_once
from classifier.memory import AUTO_BATCH_SIZE, out_of_memory
from classifier.model.tasks import class_facts
from classifier.monitors import (
    check_monitors,
    default_monitor,
    known_names,
    logs_known_names_only,
)
from classifier.preparing import (
    check_metrics,
    load_weights,
    prepare_check,
    prepare_evaluation,
    prepare_training,
)
from classifier.ranks import end_with_first, leave_word, started_by_first
from classifier.runs import (
    Result,
    Run,
    create_run,
    trial_folder,
)
from classifier.terminal import (
    Log,
    print_result,
    quiet_known_noise,
    show,
    without_traceback,
)
from classifier.training import as_list, attach, attach_checkpoints, build_trainer, evaluate, fit

log = logging.getLogger(__name__)


def execute(
    command: Command, layers: list[dict[str, Any]], experiment: str, started: float
) -> Result | None:
    """Carry out a command.

    Args:
        command: What is asked for.
        layers: The configuration files' contents, later ones win.
        experiment: Name of the experiment where the configuration gives none.
        started: time.time() at the start.

    Returns:
        The result; None when nothing ran.
    """
    record = Log()
    record.start()
    if started_by_first():
        end_with_first()
    try:
        with warnings.catch_warnings():
            quiet_known_noise()
            return _Job(command, layers, experiment, started, record).execute()
    except Exception as error:
        if not started_by_first():
            raise
        known = isinstance(error, ConfigError | RunError)
        leave_word(without_traceback(error) if known else traceback.format_exc())
        raise RunError(str(error)) from error
    finally:
        record.stop()


class _Job(Assembly):
    """One command on its way: configuration, objects, run folder, result."""

    def __init__(
        self,
        command: Command,
        layers: list[dict[str, Any]],
        experiment: str,
        started: float,
        record: Log,
    ) -> None:
        super().__init__(command, layers, experiment)
        self.started = started
        self.record = record
        self.data: Any = None

    def execute(self) -> Result | None:
        if self.command.help == "all":
            print_all_keys()
            return None
        cli = ClassifierCLI(self.configuration())
        if self.command.print_config:
            print(cli.dump(), end="")
            if self.sweep:
                from classifier.tuning.settings import shown  # imports optuna

                print(yaml.safe_dump({"optuna": shown(self.sweep)}, sort_keys=False), end="")
            return None
        if self.command.mode in ("train", "check", "lr_find"):
            return self._train(cli)
        return self._evaluate(cli)

    # Runs

    def _train(self, cli: ClassifierCLI) -> Result | None:
        model, data, arguments = cli.build()
        only_weights = bool(cli.config["only_weights_load"])
        if only_weights and self.checkpoint is None:
            raise ConfigError(
                "only_weights_load", "there is no checkpoint to take the weights from", got=True,
                remedy="Add ckpt_path, or write false",
            )  # fmt: skip
        resumed = None if only_weights else self.checkpoint
        if only_weights and self.checkpoint is not None:
            model.pretrained = False  # type: ignore[assignment]  # the checkpoint has the weights
        self.data, mode = data, self.command.mode
        if mode == "lr_find":
            arguments = range_test_arguments(arguments, resumed)
        check_unfinished(resumed, arguments.get("max_epochs"))
        if resumed is not None:
            self._keep_found(cli, model, arguments, resumed)
        callbacks: list[Callback] = as_list(arguments.get("callbacks"))
        check_monitors(callbacks, model, data, callbacks)
        monitor = default_monitor(callbacks, data)
        trainer = build_trainer(arguments, "lr_find" if mode == "lr_find" else "train", monitor)
        check_auto_batch_size(data, trainer)
        missing = self._prepare(model, data, callbacks, resumed, only_weights, trainer)
        if mode == "lr_find":
            run = self._create_run(mode, cli)
            return self._carry_out(run, lambda: find_rate(trainer, model, data, run))
        if mode == "check":
            facts = self._survey(cli, trainer, model, data, callbacks)
            return self._check(cli, data, facts, missing)
        run_frozen_part_once(model, data, trainer)
        run = self._create_run("train", cli, first=trainer.is_global_zero)
        source = self.checkpoint_file if resumed is not None else None
        history = source.parent.parent / "metrics.csv" if source is not None else None
        if history is not None and not history.is_file():
            log.warning("metrics.csv of the run before was not found: its rows are missing")
        step = int(resumed["global_step"]) if resumed is not None else 0
        recorder = RunRecorder(run, cli.plain(), source, step)
        attach(trainer, run, recorder, history)
        if arguments.get("enable_checkpointing") is not False and not arguments["fast_dev_run"]:
            attach_checkpoints(trainer, run)

        def work() -> None:
            if getattr(data, "auto_batch_size", False):
                with on_images(model, data):
                    self._find_batch_size(cli, arguments, model, run, recorder)
            fit(trainer, model, data, run, recorder)

        return self._carry_out(run, work)

    def _keep_found(
        self, cli: ClassifierCLI, model: Any, arguments: dict[str, Any], resumed: dict[str, Any]
    ) -> None:
        """A resumed training has its learning rate and its batch size already.

        Lightning's finders end by restoring a checkpoint of their own: the place where the resumed
        training stood would be lost.
        """
        listed = as_list(arguments.get("callbacks"))
        if any(isinstance(callback, LearningRateFinder) for callback in listed):
            keep_rates(model, resumed)
        by_callback = any(isinstance(callback, BatchSizeFinder) for callback in listed)
        if by_callback or getattr(self.data, "auto_batch_size", False):
            keep_batch_size(self.data, resumed[CONFIG_KEY])
            cli.settle(BATCH_SIZE, self.data.batch_size)
        if getattr(self.data, "auto_batch_size", False):
            self.data.auto_batch_size = False
            cli.settle(AUTO_BATCH_SIZE, False)
        arguments["callbacks"] = [item for item in listed if not isinstance(item, FINDERS)]

    def _find_batch_size(
        self,
        cli: ClassifierCLI,
        arguments: dict[str, Any],
        model: Any,
        run: Run,
        recorder: RunRecorder,
    ) -> None:
        """Find it, and write it where this run is described, so that it can be repeated."""
        self.data.batch_size = find_batch_size(arguments, model, self.data, run)
        cli.settle(BATCH_SIZE, self.data.batch_size)
        cli.settle(AUTO_BATCH_SIZE, False)
        run.write_config(cli.dump())
        recorder.config = cli.plain()

    def _prepare(
        self,
        model: Any,
        data: Any,
        callbacks: list[Callback],
        resumed: Any,
        only_weights: bool,
        trainer: Any,
    ) -> ConfigError | None:
        """Make sure of all that can be, and give what is wrong with the weights before a check."""
        missing = None
        if self._looks_at(data):
            missing = prepare_check(model, data, resumed, from_weights=only_weights)
        else:
            num_ranks = trainer.num_devices * trainer.num_nodes
            prepare_training(model, data, resumed, from_weights=only_weights, num_ranks=num_ranks)
        check_metrics(callbacks, model)
        if only_weights and self.checkpoint is not None:
            load_weights(model, self.checkpoint)
        return missing

    def _looks_at(self, data: Any) -> bool:
        """Whether this is a check of all images; a sweep's own check before trial 0 is quick."""
        in_check = self.command.mode == "check" and trial_folder() is None
        return in_check and isinstance(data, ImageDataModule)

    def _check(
        self, cli: ClassifierCLI, data: Any, facts: dict[str, Any], missing: ConfigError | None
    ) -> Result | None:
        lines = [data.summary()] if isinstance(data, ImageDataModule) else []
        lines += facts.get("lines", ())
        configs = ", ".join(self.command.configs)
        if not self._looks_at(data):
            for line in (f"{configs}: configuration and data are in order", *lines):
                show(line)
            if trial_folder() is not None:
                write_text(Path(str(trial_folder()), "survey.json"), json.dumps(facts))
            return None
        from classifier.data.checking import entries_of
        from classifier.verifying import verify

        entries = entries_of(data)  # its mistakes are the configuration's: before a folder is made
        run = self._create_run("check", cli)
        for line in (f"{configs}: the configuration can be read", *lines):
            show(line)
        strict = self.command.strict
        return self._carry_out(
            run, lambda: verify(data, entries, run, self.experiment, strict, missing)
        )

    def _survey(
        self, cli: ClassifierCLI, trainer: Any, model: Any, data: Any, callbacks: list[Callback]
    ) -> dict[str, Any]:
        """Check the section `optuna`, where there is one that tunes."""
        if not self.sweep.get("tune"):
            return {}
        from classifier.surveying import survey  # imports optuna

        config = {key: value for key, value in cli.given.items() if key != "optuna"}
        names = known_names(callbacks, data)
        closed = logs_known_names_only(callbacks, model)
        return survey(
            config, cli.plain(), self.sweep, names, trainer,
            class_facts=class_facts(data), closed=closed,
        )  # fmt: skip

    def _evaluate(self, cli: ClassifierCLI) -> Result:
        assert self.checkpoint is not None
        mode = self.command.mode
        model, data, arguments = cli.build()
        self.data = data
        if self.command.paths:
            data.dataset_classes["predict"] = ImagePathsDataset(self.command.paths)  # type: ignore[attr-defined]
        trainer = build_trainer(arguments, mode, None)
        prepare_evaluation(model, data, self.checkpoint)
        check_metrics(as_list(arguments.get("callbacks")), model)
        data.setup(mode)
        run = self._create_run(mode, cli)
        recorder = RunRecorder(run, cli.plain())
        attach(trainer, run, recorder, None)
        return self._carry_out(run, lambda: evaluate(trainer, model, data, run, recorder))

    def _create_run(self, mode: str, cli: ClassifierCLI, *, first: bool = True) -> Run:
        run = create_run(self.experiment, mode, self.started, first=first)
        show(run.folder.as_posix())
        if run.writes:
            self.record.write_to(run.folder / "log.txt")
        run.result.seed = cli.config["seed_everything"]
        if self.checkpoint is not None and not (
            mode == "train" and cli.config["only_weights_load"]
        ):
            run.result.checkpoint = str(self.checkpoint_file)
            log.info(
                "checkpoint %s (epoch %d, step %d)",
                self.checkpoint_file, self.checkpoint["epoch"] + 1, self.checkpoint["global_step"],
            )  # fmt: skip
        run.write_config(cli.dump())
        run.write_environment(
            {
                "num_threads": torch.get_num_threads(),
                "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            }
        )
        run.write_result()
        return run

    def _carry_out(self, run: Run, work: Any) -> Result:
        """Run it, and write down how it ended, whatever happens."""
        result = run.result
        try:
            work()
            result.status = "completed"
        except (Interrupted, KeyboardInterrupt):
            result.status, result.error = "interrupted", "ended by a signal"
            raise
        except (ConfigError, RunError) as error:
            result.status, result.error = "failed", without_traceback(error)
            log.debug("", exc_info=True)
            if isinstance(error, RunError):
                raise RunError(result.error) from error
            raise
        except Exception as error:
            result.status, result.error = "failed", f"{type(error).__name__}: {error}"
            log.error("%s", traceback.format_exc())
            known = out_of_memory(error, getattr(self.data, "batch_size", None), result.mode)
            if known is None:
                raise
            raise RunError(known) from error
        finally:
            run.write_result()
            if result.status == "completed":
                print_result(result)
            show(run.folder.as_posix())
        return result
