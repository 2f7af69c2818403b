"""A YAML-driven image-classification experiment runner on Lightning.

The public names below are what a configuration names by `class_path: classifier.<Name>` and what
Python code imports. They are loaded at first use, so that `import classifier` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier.callbacks.averaging import EpochWeightAveraging
    from classifier.callbacks.cost import ModelCost
    from classifier.callbacks.metrics import MetricsLogger
    from classifier.callbacks.soup import GreedySoup
    from classifier.data.datamodule import ImageDataModule
    from classifier.data.datasets import ImageDataset, Sample
    from classifier.data.decoding import decode_image
    from classifier.data.folders import FolderImageDataset
    from classifier.data.hub_datasets import HuggingFaceDataset
    from classifier.data.tables import CsvImageDataset
    from classifier.data.torchvision_datasets import TorchvisionDataset
    from classifier.data.transforms import RandomResizedCrop, TorchvisionTransform
    from classifier.entry import main
    from classifier.inference.predictor import Predictor
    from classifier.model.classifier import ImageClassifier
    from classifier.model.small_cnn import SmallCNN

__all__ = [
    "CsvImageDataset",
    "EpochWeightAveraging",
    "FolderImageDataset",
    "GreedySoup",
    "HuggingFaceDataset",
    "ImageClassifier",
    "ImageDataModule",
    "ImageDataset",
    "MetricsLogger",
    "ModelCost",
    "Predictor",
    "RandomResizedCrop",
    "Sample",
    "SmallCNN",
    "TorchvisionDataset",
    "TorchvisionTransform",
    "decode_image",
    "main",
]

_HOMES = {
    "CsvImageDataset": "classifier.data.tables",
    "EpochWeightAveraging": "classifier.callbacks.averaging",
    "FolderImageDataset": "classifier.data.folders",
    "GreedySoup": "classifier.callbacks.soup",
    "HuggingFaceDataset": "classifier.data.hub_datasets",
    "ImageClassifier": "classifier.model.classifier",
    "ImageDataModule": "classifier.data.datamodule",
    "ImageDataset": "classifier.data.datasets",
    "MetricsLogger": "classifier.callbacks.metrics",
    "ModelCost": "classifier.callbacks.cost",
    "Predictor": "classifier.inference.predictor",
    "RandomResizedCrop": "classifier.data.transforms",
    "Sample": "classifier.data.datasets",
    "SmallCNN": "classifier.model.small_cnn",
    "TorchvisionDataset": "classifier.data.torchvision_datasets",
    "TorchvisionTransform": "classifier.data.transforms",
    "decode_image": "classifier.data.decoding",
    "main": "classifier.entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'classifier' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
