"""Job: what every command shares, which is its configuration, its run folder and its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from classifier.arguments import Command
from classifier.assembly import Assembled
from classifier.cli import ClassifierCLI
from classifier.commands.ending import carry_out
from classifier.commands.receipt import STAGES, merged, receipt
from classifier.runs import Result, Run, create_run
from classifier.terminal import Log, show

log = logging.getLogger(__name__)


class Job:
    """One command on its way.

    Args:
        command: What is asked for.
        assembled: Its configuration, and the checkpoint that came with it.
        cli: The same, parsed.
        started: time.time() at the start of the command.
        record: The log, which goes into the run folder as soon as there is one.
    """

    def __init__(
        self,
        command: Command,
        assembled: Assembled,
        cli: ClassifierCLI,
        started: float,
        record: Log,
    ) -> None:
        self.command = command
        self.mode = command.mode
        self.sweep = assembled.sweep
        self.experiment = assembled.experiment
        self.checkpoint = assembled.checkpoint
        self.checkpoint_file = assembled.checkpoint_file
        self.goes_on = assembled.goes_on
        self.only_weights = bool(cli.config["only_weights_load"])
        self.cli = cli
        self.started = started
        self.record = record

    @property
    def resumed(self) -> dict[str, Any] | None:
        """The checkpoint that a training goes on from; None where it begins anew."""
        return None if self.only_weights else self.checkpoint

    def create_run(
        self,
        *,
        first: bool = True,
        trainer: Any = None,
        data: Any = None,
        also: Sequence[str] = (),
    ) -> Run:
        """Make the run folder, with all that is known before the first batch.

        Args:
            first: False in the further processes of a distributed run, which write nothing.
            trainer: Of the command, for the receipt.
            data: Set up, for the receipt.
            also: Stages of the data that it looks at besides those of its mode.
        """
        facts: dict[str, Any] = {}
        if first:
            seed = self.cli.config["seed_everything"]
            facts = receipt(self.command.words, self.started, seed)
            facts = merged(facts, trainer, data, [*STAGES.get(self.mode, ()), *also])
        run = create_run(self.experiment, self.mode, self.started, first=first)
        show(run.folder.as_posix())
        if run.writes:
            self.record.write_to(run.folder / "log.txt")
        run.result.seed = self.cli.config["seed_everything"]
        if self.checkpoint is not None and not (self.mode == "train" and self.only_weights):
            run.result.checkpoint = str(self.checkpoint_file)
            log.info(
                "checkpoint %s (epoch %d, step %d)",
                self.checkpoint_file, self.checkpoint["epoch"] + 1, self.checkpoint["global_step"],
            )  # fmt: skip
        run.write_config(self.cli.dump())
        run.write_environment(facts)
        run.write_result()
        return run

    def carry_out(self, run: Run, data: Any, work: Callable[[], None]) -> Result:
        """Do the work, and write down how it ended, whatever happens.

        Args:
            run: The run folder.
            data: The data module, whose batch size is named when memory ran out.
            work: Fills in the run's result.
        """
        return carry_out(run, work, getattr(data, "batch_size", None))
