"""Images in memory, and a data module over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier import ImageDataModule, ImageDataset
from classifier.data.datasets import Sample


class Painted(ImageDataset):
    """Images in memory with the labels, and groups, that a test needs."""

    def __init__(self, labels: Sequence[Any], groups: Sequence[str | None] | None = None) -> None:
        super().__init__()
        self.labels = labels
        self.groups = groups or [None] * len(labels)

    def scan(self) -> list[Sample]:
        pairs = zip(self.labels, self.groups, strict=True)
        return [Sample(f"{i:04d}", label, group) for i, (label, group) in enumerate(pairs)]

    def load(self, index: int) -> NDArray[np.uint8]:
        return np.full((32, 32, 3), index % 256, dtype=np.uint8)


def module(dataset: Any, **arguments: Any) -> ImageDataModule:
    datasets = arguments.pop("datasets", {})
    data = ImageDataModule({"train": dataset, **datasets}, num_workers=0, seed=3, **arguments)
    data.setup("fit")
    return data


def paths(data: ImageDataModule, stage: str) -> set[str]:
    part = data.stage(stage)
    return {part.path(place) for place in range(len(part))}
