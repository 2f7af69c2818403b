"""Loggers beside metrics.csv: TensorBoard where it is installed, and pictures for several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from classifier.errors import reason_of
from classifier.files import copy_whole
from classifier.runs import Run, trial_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_EVENTS = "events.out.tfevents.*"


class EventFiles(TensorBoardLogger):
    """TensorBoard's event files, in the run folder itself: `tensorboard --logdir runs` shows all.

    Args:
        folder: The run folder.
        from_step: Optimizer steps that a resumed training had made: what the files that it took
            over say of later ones is not shown, because these steps are made again.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        purge: dict[str, Any] = {"purge_step": from_step} if from_step else {}
        super().__init__(folder, name="", version="", default_hp_metric=False, **purge)

    @rank_zero_only
    def save(self) -> None:
        """Write what is still in memory; the hyperparameters are in config.yaml."""
        self.experiment.flush()


def default_loggers(
    asked: Any, run: Run, history: Path | None = None, from_step: int = 0
) -> list[Logger]:
    """TensorBoard, unless the user decides otherwise. Imports it only when it writes.

    The trials of a sweep get none: importing it takes longer than a small trial, and trials.csv and
    the sweep's report compare them. A logger in the configuration is for trials, too.

    Args:
        asked: `trainer.logger` of the configuration; null and true are the default, false is no
            logger at all beside metrics.csv, and loggers take its place.
        run: The run folder.
        history: The folder of the run that is resumed, whose event files are taken over.
        from_step: Optimizer steps that it had made.
    """
    if not (asked is None or asked is True) or trial_folder() is not None:
        return []
    if (asked is None and find_spec("tensorboard") is None) or not _can_be_imported():
        return []
    if history is not None and run.writes:
        for file in sorted(history.glob(_EVENTS)):
            copy_whole(file, run.folder / file.name)
    return [EventFiles(run.folder, from_step)]


def _can_be_imported() -> bool:
    """Whether TensorBoard is whole; what is not asked for shall not stop a training."""
    try:
        import_module("torch.utils.tensorboard")
    except (ImportError, TypeError) as error:  # protobuf refuses files of another release so
        log.warning(
            "no TensorBoard (%s): trainer.logger: false does without", reason_of(error, 200)
        )
        return False
    return True


@rank_zero_only
def log_figures(loggers: Iterable[Logger], figures: Mapping[str, Path | Figure], step: int) -> None:
    """Show pictures in all loggers that can: TensorBoard, W&B, MLflow, and subclasses of these.

    Of the others nothing is asked: the pictures are in the run folder, too.

    Args:
        loggers: Of the trainer, also after the training has ended.
        figures: Name, without a slash -> PNG file, or figure of matplotlib.
        step: Optimizer steps that the pictured model had made.
    """
    pictures: dict[str, NDArray[np.uint8]] = {}
    for logger in loggers:
        show = next((_SHOW[c.__name__] for c in type(logger).__mro__ if c.__name__ in _SHOW), None)
        if show is None:
            continue
        pictures = pictures or {name: _pixels(figure) for name, figure in figures.items()}
        show(logger, pictures, step)


def _pixels(figure: Path | Figure) -> NDArray[np.uint8]:
    """RGB (H, W, 3) uint8; what is transparent becomes white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imread

    if isinstance(figure, Path):
        values = np.asarray(imread(figure), dtype=np.float64)  # in [0, 1]
    else:
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        values = np.asarray(canvas.buffer_rgba()) / 255
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    alpha = values[..., 3:] if values.shape[2] == 4 else 1.0
    on_white = values[..., :3] * alpha + (1.0 - alpha)
    return np.round(on_white * 255).astype(np.uint8)


def _in_tensorboard(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    for name, pixels in pictures.items():
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    logger.experiment.close()  # the training closed it; another picture opens it again


def _in_wandb(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    for name, pixels in pictures.items():
        logger.log_image(key=name, images=[pixels], step=step)


def _in_mlflow(logger: Any, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    for name, pixels in pictures.items():
        logger.experiment.log_image(logger.run_id, pixels, f"{name}.png")


# Class of Lightning's logger -> how it shows pictures. None of their libraries is imported.
_SHOW: dict[str, Callable[[Any, Mapping[str, NDArray[np.uint8]], int], None]] = {
    "TensorBoardLogger": _in_tensorboard,
    "WandbLogger": _in_wandb,
    "MLFlowLogger": _in_mlflow,
}
