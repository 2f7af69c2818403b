"""The parts of benchmarks/growth.py: what grows in each, from how many to how many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import growth_images, growth_results
from benchmarks.growth_probe import Probe


@dataclass(frozen=True)
class Part:
    """Something whose cost grows with a number.

    Args:
        title: Head of its table.
        item: What there are so many of: image, trial, class, row.
        work: Does it all at one size, in a folder that all sizes share, and tells the probe.
        sizes: Measured unless they are above --largest; ascending.
        aim: The number that is asked about; what was not measured is extrapolated to it.
        prepare: Makes in the folder what a size needs beyond the one before; is not measured.
        traced: Whether some of its steps keep objects that are counted.
    """

    title: str
    item: str
    work: Callable[[int, Path, Probe], None]
    sizes: tuple[int, ...]
    aim: int
    prepare: Callable[[Path, int], None] | None = None
    traced: bool = True

    def sizes_up_to(self, largest: int | None, *, smallest: bool) -> tuple[int, ...]:
        """The sizes that are measured; others, tiny ones, where it is only shown that it runs."""
        if smallest:
            return self.smallest
        return tuple(size for size in self.sizes if largest is None or size <= largest)

    @property
    def smallest(self) -> tuple[int, ...]:
        """Sizes that show in seconds that it runs."""
        return {"trial": (10, 20), "class": (3, 10)}.get(self.item, (200, 400))


_IMAGES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
_DECODED = (1_000, 3_000, 10_000, 30_000, 100_000)
_MANY = 10_000_000
PARTS = {
    "folders": Part(
        "images in 100 class folders", "image", growth_images.folders, _IMAGES, _MANY,
        growth_images.empty_files,
    ),
    "tables": Part(
        "images in a CSV table", "image", growth_images.tables, _IMAGES, _MANY,
        growth_images.table,
    ),
    "check": Part(
        "images that --check looks at", "image", growth_images.check, _DECODED, _MANY,
        growth_images.pictures,
    ),
    "map": Part(
        "decoded images on disk", "image", growth_images.image_map, _DECODED, _MANY,
        growth_images.pictures,
    ),
    "features": Part(
        "features on disk", "image", growth_images.features, _DECODED, _MANY,
        growth_images.pictures,
    ),
    "predictions": Part(
        "predictions of 10 classes", "image", growth_results.predictions, _IMAGES, _MANY
    ),
    "report": Part("a report on 10 classes", "image", growth_results.report, _IMAGES, _MANY),
    "metrics": Part(
        "an epoch's metrics of 10 classes", "image", growth_results.metrics, _IMAGES, _MANY,
        traced=False,
    ),
    "rows": Part(
        "logged steps", "row", growth_results.rows, (1_000, 10_000, 30_000, 100_000), 1_000_000
    ),
    "study": Part(
        "trials of a sweep", "trial", growth_results.study, (10, 100, 300, 1_000, 3_000), 10_000,
        traced=False,
    ),
    "classes": Part(
        "classes, of 2,000 images", "class", growth_results.classes,
        (10, 100, 1_000, 3_000, 10_000), 21_841,  # ImageNet-21k's
    ),
}  # fmt: skip
