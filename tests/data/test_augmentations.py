"""Presets, torchvision among Albumentations, crops, and how much of a file the pipeline needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
import yaml
from torchvision.transforms import v2

from classifier import RandomResizedCrop, TorchvisionTransform, main
from classifier.data.augmentations import Pipeline, build_pipeline
from classifier.data.presets import PRESETS
from classifier.data.transforms import to_tensor
from classifier.errors import ConfigError
from classifier.preprocessing import Preprocessing

PREPROCESSING = Preprocessing((48, 40), (64, 64))


def image(seed: int = 0, size: tuple[int, int] = (90, 120)) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_written_out_and_trains(name: str, config: Any, save: Any, capsys: Any) -> None:
    config["data"]["init_args"]["augmentations"]["train"] = name
    config["data"]["init_args"]["num_workers"] = 2
    assert main(["--print_config", "--config", save(config)]) is None
    shown = yaml.safe_load(capsys.readouterr().out)
    written = shown["data"]["init_args"]["augmentations"]["train"]
    assert [item["class_path"] for item in written] == [e["class_path"] for e in PRESETS[name]]
    one = main(["--config", save(config)])
    assert one is not None
    # The saved file holds the transforms, and trains to the same numbers.
    assert "classifier.RandomResizedCrop" in Path(one.output_dir, "config.yaml").read_text()
    other = main(["--config", f"{one.output_dir}/config.yaml"])
    assert other is not None
    assert other.metrics == one.metrics


def test_preset_works_from_python() -> None:
    from classifier import FolderImageDataset, ImageDataModule

    data = ImageDataModule({"train": FolderImageDataset(".")}, augmentations={"train": "strong"})  # type: ignore[dict-item]
    first, *_, last = data.augmentations["train"] or []
    assert isinstance(first, RandomResizedCrop)
    assert isinstance(last, TorchvisionTransform)
    with pytest.raises(ConfigError, match=r"augmentations\.val: no such preset, got 'soft'"):
        ImageDataModule({}, augmentations={"val": "soft"})  # type: ignore[dict-item]


def test_unknown_preset_is_told(config: Any, save: Any) -> None:
    config["data"]["init_args"]["augmentations"]["train"] = "medum"
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config)])
    assert str(caught.value) == (
        "data.init_args.augmentations.train: no such preset, got 'medum'. Write light, medium, "
        "strong, trivial_augment, rand_augment, or a list of transforms. Did you mean 'medium'?"
    )


@pytest.mark.parametrize(
    "transform", [v2.RandAugment(), v2.TrivialAugmentWide(), v2.AutoAugment(), v2.RandomErasing(1.0)]
)  # fmt: skip
def test_torchvision_transform_draws_from_the_pipeline_alone(transform: Any) -> None:
    pipeline = Pipeline([TorchvisionTransform(transform)])
    state = torch.random.get_rng_state()

    def drawn(seed: int) -> torch.Tensor:
        pipeline.reseed(seed)
        found: torch.Tensor = pipeline(image=image())["image"]
        return found

    assert drawn(1).dtype == torch.uint8
    assert drawn(1).shape == (3, 90, 120)
    assert drawn(1).equal(drawn(1))
    assert len({drawn(seed).numpy().tobytes() for seed in range(8)}) > 3
    assert torch.random.get_rng_state().equal(state)


def test_transform_sees_the_pixels_that_torchvision_would_see() -> None:
    pipeline = Pipeline([TorchvisionTransform(v2.RandomInvert(p=1.0))])
    assert pipeline(image=image())["image"].equal(v2.functional.invert(to_tensor(image())))


def test_crop_takes_the_size_of_the_encoder_unless_told_otherwise() -> None:
    for crop, size in ((RandomResizedCrop(), (48, 40)), (RandomResizedCrop(size=(20, 30)), (20, 30))):  # fmt: skip
        pipeline, resized = build_pipeline([crop], PREPROCESSING, "key")
        assert pipeline(image=image())["image"].shape == (3, *size)
        assert not resized


def test_crop_equals_that_of_albumentations() -> None:
    """Only crops of more than four times the area are halved before."""
    ours = Pipeline([RandomResizedCrop(size=(80, 80))])
    theirs = Pipeline([A.RandomResizedCrop((80, 80))])
    for seed in range(20):
        ours.reseed(seed)
        theirs.reseed(seed)
        assert ours(image=image(seed))["image"].equal(theirs(image=image(seed))["image"])
    fine = np.indices((400, 400)).sum(0) % 2 * np.uint8(255)
    stripes = np.repeat(fine[..., None].astype(np.uint8), 3, axis=2)
    small = Pipeline([RandomResizedCrop((1.0, 1.0), (1.0, 1.0), (40, 40))])(image=stripes)["image"]
    assert small.float().std() < 1.0  # grey, and no pattern that is not there


@pytest.mark.parametrize(
    ("transforms", "side"),
    [
        (None, None),
        ([A.Resize(100, 50)], 200),
        ([A.SmallestMaxSize(70), A.RandomCrop(60, 60)], 140),
        ([A.RandomResizedCrop((100, 80), scale=(0.25, 1.0), ratio=(1.0, 1.0))], 200),
        ([A.RandomCrop(20, 20)], None),
        ([A.Resize(100, 50, p=0.5)], None),
        ([A.HorizontalFlip(), A.Resize(100, 50)], None),
    ],
)
def test_pipeline_knows_how_many_pixels_it_needs(transforms: Any, side: int | None) -> None:
    assert build_pipeline(transforms, PREPROCESSING, "key")[0].min_side == side


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_tensor_is_the_image_with_its_channels_first(dtype: Any) -> None:
    pixels = image().astype(dtype)
    tensor = to_tensor(pixels)
    assert tensor.is_contiguous()
    assert np.array_equal(tensor.numpy(), pixels.transpose(2, 0, 1))
    grey = to_tensor(pixels[..., :1])
    assert grey.shape == (1, 90, 120)
