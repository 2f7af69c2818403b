"""Evaluation transforms of a user's own, read as a Preprocessing: what an export can carry.

They are read from the configuration, as a checkpoint holds it, and without Albumentations: a
checkpoint is opened where that is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from classifier.errors import ConfigError, RunError
from classifier.image_steps import BORDERS, POSITIONS, Crop, Pad, Scale, Step
from classifier.preprocessing import Preprocessing

# cv2.INTER_NEAREST, INTER_LINEAR, INTER_AREA and INTER_LANCZOS4 by their numbers.
_INTERPOLATIONS = {0: "nearest", 1: "linear", 3: "area", 4: "lanczos4"}
_INTER_LINEAR = 1
# cv2.BORDER_CONSTANT, BORDER_REPLICATE, BORDER_REFLECT, BORDER_WRAP and BORDER_REFLECT_101.
_BORDERS = dict(enumerate(BORDERS))
_SEQUENCES = ("Compose", "Sequential")
# Of images that are alike the transforms make images that are alike: these are not, as in
# data/augmentations.py.
_PROBE_SHAPES = ((61, 83), (96, 57))
_REST = ("p", "mask_interpolation", "fill_mask", "transpose_mask")  # nothing to do with images
_NULL = "--data.init_args.augmentations.val null"
_REMEDY = f"Write null for the encoder's own preprocessing: {_NULL}"


def preprocessing_of(
    transforms: Sequence[Any] | None, preprocessing: Preprocessing, key: str, remedy: str = _REMEDY
) -> Preprocessing:
    """What a list of evaluation transforms comes to.

    Args:
        transforms: The list: of class_path and init_args, as a configuration holds it, or of
            Albumentations transforms; None is the encoder's own preprocessing.
        preprocessing: The encoder's.
        key: The configuration key of the list, for messages.
        remedy: What to do about a transform that cannot be repeated, for the message.

    Returns:
        What makes of every image the pixels and the normalisation that the list makes of it; the
        encoder's resize follows where the list leaves images at different sizes.

    Raises:
        ConfigError: a transform that cannot be repeated without Albumentations; names it.
    """
    if transforms is None:
        return preprocessing
    reading = _Reading(key, remedy)
    for transform in transforms:
        reading.add(transform)
    found = replace(preprocessing, steps=tuple(reading.steps))
    if reading.gives_floats:
        found = found.normalised(reading.mean(), reading.std())
    sizes = _sizes(found.steps, key)
    if len(sizes) > 1:
        if reading.gives_floats:
            raise ConfigError(
                key, "normalises images that are not all of one size",
                remedy="Put albumentations.Resize or CenterCrop before it",
            )  # fmt: skip
        return found
    (size,) = sizes
    return replace(found, size=size, resize=size, resize_mode="squash")


def _sizes(steps: Sequence[Step], key: str) -> set[tuple[int, int]]:
    """The heights and widths that steps make of unlike images."""
    sides = [side for step in steps for side in (step.height, step.width) if side is not None]
    wide = 2 * max(sides, default=1) + 1  # a padding leaves it as it is
    sizes = set()
    for size in (*_PROBE_SHAPES, (wide, wide + 12)):
        try:
            for step in steps:
                size = step.size_of(*size)
        except RunError as error:
            raise ConfigError(key, f"fails: {error}", remedy="Put one that resizes first") from None
        sizes.add(size)
    return sizes


@dataclass
class _Reading:
    """A list of transforms as far as it has been read."""

    key: str
    remedy: str
    steps: list[Step] = field(default_factory=list)
    gives_floats: bool = False
    # Of a pixel in [0, 1] the list makes (pixel - offset) / scale, for each channel.
    offset: list[float] = field(default_factory=lambda: [0.0] * 3)
    scale: list[float] = field(default_factory=lambda: [1 / 255] * 3)

    def mean(self) -> tuple[float, float, float]:
        red, green, blue = (round(value, 12) for value in self.offset)
        return red, green, blue

    def std(self) -> tuple[float, float, float]:
        red, green, blue = (round(value, 12) for value in self.scale)
        return red, green, blue

    def add(self, transform: Any) -> None:
        """Read the next transform."""
        class_path, arguments = _plain(transform)
        package, _, rest = class_path.partition(".")
        name = rest.rpartition(".")[2]
        chance = arguments.get("p", 1.0)
        if package == "albumentations" and chance != 1:
            raise self._error(class_path, f"which is done by chance (p: {chance})")
        if package == "albumentations" and name in _SEQUENCES:
            for inner in arguments.get("transforms") or ():
                self.add(inner)
            return
        if package != "albumentations" or name not in _READERS:
            raise self._error(class_path, "which is none of " + ", ".join(sorted(_READERS)))
        kept = {key: value for key, value in arguments.items() if key not in _REST}
        try:
            _READERS[name](self, **kept)
        except _NotCarriedError as error:
            raise self._error(class_path, str(error)) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(
                self.key,
                f"{class_path} cannot be read ({error})",
                got=arguments,
                remedy=self.remedy,
            ) from error

    def _error(self, class_path: str, reason: str) -> ConfigError:
        return ConfigError(
            self.key,
            f"{class_path}, {reason}, cannot be done without Albumentations",
            remedy=self.remedy,
        )

    def step(self, *steps: Step) -> None:
        if self.gives_floats and not all(isinstance(step, Crop) for step in steps):
            raise _NotCarriedError("which stands behind the normalisation")
        self.steps += steps


class _NotCarriedError(Exception):
    """Why a transform cannot be carried, in words that follow its name."""


def _plain(transform: Any) -> tuple[str, Mapping[str, Any]]:
    """Class path and arguments of a transform, or of what a configuration says of it."""
    if isinstance(transform, str):
        return transform, {}
    if isinstance(transform, Mapping):
        return str(transform.get("class_path")), transform.get("init_args") or {}
    kind = type(transform)
    names = [name for name in inspect.signature(kind).parameters if hasattr(transform, name)]
    arguments = {name: getattr(transform, name) for name in names}
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}", arguments


# Readers of single transforms, by their names; arguments and defaults are those of Albumentations.


def _resize(
    reading: _Reading, height: int, width: int,
    interpolation: int = _INTER_LINEAR, area_for_downscale: str | None = None,
) -> None:  # fmt: skip
    names = _interpolations(interpolation, area_for_downscale)
    reading.step(Scale(int(height), int(width), "squash", *names))


def _scaled(rule: str) -> Callable[..., None]:
    def read(
        reading: _Reading,
        max_size: int | Sequence[int] | None = None,
        max_size_hw: Sequence[int | None] | None = None,
        interpolation: int = _INTER_LINEAR,
        area_for_downscale: str | None = None,
    ) -> None:
        if isinstance(max_size, Sequence):
            if len(max_size) != 1:
                raise _NotCarriedError("which draws its size")
            max_size = max_size[0]
        height, width = (max_size, max_size) if max_size_hw is None else max_size_hw
        if height is None and width is None:
            raise ValueError("no size")
        names = _interpolations(interpolation, area_for_downscale)
        reading.step(Scale(height, width, rule, *names))

    return read


def _centre_crop(
    reading: _Reading, height: int, width: int, pad_if_needed: bool = False,
    pad_position: str = "center", border_mode: int = 0, fill: Any = 0,
) -> None:  # fmt: skip
    height, width = int(height), int(width)
    if pad_if_needed:
        border = _border(border_mode, fill)
        reading.step(Pad(height, width, position=_position(pad_position), **border))
    reading.step(Crop(height, width))


def _pad_if_needed(
    reading: _Reading, min_height: int | None = 1024, min_width: int | None = 1024,
    pad_height_divisor: int | None = None, pad_width_divisor: int | None = None,
    position: str = "center", border_mode: int = 0, fill: Any = 0,
) -> None:  # fmt: skip
    border = _border(border_mode, fill)
    reading.step(
        Pad(
            min_height, min_width, pad_height_divisor, pad_width_divisor,
            _position(position), **border,
        )
    )  # fmt: skip


def _normalise(
    reading: _Reading,
    mean: Any = (0.485, 0.456, 0.406),
    std: Any = (0.229, 0.224, 0.225),
    max_pixel_value: float = 255.0,
    normalization: str = "standard",
) -> None:
    if normalization != "standard":
        raise _NotCarriedError(f"which normalises every image by itself ({normalization})")
    for channel, (middle, width) in enumerate(zip(_three(mean), _three(std), strict=True)):
        reading.offset[channel] += reading.scale[channel] * middle * max_pixel_value
        reading.scale[channel] *= width * max_pixel_value
    reading.gives_floats = True


def _to_float(reading: _Reading, max_value: float | None = None) -> None:
    if reading.gives_floats:
        return  # Albumentations leaves floats as they are
    factor = 255.0 if max_value is None else float(max_value)
    reading.scale = [value * factor for value in reading.scale]
    reading.gives_floats = True


def _nothing(reading: _Reading) -> None:
    """Channels first, or nothing at all: no other pixels."""


_READERS: dict[str, Callable[..., None]] = {
    "CenterCrop": _centre_crop, "LongestMaxSize": _scaled("fit"), "NoOp": _nothing,
    "Normalize": _normalise, "PadIfNeeded": _pad_if_needed, "Resize": _resize,
    "SmallestMaxSize": _scaled("cover"), "ToFloat": _to_float, "ToTensorV2": _nothing,
}  # fmt: skip


def _interpolations(number: int, area_for_downscale: str | None) -> tuple[str, str]:
    """Names of the interpolations of an image that is enlarged, and of one that shrinks."""
    name = _INTERPOLATIONS.get(number)
    shrinking = name if area_for_downscale is None else "area"
    if name is None or shrinking is None:
        known = ", ".join(f"{key} ({value})" for key, value in _INTERPOLATIONS.items())
        raise _NotCarriedError(f"whose interpolation {number} is none of {known}")
    return name, shrinking


def _position(position: str) -> str:
    if position not in POSITIONS:
        raise _NotCarriedError(f"whose position is {position}")
    return position


def _border(mode: int, fill: Any) -> dict[str, Any]:
    if mode not in _BORDERS:
        raise _NotCarriedError(f"whose border mode {mode} is none of 0 to {len(_BORDERS) - 1}")
    colour = tuple(int(np.clip(np.rint(value), 0, 255)) for value in _three(fill))
    return {"border": _BORDERS[mode], "fill": colour}


def _three(value: Any) -> list[float]:
    """A number for each channel."""
    values = [float(item) for item in (value if isinstance(value, Sequence) else [value] * 3)]
    if len(values) != 3:
        raise ValueError(f"{len(values)} channels")
    return values
