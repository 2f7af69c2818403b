"""A learning rate, and a batch size, found by trying: --lr_find and auto_batch_size."""

from __future__ import annotations

import copy
import csv
import logging
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from classifier.callbacks.finders import BATCH_SIZE
from classifier.errors import ConfigError, Interrupted, RunError
from classifier.memory import AUTO_BATCH_SIZE, out_of_memory
from classifier.model.classifier import ImageClassifier
from classifier.model.optimizers import with_highest_rate
from classifier.model.parameter_groups import OPTIMIZER
from classifier.model.range_test import in_proportion
from classifier.runs import Run
from classifier.training import build_trainer

log = logging.getLogger(__name__)

NUM_STEPS = 100  # learning rates that the range test tries, from 1e-8 to 1
_SKIPPED = 10  # of them, at the beginning, from which nothing is concluded
_FORGETS = 0.98  # of Lightning's running mean
_WIDTH = 3.0  # steps, of the mean over the neighbours
_HARMLESS_RATE = 1e-12  # for steps that only fill the memory
_NEVER = 10**9  # epochs
_QUIET = {
    "callbacks": None, "logger": None, "num_sanity_val_steps": 0, "enable_checkpointing": False,
    "max_time": None, "min_epochs": None, "min_steps": None, "max_epochs": -1,
}  # fmt: skip


def range_test_arguments(arguments: Mapping[str, Any], resumed: Any) -> dict[str, Any]:
    """What a trainer needs for the range test: so many steps, no validation, no callbacks.

    Args:
        arguments: The trainer's, of the configuration.
        resumed: The checkpoint that a training would go on from; None without one.

    Raises:
        ConfigError: there is nothing to find.
    """
    if resumed is not None:
        raise ConfigError(
            "ckpt_path", "--lr_find tries the beginning of a training, not one that goes on",
            remedy="Leave it out, or add only_weights_load: true",
        )  # fmt: skip
    if arguments.get("fast_dev_run"):
        raise ConfigError(
            "trainer.fast_dev_run", f"--lr_find makes {NUM_STEPS} steps",
            got=arguments["fast_dev_run"], remedy="Write false",
        )  # fmt: skip
    return {
        **arguments, **_QUIET, "max_steps": NUM_STEPS,
        "val_check_interval": None, "check_val_every_n_epoch": _NEVER,
    }  # fmt: skip


class _RangeTest(LearningRateFinder):
    """Lightning's, on the rates of a training that has several."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with in_proportion(trainer.optimizers[0]):
            super().on_fit_start(trainer, pl_module)


def find_rate(
    trainer: Any, model: L.LightningModule, data: L.LightningDataModule, run: Run
) -> None:
    """Run the range test and say which learning rate to set. Nothing is changed.

    Writes report/lr_find.csv and report/lr_find.png.

    Args:
        trainer: Built with `range_test_arguments`.
        model: Built.
        data: Set up.
        run: Its result takes the suggestion.

    Raises:
        RunError: no rate can be suggested.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
    """
    if isinstance(model, ImageClassifier):
        model.scheduler_config = None  # the test has a schedule of its own
    finder = _RangeTest(num_training_steps=NUM_STEPS, update_attr=False)
    finder._early_exit = True  # as Lightning's Tuner does: the test, and no training after it
    trainer.callbacks.insert(0, finder)
    trainer._default_root_dir = str(run.folder)  # where the test keeps the weights meanwhile
    with _ended_by_signals(), redirect_stdout(sys.stderr):
        trainer.fit(model, datamodule=data)
    run.result.precision = str(trainer.precision)
    found = finder.optimal_lr
    rates = [] if found is None else found.results["lr"]
    losses = [] if found is None else plain_losses(found.results["loss"])
    suggested = steepest_rate(rates[: len(losses)], losses)
    if suggested is None:
        raise RunError(
            "the range test saw no learning rate at which the loss falls. Use a larger training "
            "set, or a larger data.init_args.batch_size"
        )
    _report(run, rates[: len(losses)], losses, suggested)
    named = {"lr": suggested}
    if isinstance(model, ImageClassifier):
        named = with_highest_rate(model.optimizer_config, suggested)
    run.result.found = {f"{OPTIMIZER}.{key}": float(f"{rate:.3g}") for key, rate in named.items()}


def plain_losses(smoothed: Sequence[float]) -> list[float]:
    """The losses of the steps, of Lightning's running mean over them.

    The mean forgets 2 % a step, so that of 100 steps it lags behind by decades of the rate, and its
    correction for the beginning counts a step too many: it begins at half of the loss.

    Args:
        smoothed: As `LearningRateFinder` keeps them.
    """
    means = [s * (1 - _FORGETS ** (step + 2)) for step, s in enumerate(smoothed)]
    before = [0.0, *means[:-1]]
    return [(m - _FORGETS * b) / (1 - _FORGETS) for m, b in zip(means, before, strict=True)]


def steepest_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss, smoothed without a lag, falls most for each factor of the rate.

    Args:
        rates: Rising.
        losses: Of the steps at these rates.

    Returns:
        None where the loss never falls.
    """
    finite = [*np.isfinite(losses), False].index(False)  # the test ends where it diverges
    rates, losses = rates[:finite], losses[:finite]
    if finite <= _SKIPPED + 2:
        return None
    smooth = smoothed_losses(losses)
    lowest = _SKIPPED + int(np.argmin(smooth[_SKIPPED:]))
    slopes = np.gradient(smooth, np.log10(rates))[_SKIPPED : lowest + 1]
    best = int(np.argmin(slopes))
    return float(rates[_SKIPPED + best]) if slopes[best] < 0 else None


def smoothed_losses(losses: Sequence[float]) -> NDArray[np.float64]:
    """A mean over the neighbours of each loss, to both sides."""
    from scipy.ndimage import gaussian_filter1d

    smooth: NDArray[np.float64] = gaussian_filter1d(np.asarray(losses, dtype=float), _WIDTH)
    return smooth


def _report(run: Run, rates: list[float], losses: list[float], suggested: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    smooth = smoothed_losses([loss for loss in losses if np.isfinite(loss)]).tolist()
    rates, losses = rates[: len(smooth)], losses[: len(smooth)]
    folder = run.folder / "report"
    folder.mkdir(exist_ok=True)
    with (folder / "lr_find.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "smoothed_loss"])
        writer.writerows(zip(rates, losses, smooth, strict=True))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="0.8", label="of each step")
    axes.plot(rates, smooth, label="smoothed")
    place = smooth[rates.index(suggested)]
    axes.plot([suggested], [place], "o", label=f"steepest at {suggested:.3g}")
    # A training that diverges would press the valley flat.
    low, high = min(smooth), max(smooth[: rates.index(suggested) + 1])
    axes.set_ylim(low - 0.3 * (high - low), high + 0.5 * (high - low))
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.legend()
    figure.savefig(folder / "lr_find.png", dpi=120)


def check_auto_batch_size(data: Any, trainer: Any) -> None:
    """Refuse to look for a batch size where Lightning cannot.

    Raises:
        ConfigError: several devices, or too little of a training.
    """
    if not getattr(data, "auto_batch_size", False):
        return
    if trainer.num_devices * trainer.num_nodes > 1:
        raise ConfigError(
            AUTO_BATCH_SIZE, "finds a size on one device only", got=True,
            remedy="Find it with trainer.devices: 1, and write it as data.init_args.batch_size",
        )  # fmt: skip
    if trainer.fast_dev_run:
        raise ConfigError(
            AUTO_BATCH_SIZE, "stands beside trainer.fast_dev_run, which trains too little for it",
            got=True, remedy="Write false",
        )  # fmt: skip


def find_batch_size(
    arguments: Mapping[str, Any], model: L.LightningModule, data: Any, run: Run
) -> int:
    """The largest power of two that fits into memory, at most the number of training images.

    It is tried on a copy of the model, with all layers trained that ever will be, at a learning
    rate of almost nothing, and with the random numbers put back: the training after it is the one
    that has this batch size written in its file.

    Args:
        arguments: The trainer's, of the configuration.
        model: Built.
        data: Set up, with `stage("train")`; not changed.
        run: The run folder.

    Raises:
        RunError: not even one image fits.
    """
    num_images = len(data.stage("train"))
    trial_model, trial_data = copy.deepcopy(model), copy.copy(data)
    if isinstance(trial_model, ImageClassifier):
        trial_model.scheduler_config = None
        trial_model.lr = _HARMLESS_RATE
        if trial_model.unfreeze_schedule is not None and trial_model.network is not None:
            trial_model.unfreeze_schedule = None
            trial_model.network.requires_grad_(True)
    trainer: Any = build_trainer({**arguments, **_QUIET, "max_steps": -1}, "train", None)
    trainer._default_root_dir = str(run.folder)
    try:
        with isolate_rng(), _ended_by_signals(), redirect_stdout(sys.stderr):
            # Lightning does not try a size of max_val itself, so it lies beyond all that matter.
            found = Tuner(trainer).scale_batch_size(
                trial_model, datamodule=trial_data, mode="power", max_val=2 * num_images + 2
            )
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        if trial_data.batch_size >= 1:
            raise
        full = str(out_of_memory(torch.OutOfMemoryError(), 1, "train"))
        raise RunError(f"{AUTO_BATCH_SIZE}: not even one image fits: {full}") from error
    size = min(int(found or data.batch_size), num_images)
    why = "all training images" if size == num_images else "the largest that fits into memory"
    log.info("auto_batch_size: %s is %d, %s", BATCH_SIZE, size, why)
    run.result.found[BATCH_SIZE] = size
    return size


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM end at once: there is nothing to save."""

    def end(signum: int, frame: Any) -> None:
        raise Interrupted(signum)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
