"""Which images an export is verified on: those that the user names, else of the run's own data."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from classifier.data.datamodule import ImageDataModule
from classifier.data.datasets import ImageDataset, sample_name, scanned
from classifier.data.decoding import BadImageError, decode_image, rgb_pixels
from classifier.data.folders import ImagePathsDataset
from classifier.data.splitting import balanced_part, classes_of
from classifier.errors import ConfigError

log = logging.getLogger(__name__)

FLAG = "--export"
ENOUGH = 32  # of the run's own data
MOST = 256  # of the images that a user names
# In this order, until there are enough: images that the model has not been trained on come first.
_STAGES = {"val": "validation", "test": "test", "predict": "predict", "train": "train"}
_SEED = 0  # the same images every time


@dataclass(frozen=True)
class VerificationImage:
    """One image.

    Args:
        name: As the user names it; of the run's own data with the stage before it.
        file: From which every program decodes the same pixels; absolute.
    """

    name: str
    file: Path


def find_images(
    data: ImageDataModule, paths: Sequence[str], folder: Path
) -> list[VerificationImage]:
    """Images that can be decoded, the same ones every time.

    Args:
        data: With the classes of a checkpoint.
        paths: Images and folders that the user names; none takes the run's own data.
        folder: Existing: for images that have no file of their own.

    Raises:
        ConfigError: there are none; says why.
    """
    finder = _Finder(data.background, folder)
    if paths:
        finder.look(ImagePathsDataset(paths, flag=FLAG), MOST)
        if finder.found:
            return finder.found
        raise ConfigError(
            FLAG, "none of these images can be decoded", got=list(paths),
            remedy="Name images or folders of images",
        )  # fmt: skip
    reasons = []
    for stage in _STAGES:
        if len(finder.found) >= ENOUGH:
            break
        try:
            finder.look_at_stage(data, stage)
        except ConfigError as error:
            reasons.append(str(error))
    reasons = list(dict.fromkeys(reasons))  # stages may share a folder that is gone
    if not finder.found:
        told = f" ({reasons[0].rstrip('.')})" if reasons else ""
        raise ConfigError(
            FLAG, f"the run's own images, on which the export is verified, are not there{told}",
            remedy="Name images: --export onnx photos/",
        )  # fmt: skip
    for reason in reasons:
        log.info("no images for the verification: %s", reason)
    if len(finder.found) < ENOUGH:
        log.warning(
            "the export is verified on %d images, all that the run's data has; name more for a "
            "verification on %d", len(finder.found), ENOUGH,
        )  # fmt: skip
    return finder.found


class _Finder:
    """Collects images.

    Args:
        background: What shows through transparent images.
        folder: For images that have no file of their own.
    """

    def __init__(self, background: tuple[int, int, int], folder: Path) -> None:
        self.background = background
        self.folder = folder
        self.found: list[VerificationImage] = []

    def look_at_stage(self, data: ImageDataModule, stage: str) -> None:
        """Add images of a stage, as far as there are not enough.

        Raises:
            ConfigError: its data is not there, or has other classes.
        """
        if stage == "predict":
            if data.dataset_classes.get(stage) is not None:
                self.look(scanned(data.dataset_classes, stage), ENOUGH, stage)
            return
        has = {"val": data.has_validation, "test": data.has_test}.get(stage, lambda: True)
        if has():
            members = data.selection.members(stage)
            self.look(members.source, ENOUGH, stage, members.indices, members.targets)

    def look(
        self,
        source: Any,
        most: int,
        stage: str | None = None,
        indices: Sequence[int] | None = None,
        targets: Sequence[Any] | None = None,
    ) -> None:
        """Add images of a data set until there are so many, as evenly over its classes as possible.

        Args:
            source: Its images are decoded as the run decodes them.
            most: Of all images that were found so far.
            stage: Of the run, which has it; None of images that the user names.
            indices: Positions in it; None for all.
            targets: Of these; None where they are not known.
        """
        before = "" if stage is None else f"{_STAGES[stage]}: "
        source = copy.copy(source)
        source.augmentations = _unchanged
        if isinstance(source, ImageDataset):
            source.min_side, source.background, source.kept = None, self.background, None
        left = list(range(len(source))) if indices is None else list(indices)
        classes = [classes_of(target) for target in targets or [-1] * len(left)]
        names = [before + sample_name(source, index) for index in left]
        bad = []
        while left and len(self.found) < most:
            chosen = balanced_part(names, classes, most - len(self.found), _SEED)
            bad += [
                names[place] for place in chosen if not self._add(names[place], source, left[place])
            ]
            rest = sorted(set(range(len(left))).difference(chosen))
            left, names = [left[place] for place in rest], [names[place] for place in rest]
            classes = [classes[place] for place in rest]
        if left and stage is None:
            log.info("verified on %d of the images, the same ones every time", most)
        if bad:
            shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if bad[5:] else "")
            log.warning("not verified on %d images, which cannot be decoded: %s", len(bad), shown)

    def _add(self, name: str, source: Any, index: int) -> bool:
        """Whether an image can be decoded; then it is among those found."""
        try:
            file = self._file(source, index)
        except (BadImageError, FileNotFoundError):
            return False
        if all(file != other.file for other in self.found):  # two stages may share images
            self.found.append(VerificationImage(name, file))
        return True

    def _file(self, source: Any, index: int) -> Path:
        """The file of an image, or a new one with its pixels.

        That is for an image without a file, and for one that only its data set can decode.
        """
        file = source.file(index) if isinstance(source, ImageDataset) else None
        if file is not None and source.decodes_as_is:
            decode_image(file)
            return Path(file).absolute()
        image = source.load(index) if isinstance(source, ImageDataset) else source[index][0]
        pixels = rgb_pixels(image, self.background) if isinstance(image, Image.Image) else image
        copied = self.folder.absolute() / f"{len(self.found):04d}.png"
        Image.fromarray(pixels).save(copied)
        return copied


def _unchanged(*, image: Any) -> dict[str, Any]:
    """Stands for the augmentations of a data set."""
    return {"image": image}
