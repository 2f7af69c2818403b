"""A YAML-driven image-classification experiment runner on Lightning.

The public names below are what a configuration names by `class_path: classifier.<Name>` and what
Python code imports. They are loaded at first use, so that `import classifier` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier.callbacks.cost import ModelCost
    from classifier.callbacks.metrics import MetricsLogger
    from classifier.data.datamodule import ImageDataModule
    from classifier.data.datasets import FolderImageDataset, ImageDataset
    from classifier.entry import main
    from classifier.model.classifier import ImageClassifier

__all__ = [
    "FolderImageDataset",
    "ImageClassifier",
    "ImageDataModule",
    "ImageDataset",
    "MetricsLogger",
    "ModelCost",
    "main",
]

_HOMES = {
    "FolderImageDataset": "classifier.data.datasets",
    "ImageClassifier": "classifier.model.classifier",
    "ImageDataModule": "classifier.data.datamodule",
    "ImageDataset": "classifier.data.datasets",
    "MetricsLogger": "classifier.callbacks.metrics",
    "ModelCost": "classifier.callbacks.cost",
    "main": "classifier.entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'classifier' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
