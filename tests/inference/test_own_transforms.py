"""Evaluation transforms of a user's own: the Predictor sees what a whole command sees."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier import Predictor, main
from classifier.errors import ConfigError
from classifier.export.image_processors import pillow_processor, timm_data_config
from classifier.image_steps import Scale
from classifier.preprocessing import Preprocessing

SHAPES = ((32, 32), (45, 61), (80, 33), (20, 24), (240, 310))


def entry(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"albumentations.{name}", "init_args": arguments}


LISTS = {
    "resize": [entry("Resize", height=32, width=32)],
    "crop": [
        entry("SmallestMaxSize", max_size=40, area_for_downscale="image"),
        entry("CenterCrop", height=32, width=32),
        entry("Normalize", mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]),
        {"class_path": "albumentations.pytorch.ToTensorV2"},
    ],
    "floats": [entry("Resize", height=32, width=24, interpolation=3), entry("ToFloat")],
    "open": [entry("LongestMaxSize", max_size=50)],
}


@pytest.fixture
def pictures(workplace: Path) -> Path:
    """Files of many sizes, of one class."""
    folder = workplace / "pictures" / "red"
    folder.mkdir(parents=True)
    for height, width in SHAPES:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{height}x{width}.jpg", quality=95)
    return folder.parent


def told(folder: Path) -> dict[str, list[float]]:
    """Path -> probabilities of a run's predictions.csv."""
    with (folder / "predictions.csv").open() as file:
        return {
            row["path"]: [float(value) for key, value in row.items() if key.startswith("prob_")]
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize("name", LISTS)
def test_predictor_says_what_an_evaluation_says(
    name: str, config: dict[str, Any], save: Any, pictures: Path
) -> None:
    config["data"]["init_args"]["augmentations"]["val"] = LISTS[name]
    config["trainer"]["max_epochs"] = 1
    trained = main(["--config", save(config)])
    assert trained is not None
    checkpoint = f"{trained.output_dir}/checkpoints/best.ckpt"
    key = "--data.init_args.dataset_classes.test.init_args.root"
    result = main(["--test", "--ckpt_path", checkpoint, key, str(pictures)])
    assert result is not None
    expected = told(Path(result.output_dir))
    assert len(expected) == len(SHAPES)
    predictor = Predictor.load(checkpoint)
    for path, probabilities in expected.items():
        found = predictor.predict(pictures / path, top_k=3)
        ours = dict(zip(found.indices, found.probabilities, strict=True))  # type: ignore[union-attr]
        np.testing.assert_allclose([ours[index] for index in range(3)], probabilities, 0, 2e-5)


def test_transform_that_only_albumentations_can_do_is_told(
    config: dict[str, Any], save: Any
) -> None:
    config["data"]["init_args"]["augmentations"]["val"] = [
        entry("Resize", height=32, width=32), entry("GaussianBlur", p=1.0),
    ]  # fmt: skip
    config["trainer"]["max_epochs"] = 1
    trained = main(["--config", save(config)])
    assert trained is not None
    with pytest.raises(
        ConfigError, match=r"albumentations\.GaussianBlur, which is none of"
    ) as caught:
        Predictor.load(trained.output_dir)
    assert "main.py --predict" in str(caught.value)


@pytest.mark.parametrize("write", [timm_data_config, pillow_processor])
def test_hugging_face_s_libraries_resize_otherwise(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"augmentations\.val: is no preparation that Hugging"):
        write(Preprocessing((32, 32), (32, 32), "squash", steps=(Scale(32, 32),)))
