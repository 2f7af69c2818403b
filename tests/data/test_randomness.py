"""Workers, epochs and repeated runs draw the right random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch

from classifier import FolderImageDataset, ImageDataModule
from classifier.data.augmentations import Pipeline, build_pipeline, preprocessing_transforms
from classifier.errors import ConfigError
from classifier.preprocessing import Preprocessing
from tests.conftest import write_classes

CROP = A.RandomCrop(height=8, width=8)


def batches(root: Path, workers: int, epochs: int = 2, seed: int = 3) -> list[torch.Tensor]:
    data = ImageDataModule(
        {"train": FolderImageDataset(str(root))}, batch_size=4, num_workers=workers,
        val_fraction=0.0, augmentations={"train": [CROP, A.HorizontalFlip(p=0.5)]}, seed=seed,
    )  # fmt: skip
    data.preprocessing = Preprocessing()
    data.setup("fit")
    loader = data.train_dataloader()
    epochs_of_images = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs_of_images.append(torch.cat([batch.images for batch in loader]))
    return epochs_of_images


def test_repeated_runs_repeat_and_workers_do_not_matter(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "r", 4)
    alone = batches(root, 0)
    for workers in (0, 1, 2):
        for ours, theirs in zip(alone, batches(root, workers), strict=True):
            assert torch.equal(ours, theirs)


def test_epochs_and_seeds_differ(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "r", 4)
    first, second = batches(root, 2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, batches(root, 2, seed=4)[0])


def test_images_of_one_epoch_draw_differently() -> None:
    pipeline = Pipeline([A.RandomCrop(height=2, width=2)])
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    crops = set()
    for seed in range(20):
        pipeline.reseed(seed)
        crops.add(tuple(pipeline(image=image)["image"].flatten().tolist()))
    assert len(crops) > 10


def test_transforms_of_one_pipeline_are_independent() -> None:
    pipeline = Pipeline([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 0] = 255
    places = set()
    for seed in range(60):
        pipeline.reseed(seed)
        places.add(int(pipeline(image=image)["image"][0].flatten().argmax()))
    assert places == {0, 1, 2, 3}


def test_list_without_a_fixed_size_gets_the_encoders_resize() -> None:
    expected = Preprocessing(size=(24, 24), resize=(28, 28))
    pipeline, resized = build_pipeline([A.HorizontalFlip()], expected, "k")
    assert resized
    assert pipeline(image=np.zeros((50, 70, 3), dtype=np.uint8))["image"].shape == (3, 24, 24)
    pipeline, resized = build_pipeline([A.Resize(10, 12)], expected, "k")
    assert not resized
    assert pipeline(image=np.zeros((50, 70, 3), dtype=np.uint8))["image"].shape == (3, 10, 12)


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("shape", [(10, 40), (400, 300), (24, 24)])
def test_preprocessing_always_gives_the_size(mode: str, shape: tuple[int, int]) -> None:
    pipeline = Pipeline(
        preprocessing_transforms(Preprocessing(size=(24, 24), resize=(28, 28), resize_mode=mode))
    )
    image = np.zeros((*shape, 3), dtype=np.uint8)
    assert pipeline(image=image)["image"].shape == (3, 24, 24)


def test_preprocessing_is_near_timms_own() -> None:
    """The same centre crop as timm's evaluation transform, to within interpolation."""
    from PIL import Image
    from timm.data import create_transform

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
    reference = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    theirs: Any = reference(picture).permute(1, 2, 0).numpy() * std + mean
    pipeline = Pipeline(preprocessing_transforms(Preprocessing()))
    ours = pipeline(image=np.asarray(picture))["image"].permute(1, 2, 0).numpy() / 255
    assert np.abs(ours - theirs).mean() < 0.01


def test_transform_that_fails_is_named_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^some\.key: fails on an image of 61 x 83 pixels"):
        build_pipeline([A.RandomCrop(height=500, width=500)], Preprocessing(), "some.key")


def test_normalised_and_tensor_pipelines_are_left_as_they_are() -> None:
    from albumentations.pytorch import ToTensorV2

    pipeline, _ = build_pipeline(
        [A.Resize(8, 8), A.Normalize(), ToTensorV2()], Preprocessing(), "k"
    )
    image = pipeline(image=np.full((20, 20, 3), 255, dtype=np.uint8))["image"]
    assert image.dtype == torch.float32 and image.shape == (3, 8, 8)
    assert image[0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229, rel=1e-4)
