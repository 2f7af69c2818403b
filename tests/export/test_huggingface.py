"""Folders for transformers and timm, opened by these from the files on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, pipeline

from classifier import ImageClassifier, decode_image
from classifier.errors import ConfigError, RunError
from classifier.export.huggingface import write
from classifier.export.pipeline_check import classify, pipeline_probabilities
from classifier.inference.description import KEY, Description
from tests.export.folders import (
    CASES,
    NAMES,
    files_of,
    make_case,
    order_of,
    small_model,
    told_by_checkpoint,
    transformers_name,
    write_photos,
)
from tests.model.hub import Hub
from tests.model.test_families import SMALL_VIT, VIT

TIMM = [name for name in CASES if CASES[name]["name"].startswith("timm/")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "huggingface"
    made.mkdir()
    return made


@pytest.mark.parametrize("case", CASES)
def test_pipeline_answers_as_the_checkpoint(
    case: str, tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = make_case(case, tmp_path, photos)
    write(order_of(model), folder)
    expected = told_by_checkpoint(model, photos)
    found = classify(str(folder), files_of(photos))
    assert found["labels"] == NAMES
    assert expected.max() - expected.min() > 0.5  # the photos get different answers
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    assert (np.argmax(found["probabilities"], 1) == expected.argmax(1)).all()


@pytest.mark.parametrize("case", CASES)
def test_pipeline_names_the_classes_likeliest_first(
    case: str, tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = make_case(case, tmp_path, photos)
    write(order_of(model), folder)
    expected = told_by_checkpoint(model, photos)[0]
    answers = pipeline("image-classification", str(folder), device="cpu")(files_of(photos)[0])
    assert [answer["label"] for answer in answers] == [NAMES[i] for i in np.argsort(-expected)]


@pytest.mark.long
def test_pipeline_in_a_process_of_its_own(tmp_path: Path, folder: Path, photos: Path) -> None:
    model = small_model("timm/test_resnet", photos, temperature=0.6, image_size=32)
    write(order_of(model), folder)
    expected = told_by_checkpoint(model, photos)
    found = pipeline_probabilities(folder, files_of(photos), NAMES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(RunError, match="has the labels"):
        pipeline_probabilities(folder, files_of(photos), NAMES[::-1])
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"does not open .*: .*[Ee]rror"):
        pipeline_probabilities(folder, files_of(photos), NAMES)


@pytest.mark.parametrize("case", TIMM)
def test_timm_opens_the_folder(case: str, tmp_path: Path, folder: Path, photos: Path) -> None:
    model = make_case(case, tmp_path, photos)
    write(order_of(model), folder)
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(opened), is_training=False)
    images = torch.stack([transform(Image.fromarray(decode_image(f))) for f in files_of(photos)])
    with torch.inference_mode():
        found = model.probabilities(opened(images)).numpy()
    np.testing.assert_allclose(found, told_by_checkpoint(model, photos), atol=1e-5)


def test_timm_opens_the_folder_from_the_hub(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "hub/someone/colours"
    repository.mkdir(parents=True)
    model = small_model("timm/test_resnet", photos, temperature=0.5, image_size=32)
    write(order_of(model), repository)
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    opened = timm.create_model(
        "hf-hub:someone/colours", pretrained=True, cache_dir=tmp_path / "cache"
    ).eval()
    hub.close()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(opened(images), model(images) / 0.5, atol=1e-5)


@pytest.mark.parametrize("case", ["resnet", "beit"])
def test_training_goes_on_from_the_folder(
    case: str, tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = make_case(case, tmp_path, photos)
    write(order_of(model), folder)
    again = ImageClassifier(str(folder), num_classes=3)
    again.build(NAMES)
    assert again.network is not None and model.network is not None
    assert again.network.spec["source"] == model.network.spec["source"]
    assert again.preprocessing == model.preprocessing
    images = torch.randn(2, 3, *model.preprocessing.size)
    temperature = model.calibration.temperature
    with torch.inference_mode():
        assert torch.allclose(again.eval()(images), model(images) / temperature, atol=1e-4)


def test_half_precision_is_kept_in_half_the_bytes(folder: Path, photos: Path) -> None:
    model = small_model("timm/test_resnet", photos, image_size=32)
    write(order_of(model, precision="fp16"), folder)
    weights = load_file(folder / "model.safetensors")
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float16}
    answers = pipeline("image-classification", str(folder), device="cpu")
    assert answers.model.dtype == torch.float16
    found = classify(str(folder), files_of(photos))["probabilities"]
    np.testing.assert_allclose(found, told_by_checkpoint(model, photos), atol=0.02)


def test_write_leaves_the_network_as_it_was(folder: Path, photos: Path) -> None:
    model = small_model("timm/test_resnet", photos, temperature=3.0, image_size=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write(order_of(model, precision="fp16"), folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_folder_says_all_that_the_checkpoint_knows(
    folder: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model("timm/test_resnet", photos, task="multilabel", image_size=32)
    limits = [0.5, 0.25, 0.5]
    with caplog.at_level(logging.WARNING):
        description = write(order_of(model, thresholds=limits, background=(1, 2, 3)), folder)
    assert "thresholds are in config.json under image_classifier" in caplog.text
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    carried = Description.from_dict(config[KEY])
    assert carried == description
    assert carried.thresholds == limits and carried.background == (1, 2, 3)
    assert set(carried.software) == {"torch", "timm"}
    assert config["id2label"] == {str(index): name for index, name in enumerate(NAMES)}
    assert (folder / "README.md").read_text(encoding="utf-8") == "# A card\n"
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_folder_names_no_place_of_this_machine(tmp_path: Path, folder: Path, photos: Path) -> None:
    model = small_model(transformers_name(tmp_path / "vit", "vit", **SMALL_VIT), photos)
    write(order_of(model), folder)
    texts = [file.read_text(encoding="utf-8") for file in folder.glob("*.json")]
    assert len(texts) == 3
    assert not any(str(tmp_path) in text for text in texts)


def test_pillow_prepares_the_images_of_transformers(
    tmp_path: Path, folder: Path, photos: Path
) -> None:
    model = small_model(transformers_name(tmp_path / "vit", "vit", **SMALL_VIT), photos)
    write(order_of(model), folder)
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "PilBackend"
    older = json.loads((folder / "preprocessor_config.json").read_text())
    newer = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    assert older.pop("image_processor_type") == "CLIPImageProcessor"
    assert newer.pop("image_processor_type") == "PilBackend"
    assert older == newer


OTHERS = "Write --export onnx, torch_export, torchscript or safetensors."
HEAD = {"hidden": 8}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "torchvision": (
        {"name": "torchvision/squeezenet1_1"}, {},
        "--export: transformers has no class for SqueezeNet, which is none of timm or transformers, "
        f"got 'huggingface'. {OTHERS}",
    ),
    "own module": (
        {"name": "classifier.SmallCNN"}, {},
        "--export: transformers has no class for SmallCNN, which is none of timm or transformers, "
        f"got 'huggingface'. {OTHERS}",
    ),
    "head": (
        {"name": "timm/test_resnet", "head": HEAD}, {},
        "--export: timm has no ResNet with a head of several layers (model.init_args.head), "
        f"got 'huggingface'. {OTHERS}",
    ),
    "pooled": (
        {"name": "transformers:clip_vision_model"}, {},
        "--export: transformers has no class that classifies images with clip_vision_model, "
        f"got 'huggingface'. {OTHERS}",
    ),
    "pad": (
        {"name": "transformers:vit", "resize_mode": "pad"}, {},
        "data.init_args.resize_mode: transformers' processors do not pad, so that a pipeline would "
        "prepare images otherwise, got 'pad from (224, 224) to (224, 224)'. Train with resize_mode: "
        "squash, or write --export onnx, torch_export, torchscript or safetensors.",
    ),
    "unequal sides": (
        {"name": "timm/test_resnet", "image_size": [32, 64]}, {},
        "data.init_args.resize_mode: timm reduces both sides by one fraction, so that a pipeline "
        "would prepare images otherwise, got 'crop from (34, 67) to (32, 64)'. Train with "
        "resize_mode: squash, or write --export onnx, torch_export, torchscript or safetensors.",
    ),
    "int8": (
        {"name": "timm/test_resnet"}, {"precision": "int8"},
        "--precision: huggingface has no such weights, got 'int8'. Write fp32 or fp16, or --export "
        "onnx.",
    ),
    "one class": (
        {"name": "timm/test_resnet"}, {"class_names": ["alone"]},
        "--export: a pipeline takes a single class for one that an image may lack, "
        f"got 'huggingface'. {OTHERS}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_write_refuses_what_no_pipeline_can_have(case: str, tmp_path: Path, folder: Path) -> None:
    options, changes, message = REFUSED[case]
    options = dict(options)
    source, _, kind = options.pop("name").rpartition(":")
    name = (
        transformers_name(tmp_path / kind, kind, **SMALL_VIT | {"image_size": 224})
        if source
        else kind
    )
    resize_mode = options.pop("resize_mode", None)
    model = ImageClassifier(name, pretrained=False, num_classes=3, **options)
    model.build(NAMES, resize_mode=resize_mode)
    with pytest.raises(ConfigError) as caught:
        write(order_of(model.eval(), **changes), folder)
    assert str(caught.value) == message
    assert not list(folder.iterdir())


def test_write_refuses_a_temperature_that_no_layer_can_hold(folder: Path, photos: Path) -> None:
    model = small_model("timm/test_resnet", photos, temperature=0.5, image_size=32)
    assert model.network is not None
    model.network.model.fc = torch.nn.Sequential(model.network.model.fc, torch.nn.Tanh())
    with pytest.raises(ConfigError, match="ResNet has no last layer that could hold it"):
        write(order_of(model), folder)


def test_distilled_deit_holds_the_temperature_in_both_heads(folder: Path, photos: Path) -> None:
    model = small_model(
        "timm/deit_tiny_distilled_patch16_224", photos, temperature=0.4, image_size=32,
        model_args=VIT,
    )  # fmt: skip
    write(order_of(model), folder)
    found = classify(str(folder), files_of(photos))["probabilities"]
    np.testing.assert_allclose(found, told_by_checkpoint(model, photos), atol=1e-5)
