"""One command, from its configuration to its result."""

from __future__ import annotations

import json
import logging
import secrets
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.callbacks import Callback

from classifier.arguments import Command
from classifier.callbacks.recorder import RunRecorder
from classifier.checkpoints import CONFIG_KEY, check_unfinished, load_checkpoint
from classifier.cli import ClassifierCLI, print_all_keys
from classifier.config import (
    SECTIONS,
    check_top_level,
    check_trusted,
    class_paths,
    parse_word,
)
from classifier.data.datamodule import ImageDataModule
from classifier.data.folders import ImagePathsDataset
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.files import write_text
from classifier.model.tasks import class_facts
from classifier.preparing import (
    check_metrics,
    check_monitors,
    default_monitor,
    known_names,
    load_weights,
    logs_known_names_only,
    prepare_check,
    prepare_evaluation,
    prepare_training,
)
from classifier.runs import (
    Result,
    Run,
    create_run,
    find_checkpoint,
    newest_unfinished,
    trial_folder,
)
from classifier.terminal import (
    Log,
    in_plain_words,
    print_result,
    quiet_known_noise,
    show,
    without_traceback,
)
from classifier.training import as_list, attach, attach_checkpoints, build_trainer, evaluate, fit
from classifier.trees import merge, override

log = logging.getLogger(__name__)

# Of a checkpoint's trainer section, what evaluation keeps; hardware and limits are today's.
_KEPT_FOR_EVALUATION = ("callbacks", "precision")


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
    try:
        with warnings.catch_warnings():
            quiet_known_noise()
            return _Job(command, layers, experiment, started, record).execute()
    finally:
        record.stop()


class _Job:
    """One command on its way: configuration, objects, run folder, result."""

    def __init__(
        self,
        command: Command,
        layers: list[dict[str, Any]],
        experiment: str,
        started: float,
        record: Log,
    ) -> None:
        self.command = command
        self.layers = layers
        self.experiment = experiment
        self.started = started
        self.record = record
        self.checkpoint: dict[str, Any] | None = None
        self.checkpoint_file: Path | None = None
        self.sweep: dict[str, Any] = {}

    def execute(self) -> Result | None:
        if self.command.help == "all":
            print_all_keys()
            return None
        cli = ClassifierCLI(self._configuration())
        if self.command.print_config:
            print(cli.dump(), end="")
            if self.sweep:
                from classifier.tuning.settings import shown  # imports optuna

                print(yaml.safe_dump({"optuna": shown(self.sweep)}, sort_keys=False), end="")
            return None
        if self.command.mode in ("train", "check"):
            return self._train(cli)
        return self._evaluate(cli)

    # Configuration

    def _configuration(self) -> dict[str, Any]:
        """Checkpoint < files < command line, as one tree."""
        files: dict[str, Any] = {}
        for layer in self.layers:
            files = merge(files, layer)
        words = [(key, parse_word(text)) for key, text in self.command.overrides]
        top = {**files, **{key: value for key, value in words if key not in SECTIONS}}
        self.experiment = str(top.get("custom_folder_name") or self.experiment)
        self._open_checkpoint(top)
        config = merge(self._saved(top), files)
        for key, value in words:
            override(config, key, value)
        if self.checkpoint is not None:
            # What the user's own words name is trusted; a checkpoint alone is data.
            named = {path.partition(".")[0] for _, path in class_paths([files, dict(words)])}
            allowed = frozenset(self.command.allowed) | named
            check_trusted(config, allowed, str(self.checkpoint_file))
        check_top_level(config)
        return self._completed(config)

    def _open_checkpoint(self, top: Mapping[str, Any]) -> None:
        path = self.command.ckpt_path or top.get("ckpt_path")
        if path is None:
            return
        if path == "last" and self.command.mode == "train":
            found = newest_unfinished(self.experiment)
            if found is None:
                log.info(
                    "ckpt_path: last: no unfinished run of %s, starting fresh", self.experiment
                )
                return
            log.info("ckpt_path: last: resuming %s", found)
        else:
            found = find_checkpoint(str(path))
        self.checkpoint_file = found.resolve()
        self.checkpoint = load_checkpoint(found)

    def _saved(self, top: Mapping[str, Any]) -> dict[str, Any]:
        """What the checkpoint's own configuration contributes."""
        training = self.command.mode in ("train", "check")
        if self.checkpoint is None or (training and top.get("only_weights_load") and self.layers):
            return {}
        # How its own training began does not say how this one does.
        saved: dict[str, Any] = {**self.checkpoint[CONFIG_KEY], "only_weights_load": False}
        if not top.get("custom_folder_name") and not self.layers:
            self.experiment = str(saved.get("custom_folder_name") or self.experiment)
        if not training:
            trainer = saved.get("trainer") or {}
            saved["trainer"] = {k: v for k, v in trainer.items() if k in _KEPT_FOR_EVALUATION}
        if self.command.paths:
            # The classes of the training's data sets need not be there to predict a file.
            saved = merge(saved, {"data": {"init_args": {"dataset_classes": None}}})
            saved["data"]["init_args"]["dataset_classes"] = {}
        return saved

    def _completed(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with what it leaves open filled in."""
        self.sweep = config.pop("optuna", None) or {}
        if config.get("seed_everything") is True:
            config["seed_everything"] = secrets.randbelow(2**31)
        config["custom_folder_name"] = self.experiment
        config["trainer"] = config.get("trainer") or {}
        # A resumed training, started anew, comes to the same; one from weights needs them again.
        keeps_path = bool(config.get("only_weights_load")) and self.checkpoint_file is not None
        config["ckpt_path"] = str(self.checkpoint_file) if keeps_path else None
        return config

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
        check_unfinished(resumed, arguments.get("max_epochs"))
        callbacks: list[Callback] = as_list(arguments.get("callbacks"))
        check_monitors(callbacks, model, data, callbacks)
        trainer = build_trainer(arguments, "train", default_monitor(callbacks, data))
        missing = None
        if self._looks_at(data):
            missing = prepare_check(model, data, resumed, from_weights=only_weights)
        else:
            prepare_training(model, data, resumed, from_weights=only_weights)
        check_metrics(callbacks, model)
        if only_weights and self.checkpoint is not None:
            load_weights(model, self.checkpoint)
        if self.command.mode == "check":
            facts = self._survey(cli, trainer, model, data, callbacks)
            return self._check(cli, data, facts, missing)
        run = self._create_run("train", cli)
        source = self.checkpoint_file if resumed is not None else None
        history = source.parent.parent / "metrics.csv" if source is not None else None
        if history is not None and not history.is_file():
            log.warning("metrics.csv of the run before was not found: its rows are missing")
        step = int(resumed["global_step"]) if resumed is not None else 0
        recorder = RunRecorder(run, cli.plain(), source, step)
        attach(trainer, run, recorder, history)
        if arguments.get("enable_checkpointing") is not False and not arguments["fast_dev_run"]:
            attach_checkpoints(trainer, run)
        return self._carry_out(run, lambda: fit(trainer, model, data, run, recorder))

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

    def _create_run(self, mode: str, cli: ClassifierCLI) -> Run:
        run = create_run(self.experiment, mode, self.started)
        show(run.folder.as_posix())
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
            known = in_plain_words(error)
            if known is None:
                raise
            raise RunError(known) from error
        finally:
            run.write_result()
            if result.status == "completed":
                print_result(result)
            show(run.folder.as_posix())
        return result
