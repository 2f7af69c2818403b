"""--lr_find: a learning rate found by trying."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import LearningRateFinder
from numpy.typing import NDArray

from classifier.commands.job import Job
from classifier.commands.prepare import prepare
from classifier.commands.trainer import TRYING
from classifier.errors import ConfigError, RunError
from classifier.files import replacing
from classifier.model.classifier import ImageClassifier
from classifier.model.optimizers import with_highest_rate
from classifier.model.parameter_groups import OPTIMIZER
from classifier.model.range_test import in_proportion
from classifier.runs import Result, Run
from classifier.signals import end_at_once, handling_signals

log = logging.getLogger(__name__)

NUM_STEPS = 100  # learning rates that the range test tries, from 1e-8 to 1
_SKIPPED = 10  # of them, at the beginning, from which nothing is concluded
_FORGETS = 0.98  # of Lightning's running mean
_WIDTH = 3.0  # steps, of the mean over the neighbours
_NEVER = 10**9  # epochs


class _RangeTest(LearningRateFinder):
    """Lightning's, on the rates of a training that has several."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with in_proportion(trainer.optimizers[0]):
            super().on_fit_start(trainer, pl_module)


def find_learning_rate(job: Job) -> Result:
    """Run the range test and say which learning rate to set. Nothing is changed.

    Writes report/lr_find.csv and report/lr_find.png.

    Args:
        job: Of the mode lr_find.

    Raises:
        ConfigError: there is nothing to find, or something is wrong with the configuration.
        RunError: no rate can be suggested.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
    """
    _check(job)
    # So many steps, no validation, no callbacks.
    found = prepare(
        job, **TRYING, max_steps=NUM_STEPS, val_check_interval=None, check_val_every_n_epoch=_NEVER
    )
    if isinstance(found.model, ImageClassifier) and found.model.lr == 0:
        raise ConfigError(
            f"{OPTIMIZER}.lr", "every learning rate is 0, so that there is none to vary",
            remedy="Write rates above 0, in the proportion that they shall have",
        )  # fmt: skip
    run = job.create_run(trainer=found.trainer, data=found.data)
    return job.carry_out(
        run, found.data, lambda: _find_rate(found.trainer, found.model, found.data, run)
    )


def _check(job: Job) -> None:
    if job.resumed is not None:
        raise ConfigError(
            "ckpt_path", "--lr_find tries the beginning of a training, not one that goes on",
            remedy="Leave it out, or add only_weights_load: true",
        )  # fmt: skip
    few = job.cli.config["trainer"]["fast_dev_run"]
    if few:
        raise ConfigError(
            "trainer.fast_dev_run", f"--lr_find makes {NUM_STEPS} steps", got=few,
            remedy="Write false",
        )  # fmt: skip


def _find_rate(
    trainer: Any, model: L.LightningModule, data: L.LightningDataModule, run: Run
) -> None:
    if isinstance(model, ImageClassifier):
        model.scheduler_config = None  # the test has a schedule of its own
    finder = _RangeTest(num_training_steps=NUM_STEPS, update_attr=False)
    finder._early_exit = True  # as Lightning's Tuner does: the test, and no training after it
    trainer.callbacks.insert(0, finder)
    trainer._default_root_dir = str(run.folder)  # where the test keeps the weights meanwhile
    with handling_signals(end_at_once), redirect_stdout(sys.stderr):
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
    with (
        replacing(folder / "lr_find.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
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
