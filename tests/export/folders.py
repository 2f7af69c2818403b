"""Small models with decided opinions, real image files, and what a checkpoint says of these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig

from classifier import FolderImageDataset, ImageClassifier, ImageDataModule, decode_image
from classifier.export.order import Order
from classifier.inference.description import Description
from classifier.model.answers import Calibration
from classifier.model.heads import logit_layers
from classifier.model.tasks import MULTILABEL
from tests.model.test_families import SMALL_VIT, TRANSFORMERS, VIT

NAMES = ["zebra & co", "Äffchen", "0"]
# Height and width; sides that leave half a pixel over, larger and smaller than what a network sees.
SIZES = [(37, 53), (90, 41), (64, 64), (33, 120), (301, 200), (20, 23)]

# A case of every way that images are prepared, and of several families of both libraries.
CASES: dict[str, dict[str, Any]] = {
    "resnet": {"name": "timm/test_resnet", "image_size": 33, "temperature": 0.6},
    "efficientnet": {"name": "timm/test_efficientnet", "image_size": 32, "resize_mode": "pad"},
    "convnext": {"name": "timm/test_convnext", "image_size": [40, 64], "task": "multilabel", "temperature": 1.7},
    "vit": {
        "name": "timm/vit_tiny_patch16_224", "image_size": 48, "resize_mode": "squash",
        "model_args": VIT, "temperature": 0.8,
    },
    "hf vit": {"name": "vit", "config": SMALL_VIT, "temperature": 0.6, "image_size": 32},
    "hf resnet": {
        "name": "resnet", "config": TRANSFORMERS["resnet"], "image_size": 31,
        "resize_mode": "crop", "task": "multilabel", "temperature": 0.6,
    },
    "beit": {"name": "beit", "config": SMALL_VIT, "image_size": 32, "resize_mode": "crop"},
}  # fmt: skip


def make_case(case: str, folder: Path, photos: Path) -> ImageClassifier:
    """The model of one of CASES; a folder for the configuration of transformers."""
    options = dict(CASES[case])
    name, config = options.pop("name"), options.pop("config", None)
    if config is not None:
        name = transformers_name(folder / name, name, **config)
    return small_model(name, photos, **options)


def write_photos(folder: Path) -> Path:
    """JPEG files of odd sizes, one of them turned by its EXIF data, in two folders of classes."""
    for number, (height, width) in enumerate(SIZES):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[274] = 6 if number == 1 else 1
        file = folder / NAMES[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, quality=90, exif=exif.tobytes())
    return folder


def small_model(
    name: str, photos: Path, task: str | None = None, resize_mode: str | None = None,
    temperature: float = 1.0, **options: Any,
) -> ImageClassifier:  # fmt: skip
    """An ImageClassifier in eval mode with random weights, whose answers differ between photos."""
    torch.manual_seed(0)
    model = ImageClassifier(name, pretrained=False, num_classes=len(NAMES), **options)
    model.build(NAMES, task=task, resize_mode=resize_mode)
    network = model.eval().network
    assert network is not None
    prepared = [network.preprocessing.prepare(decode_image(file)) for file in files_of(photos)]
    images = model.normalised(torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2))
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.fill_(1.0)  # timm begins a residual branch with zeros
        layers = logit_layers(network, len(NAMES)).values()
        spread = float(network(images).std(0).mean())
        for layer in layers:
            layer.weight.mul_(3.0 / spread)
        mean = network(images).mean(0)
        for layer in layers:
            layer.bias.sub_(mean)  # type: ignore[union-attr]
    model.calibration = Calibration(temperature=temperature)
    return model


def transformers_name(folder: Path, kind: str, **config: Any) -> str:
    """A folder from which a transformers model is built."""
    AutoConfig.for_model(kind, **config).save_pretrained(folder)
    return str(folder)


def order_of(model: ImageClassifier, **changes: Any) -> Order:
    """What a writer is given of a model."""
    assert model.network is not None and model.class_names is not None
    description = Description(
        format="huggingface", class_names=model.class_names, task=str(model.task),
        preprocessing=model.preprocessing, temperature=model.calibration.temperature,
        thresholds=[0.5] * len(NAMES) if model.task == MULTILABEL else None,
    )  # fmt: skip
    return Order(model.network, replace(description, **changes), {}, card="# A card\n")


def told_by_checkpoint(model: ImageClassifier, photos: Path) -> NDArray[np.float32]:
    """Probabilities by predict_step, of images that come through the data module."""
    folder: Any = FolderImageDataset(str(photos))
    data = ImageDataModule({"train": folder, "test": folder}, 4, num_workers=0)
    data.preprocessing = model.preprocessing
    data.setup("test")
    with torch.inference_mode():
        rows = [model.predict_step(batch, 0) for batch in data.test_dataloader()]
    return torch.cat(rows).numpy()


def files_of(photos: Path) -> list[str]:
    """In the order in which the data module has them."""
    return sorted(str(file) for file in photos.rglob("*.jpg"))
