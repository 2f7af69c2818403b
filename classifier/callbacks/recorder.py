"""RunRecorder: keeps what a run needs to be repeated, resumed and read."""

from __future__ import annotations

import logging
import math
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from classifier.checkpoints import (
    CONFIG_KEY,
    FOLDER_KEY,
    RANDOM_STATE_KEY,
    RANKS_KEY,
    carry_over,
    random_state,
    restore_random_state,
)
from classifier.errors import Interrupted
from classifier.files import link_or_copy
from classifier.runs import BEST, LAST, Run
from classifier.signals import handle_signals, handling_signals

log = logging.getLogger(__name__)


class RunRecorder(Callback):
    """Puts the configuration and the random state into every checkpoint, and obeys signals.

    On SIGINT or SIGTERM the batch is finished, last.ckpt is written, and the run ends; a second
    SIGINT ends it at once. Of several processes each may get the signal: after every training
    batch they agree, so that all stop after the same one.

    Args:
        run: The run folder.
        config: The resolved configuration, as plain data.
        resumed_from: The checkpoint that the training goes on from.
        resumed_step: Optimizer steps that it had made.
    """

    def __init__(
        self,
        run: Run,
        config: dict[str, Any],
        resumed_from: Path | None = None,
        resumed_step: int = 0,
    ) -> None:
        self.run = run
        self.config = config
        self.resumed_from = resumed_from
        self.resumed_step = resumed_step
        self.signum: int | None = None
        self._random_state: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let all processes know the run folder, also those that another program started."""
        if trainer.world_size > 1:
            self.run.folder = Path(trainer.strategy.broadcast(str(self.run.folder)))

    # Checkpoints

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration and the state of the random numbers."""
        checkpoint[CONFIG_KEY] = self.config
        checkpoint[RANDOM_STATE_KEY] = random_state()
        checkpoint[RANKS_KEY] = trainer.world_size
        checkpoint[FOLDER_KEY] = str(self.run.checkpoints.resolve())

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the random state and the paths, when a training is resumed."""
        if self.resumed_from is not None:
            self._random_state = checkpoint.get(RANDOM_STATE_KEY)
            carry_over(checkpoint, self.resumed_from.parent, self.run.checkpoints.resolve())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen, and go on with the random numbers where the checkpoint left off."""
        self._listen()
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None

    # Signals

    def obeying_signals(self) -> AbstractContextManager[None]:
        """Within the block SIGINT and SIGTERM end the training at the next batch."""
        return handling_signals(self._note)

    def _listen(self) -> None:
        """Take SIGTERM back from Lightning, which would end the run without a checkpoint.

        Its handler tells the other processes in the middle of whatever they exchange just then.
        """
        handle_signals(self._note)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen."""
        self._listen()

    on_sanity_check_start = on_test_start = on_predict_start = on_validation_start

    def _note(self, signum: int, frame: Any) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        log.info("%s: ending after this batch", signal.Signals(signum).name)

    def _agree(self, trainer: Any) -> None:
        """Learn of a signal that another process got."""
        if trainer.world_size > 1:
            found = torch.tensor(float(self.signum or 0), device=trainer.strategy.root_device)
            self.signum = int(trainer.strategy.reduce(found, reduce_op="max")) or None

    def end_if_asked(self) -> None:
        """End here when a signal came: between two batches of what precedes the first step.

        Raises:
            Interrupted: names the signal.
        """
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _obey(self, trainer: Any) -> None:
        if self.signum is None:
            return
        if trainer.state.fn == "fit" and not trainer.fast_dev_run and not trainer.sanity_checking:
            trainer.save_checkpoint(self.run.checkpoints / LAST, weights_only=False)
        raise Interrupted(self.signum)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End here when a signal came at the end of the epoch before, which last.ckpt has."""
        self._agree(trainer)
        if trainer.current_epoch > 0:
            self.end_if_asked()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End here when a signal came; after the last batch of an epoch, when it is whole.

        Lightning takes up a checkpoint of the last batch behind the end of its epoch: the epoch's
        validation would never be made.
        """
        self._agree(trainer)
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._obey(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End here when a signal came; a validation within a training is finished first."""
        if trainer.state.fn != "fit" or (trainer.sanity_checking and trainer.world_size == 1):
            self._obey(trainer)

    def on_test_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End here when a signal came."""
        self._obey(trainer)

    def on_predict_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End here when a signal came."""
        self._obey(trainer)


class EpochLine(Checkpoint):
    """Says how every epoch went, in one line of the log.

    A Checkpoint because Lightning calls these last, when all of the epoch's values are logged.
    """

    _SHOWN = ("train_loss", "validation_loss", "validation_accuracy", "validation_f1_score")

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._earlier: list[tuple[Any, ...]] = []  # stops that a checkpoint tells of

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the stops of the training that this one goes on from."""
        self._earlier = [_stop_of(callback) for callback in _stoppers(trainer)]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the time."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the line."""
        if not trainer.is_global_zero:
            return
        logged = trainer.callback_metrics
        watched = [callback.monitor for callback in _watching(trainer)]
        names = [name for name in dict.fromkeys([*self._SHOWN, *watched]) if name in logged]
        values = [f"{name} {logged[name].item():.4f}" for name in names]
        log.info(
            "epoch %d/%s: %s (%.1f s)", trainer.current_epoch + 1, trainer.max_epochs,
            ", ".join(values), time.monotonic() - self._started,
        )  # fmt: skip

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say why a training ended early."""
        for callback, earlier in zip(_stoppers(trainer), self._earlier, strict=True):
            if _stop_of(callback) != earlier:
                log.info("EarlyStopping: %s", _why_stopped(callback))


def _stoppers(trainer: Any) -> list[EarlyStopping]:
    return [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]


def _stop_of(callback: EarlyStopping) -> tuple[Any, ...]:
    """What changes when the callback ends a training; its epoch alone may be 0."""
    return callback.stopped_epoch, callback.stopping_reason, callback.stopping_reason_message


def _why_stopped(callback: EarlyStopping) -> str:
    """Not in Lightning's words, whose sign is wrong where a metric diverged."""
    name, best = callback.monitor, float(callback.best_score)
    found = f"; best {best:.4f}" if math.isfinite(best) else ""
    match callback.stopping_reason:
        case EarlyStoppingReason.STOPPING_THRESHOLD:
            return f"{name} has reached stopping_threshold {callback.stopping_threshold:g}"
        case EarlyStoppingReason.DIVERGENCE_THRESHOLD:
            limit = f"divergence_threshold {callback.divergence_threshold:g}"
            return f"{name} is worse than {limit}{found}"
        case EarlyStoppingReason.NON_FINITE_METRIC:
            return f"{name} is not finite{found}"
        case EarlyStoppingReason.PATIENCE_EXHAUSTED:
            # It may have improved since, in epochs that min_epochs asks for.
            epochs = max(callback.wait_count, callback.patience)
            return f"{name} has not improved for {epochs} epochs{found}"
    return f"another process saw a reason in its {name}"


def _watching(trainer: Any) -> list[Any]:
    """The callbacks that follow a metric."""
    kinds = (ModelCheckpoint, EarlyStopping)
    return [c for c in trainer.callbacks if isinstance(c, kinds) and c.monitor]


class BestMetrics(Checkpoint):
    """Remembers all metrics as they were when the best checkpoint was written.

    Args:
        source: The ModelCheckpoint that chooses it.
    """

    _VALIDATION = "validation_"

    def __init__(self, source: ModelCheckpoint) -> None:
        self.source = source
        self.metrics: dict[str, float] = {}
        self._score: float | None = None
        self._epoch = -1
        self._trainer: Any = None  # of a training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know the trainer when its state is asked for."""
        self._trainer = trainer

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget it."""
        self._trainer = None

    def _look(self, trainer: L.Trainer) -> None:
        if trainer.sanity_checking or self.source.best_model_score is None:
            return
        score = float(self.source.best_model_score)
        if score != self._score:
            self._score, self._epoch = score, trainer.current_epoch
            self.metrics = self._now(trainer, validation=True)

    def _look_at_all(self, trainer: L.Trainer) -> None:
        self._look(trainer)
        if self._epoch == trainer.current_epoch:
            self.metrics = {**self._now(trainer, validation=False), **self.metrics}

    def _now(self, trainer: L.Trainer, *, validation: bool) -> dict[str, float]:
        return {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(self._VALIDATION) == validation and not name.endswith("_step")
        }

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the values of the validation."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take those of the training, which are complete only now."""
        self._look_at_all(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints: a resumed training may not find a better epoch.

        The best checkpoint is written before this callback is told of its score. It is to hold the
        same as the last one, so that both are one file.
        """
        trainer = self._trainer
        if trainer is not None and self.source._should_save_on_train_epoch_end(trainer):
            self._look_at_all(trainer)
        return {"metrics": self.metrics, "score": self._score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.metrics, self._score = dict(state_dict["metrics"]), state_dict["score"]


class BestLink(Checkpoint):
    """Keeps checkpoints/best.ckpt a second name of the user's own best checkpoint.

    Lightning runs checkpoint callbacks last and in order, so this one runs after the user's.

    Args:
        source: The user's ModelCheckpoint.
        folder: The run's checkpoints folder.
    """

    def __init__(self, source: ModelCheckpoint, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self._linked: tuple[str, float] | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow the user's checkpoint."""
        if not trainer.is_global_zero:
            return
        path = Path(self.source.best_model_path or self.source.last_model_path or "")
        if not path.is_file() or path.resolve() == (self.folder / BEST).resolve():
            return
        state = (str(path), path.stat().st_mtime)
        if state != self._linked:
            self.folder.mkdir(exist_ok=True)
            link_or_copy(path, self.folder / BEST)
            self._linked = state

    on_validation_end = on_train_end = on_train_epoch_end
