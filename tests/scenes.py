"""Data in memory whose images have any number of labels, or one."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SIZE = 32
CLASSES = ["cat", "dog", "=fox"]
# Cats are on most images, foxes on few.
FREQUENCIES = [0.7, 0.5, 0.2, 0.4]


class Items(NamedTuple):
    images: Tensor
    targets: Tensor
    indices: Tensor
    errors: tuple[str, ...] = ()


class SceneDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """A bright quarter of an image for each label that it has.

    Args:
        num: Images.
        num_classes: At most four.
        task: multiclass or multilabel.
        seed: Of labels and noise.
        with_truth: Otherwise all targets are -1.
    """

    def __init__(
        self, num: int, num_classes: int, task: str, seed: int, with_truth: bool = True
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        frequencies = torch.tensor(FREQUENCIES[:num_classes])
        if task == "multilabel":
            present = (torch.rand(num, num_classes, generator=random) < frequencies).float()
            self.targets = present
        else:
            self.targets = torch.multinomial(frequencies, num, replacement=True, generator=random)
            present = torch.nn.functional.one_hot(self.targets, num_classes).float()
        if not with_truth:
            self.targets = torch.full((num,), -1)
        corners = torch.zeros(num, 4)
        corners[:, :num_classes] = present
        bright = corners.view(num, 1, 2, 2).repeat_interleave(SIZE // 2, 2)
        bright = bright.repeat_interleave(SIZE // 2, 3).expand(num, 3, SIZE, SIZE)
        self.images = 2 * bright + 0.3 * torch.randn(num, 3, SIZE, SIZE, generator=random)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, int]:
        return self.images[place], self.targets[place], place

    def path(self, place: int) -> str:
        return f"{place}.png"


class Scenes(L.LightningDataModule):
    """Everything that the program asks of a data module with several labels per image.

    Args:
        num_classes: At most four.
        task: multiclass or multilabel.
        num_images: Of the training; the other stages have half as many.
        class_names: null is cat, dog and =fox.
        counted: Whether it says how many images the classes have.
    """

    def __init__(
        self,
        num_classes: int = 3,
        task: str = "multilabel",
        num_images: int = 48,
        class_names: list[str] | None = None,
        counted: bool = True,
    ) -> None:
        super().__init__()
        self.task = task
        self.class_names = class_names or CLASSES[:num_classes]
        self.num_images = num_images
        self.counted = counted
        self.stages: dict[str, SceneDataset] = {}

    def setup(self, stage: str) -> None:
        """Nothing: the stages are made when they are asked for."""

    def stage(self, name: str) -> SceneDataset:
        if name not in self.stages:
            seed = ("train", "val", "test", "predict").index(name)
            num = self.num_images if name == "train" else self.num_images // 2
            classes = len(self.class_names)
            self.stages[name] = SceneDataset(num, classes, self.task, seed, name != "predict")
        return self.stages[name]

    def has_validation(self) -> bool:
        return True

    def class_counts(self) -> list[int] | None:
        targets = self.stage("train").targets
        if not self.counted:
            return None
        if self.task == "multilabel":
            return [int(count) for count in targets.sum(dim=0)]
        return torch.bincount(targets, minlength=len(self.class_names)).tolist()

    def _loader(self, name: str) -> DataLoader[Any]:
        return DataLoader(self.stage(name), batch_size=8, collate_fn=_collate)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("predict")


def _collate(items: list[tuple[Tensor, Tensor, int]]) -> Items:
    images, targets, places = zip(*items, strict=True)
    return Items(torch.stack(images), torch.stack(targets), torch.tensor(places))


def trainer(**arguments: Any) -> L.Trainer:
    """A plain Trainer that leaves no files."""
    defaults: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return L.Trainer(**defaults | arguments)
