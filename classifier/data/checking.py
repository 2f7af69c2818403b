"""What the image files of a data set are: read once each, before any training. Needs no torch."""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from classifier.cores import usable_cores
from classifier.data.decoding import decode_image, know_all_formats
from classifier.data.near import Hasher, groups_of, perceptual_hasher
from classifier.data.rules import STAGES

# The splits that must not share an image; to predict an image of the training set is no mistake.
SPLITS = ("train", "val", "test")
_CHUNK = 64
_MOST_THREADS = 4  # an image of 100 megapixels with transparency takes 2.4 GB for a moment
_KINDS = {
    "1": "black and white",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "RGB with transparency",
    "LA": "grey with transparency",
    "I": "32-bit grey",
    "F": "floating point",
}
# Where a PNG can carry an orientation; without any of these it need not be decoded to ask.
_PNG_EXIF = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of one stage. Its path and file are asked for: of each image they would be kept.

    Args:
        stage: train, val, test or predict.
        label: The class name, several in multi-label data, None where it is not known.
        source: The data set; where it has them, its `describe`, `file` and `decodes_as_is` are
            those of ImageDataset.
        index: Position in the data set.
    """

    stage: str
    label: str | tuple[str, ...] | None
    source: Any
    index: int

    @property
    def path(self) -> str:
        """As messages name it."""
        return str(getattr(self.source, "describe", str)(self.index))

    @property
    def file(self) -> Path | None:
        """The image file; None where the data set has no files."""
        file: Callable[[int], Path | None] | None = getattr(self.source, "file", None)
        return None if file is None else file(self.index)

    @property
    def decodes(self) -> bool:
        """Whether training decodes the file with `decode_image`.

        Otherwise the data set's own code reads it, and only that can say what is unreadable.
        """
        return bool(getattr(self.source, "decodes_as_is", False))

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, none to many."""
        names = (self.label,) if isinstance(self.label, str) else self.label or ()
        return tuple(sorted(names))


class Files:
    """Image files as a data set has them.

    Args:
        files: In their order.
    """

    decodes_as_is = True

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def file(self, index: int) -> Path:
        """The file of image `index`."""
        return self.files[index]

    def describe(self, index: int) -> str:
        """The image as a message names it."""
        return str(self.files[index])


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file is.

    Args:
        digest: Hash of its bytes; None when they could not be read.
        error: Why it cannot be decoded; None when it can.
        kind: In words when it is neither RGB nor 8-bit grey, else "".
        width: In pixels, upright; 0 when unknown.
        height: In pixels, upright; 0 when unknown.
        orientation: Of the EXIF data; 1 is upright.
        animated: Whether it holds more than one frame.
        perceptual: 64 bits that similar pictures share; None where not computed.
    """

    digest: bytes | None = None
    error: str | None = None
    kind: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    animated: bool = False
    perceptual: int | None = None


@dataclass(frozen=True)
class DataFacts:
    """All that was found.

    Args:
        entries: Every image of every stage.
        files: One for each entry; None where there is no file.
        class_names: Of the run.
        input_size: Height and width in pixels of what the network sees; None where not known.
        near: Groups of places in `entries` that look almost the same; None when not looked for.
    """

    entries: Sequence[Entry]
    files: Sequence[FileFacts | None]
    class_names: Sequence[str]
    input_size: tuple[int, int] | None = None
    near: Sequence[Sequence[int]] | None = None

    @property
    def stages(self) -> list[str]:
        """The stages that have images."""
        found = {entry.stage for entry in self.entries}
        return [name for name in STAGES if name in found]

    def num_images(self) -> dict[str, int]:
        """Stage -> number of images."""
        numbers = Counter(entry.stage for entry in self.entries)
        return {name: numbers[name] for name in self.stages}

    def counts(self) -> dict[str, Counter[str]]:
        """Stage -> class -> number of images, for the stages with labels."""
        counts = {
            name: Counter(dict.fromkeys(self.class_names, 0))
            for name in self.stages
            if name in SPLITS
        }
        for entry in self.entries:
            if entry.stage in counts:
                counts[entry.stage].update(entry.labels)
        return counts

    def seen(self) -> Iterator[tuple[Entry, FileFacts]]:
        """The entries with files."""
        for entry, file in zip(self.entries, self.files, strict=True):
            if file is not None:
                yield entry, file


# From the data module to entries


def entries_of(data: Any) -> list[Entry]:
    """Every image of every configured stage.

    Args:
        data: An ImageDataModule after its set-up.

    Raises:
        ConfigError: a stage that cannot be used.
    """
    entries: list[Entry] = []
    for name in STAGES:
        if data.dataset_classes.get(name) is not None or data.selection.is_held_out(name):
            entries += _entries_of_stage(name, data.stage(name), data.class_names)
    return entries


def _entries_of_stage(name: str, stage: Any, class_names: Sequence[str]) -> Iterator[Entry]:
    """The stage's images in their order, and behind them the files that it leaves out as bad."""
    source = copy.copy(stage.source)
    if hasattr(source, "min_side"):
        source.min_side = None  # to see each image as large as it is
    for index, target in zip(stage.indices, stage.targets, strict=True):
        yield Entry(name, _label_of(target, class_names), source, index)
    for index in stage.skipped:
        yield Entry(name, source.samples[index].label, source, index)


def _label_of(target: Any, class_names: Sequence[str]) -> str | tuple[str, ...] | None:
    """The name of a class index, the names of several."""
    if isinstance(target, tuple):
        return tuple(class_names[index] for index in target)
    return class_names[target] if target >= 0 else None


# From entries to facts


def inspect(
    entries: Sequence[Entry],
    class_names: Sequence[str],
    input_size: tuple[int, int] | None = None,
) -> DataFacts:
    """Read and decode every file once.

    Args:
        entries: What to look at.
        class_names: Of the run.
        input_size: Height and width in pixels of what the network sees.
    """
    from tqdm import tqdm

    hasher = perceptual_hasher()
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    files: list[FileFacts | None] = []
    # Here and not only around each image: threads share the filters. What is odd is reported.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.init()  # threads that meet a format for the first time would all import its module
        with (
            ThreadPoolExecutor(min(_MOST_THREADS, usable_cores())) as pool,
            tqdm(total=len(entries), unit="image", leave=False, disable=None) as bar,
        ):
            for found in pool.map(lambda chunk: [_look(entry, hasher) for entry in chunk], chunks):
                files += found
                bar.update(len(found))
    near = None if hasher is None else _near_groups(entries, files)
    return DataFacts(entries, files, class_names, input_size, near)


def _look(entry: Entry, hasher: Hasher | None) -> FileFacts | None:
    file, decodes = entry.file, entry.decodes
    if file is None:
        return _look_inside(entry.source, entry.index, hasher) if decodes else None
    try:
        content = file.read_bytes()
    except OSError as error:
        return FileFacts(error=error.strerror or str(error))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    facts: dict[str, Any] = {}
    reason = None
    try:
        pixels = decode_image(content) if decodes else None
        facts = _header(content)
        if pixels is not None:
            facts |= _of_pixels(pixels, hasher)
    # Damaged files bring Pillow's readers to errors of every kind.
    except Exception as error:
        reason = str(error) if decodes else None
    return FileFacts(digest=digest, error=reason, **facts)


def _look_inside(dataset: Any, index: int, hasher: Hasher | None) -> FileFacts:
    """What can be said of an image that a library keeps in a table or an array."""
    try:
        digest, pixels = dataset.fingerprint(index), dataset.load(index)
    except OSError as error:
        return FileFacts(error=str(error))
    return FileFacts(digest=digest, **_of_pixels(pixels, hasher))


def _of_pixels(pixels: NDArray[np.uint8], hasher: Hasher | None) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    perceptual = None if hasher is None else hasher(pixels)
    return {"width": width, "height": height, "perceptual": perceptual}


def _header(content: bytes) -> dict[str, Any]:
    know_all_formats()
    with Image.open(io.BytesIO(content)) as image:
        orientation = 1
        if image.format != "PNG" or any(word in content for word in _PNG_EXIF):
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        return {
            "kind": _kind(image),
            "width": width,
            "height": height,
            "orientation": orientation if orientation in range(1, 9) else 1,
            # Cameras keep a preview or a depth map behind the photograph in an MPO.
            "animated": image.format != "MPO" and bool(getattr(image, "is_animated", False)),
        }


def _kind(image: Image.Image) -> str:
    """What makes an image odd, in words; nothing for RGB and 8-bit grey."""
    mode = image.mode
    tiles = getattr(image, "tile", ())  # how the pixels are stored: RGB of 16 bits opens as RGB
    if mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in tiles):
        return "16-bit"
    if "transparency" in image.info and mode in ("P", "L", "RGB"):
        mode = {"P": "PA", "L": "LA", "RGB": "RGBA"}[mode]
    return "" if mode in ("RGB", "L") else _KINDS.get(mode, mode)


def _near_groups(entries: Sequence[Entry], files: Sequence[FileFacts | None]) -> list[list[int]]:
    """Of the images of the splits; exact copies stand for one."""
    first: dict[bytes, tuple[int, int]] = {}
    for place, (entry, file) in enumerate(zip(entries, files, strict=True)):
        if file is None or file.digest is None or file.perceptual is None:
            continue
        if entry.stage in SPLITS:
            first.setdefault(file.digest, (place, file.perceptual))
    places = [place for place, _ in first.values()]
    stages = [entries[place].stage for place in places]
    groups = groups_of([bits for _, bits in first.values()], stages)
    return [[places[item] for item in group] for group in groups]
