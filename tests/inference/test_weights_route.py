"""Networks with the weights of checkpoints and of safetensors, without training code."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier import ImageClassifier, main
from classifier.checkpoints import load_checkpoint
from classifier.data.decoding import decode_image
from classifier.errors import ConfigError
from classifier.export.safetensors import write
from classifier.inference.weights_route import open_checkpoint, open_weights
from tests.export.orders import expected, noise, order_of, small_network
from tests.model.test_families import VIT

ROOT = Path(__file__).parents[2]


def plain(trained: Path, **changes: Any) -> dict[str, Any]:
    """The checkpoint of the fixture, with the encoder's own preprocessing."""
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    checkpoint["config"]["data"]["init_args"]["augmentations"] = None
    checkpoint["config"]["data"]["init_args"] |= changes
    return checkpoint


def saved(checkpoint: dict[str, Any]) -> Path:
    torch.save(checkpoint, "x.ckpt")
    return Path("x.ckpt")


def by_the_command(checkpoint: Path, folder: Path) -> dict[str, list[float]]:
    """File name -> probabilities, by main.py --predict on the whole way, with Lightning."""
    words = ["--predict", str(folder), "--ckpt_path", str(checkpoint)]
    result = main([*words, "--trainer.logger", "false"])
    assert result is not None and result.predictions is not None
    with (Path(result.output_dir) / result.predictions).open(encoding="utf-8") as table:
        return {
            row["path"]: [float(row[f"prob_{name}"]) for name in ("blue", "green", "red")]
            for row in csv.DictReader(table)
        }


RESIZE = {"class_path": "albumentations.Resize", "init_args": {"height": 40, "width": 24}}
FLOATS = {
    "class_path": "albumentations.Normalize",
    "init_args": {"mean": [0.3, 0.4, 0.5], "std": [0.4, 0.3, 0.2]},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resize_mode": "pad", "background": [9, 8, 7]},
        {"augmentations": {"val": [RESIZE]}},
        {"augmentations": {"val": [RESIZE, FLOATS]}, "resize_mode": "squash"},
    ],
)
def test_checkpoint_answers_as_the_command_does(
    trained: Path, images: Path, changes: dict[str, Any]
) -> None:
    file = saved(plain(trained, **changes))
    table = by_the_command(file, images / "new")
    route = open_checkpoint(file, device="cpu")
    about = route.description
    assert len(table) == 3
    for name, probabilities in table.items():
        pixels = decode_image(images / "new" / name, background=about.background)
        prepared = about.preprocessing.prepare(pixels)[None]
        assert np.allclose(route.probabilities(prepared)[0], probabilities, atol=1e-6)
    assert about.class_names == ["blue", "green", "red"]
    assert about.format == "checkpoint"
    assert list(about.background) == changes.get("background", [255, 255, 255])


def test_checkpoint_answers_when_the_libraries_of_training_are_not_there(
    trained: Path, workplace: Path
) -> None:
    file = saved(plain(trained))
    script = """
import sys, json
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lightning", "albumentations", "jsonargparse", "torchmetrics"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
import numpy as np
from classifier.inference.weights_route import open_checkpoint
route = open_checkpoint(Path(sys.argv[1]), device="cpu")
images = np.full((2, *route.description.preprocessing.size, 3), 77, dtype=np.uint8)
print(json.dumps(route.probabilities(images).tolist()))
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    route = open_checkpoint(file, device="cpu")
    images = np.full((2, *route.description.preprocessing.size, 3), 77, dtype=np.uint8)
    assert np.allclose(json.loads(said.stdout), route.probabilities(images), atol=1e-6)


def test_calibration_counts_when_the_settings_ask_for_it(trained: Path, workplace: Path) -> None:
    checkpoint = plain(trained)
    entry = checkpoint["image_classifier"]
    entry["calibration"] = {"temperature": 2.0, "thresholds": [0.3], "positive": 1}
    without = open_checkpoint(saved(checkpoint)).description
    assert (without.temperature, without.thresholds, without.positive) == (1.0, None, None)
    checkpoint["config"]["evaluation"] |= {"calibrate": "temperature", "tune_thresholds": "f1"}
    route = open_checkpoint(saved(checkpoint), device="cpu")
    about = route.description
    assert (about.temperature, about.thresholds, about.positive) == (2.0, [0.3], 1)
    model = ImageClassifier.load_from_checkpoint("x.ckpt", map_location="cpu", weights_only=True)
    assert model.network is not None
    prepared = noise(model.network.eval(), 3)
    assert np.allclose(
        route.probabilities(prepared), expected(model.network, prepared, 2.0), atol=1e-6
    )


def test_thresholds_of_several_labels_are_the_models_own_when_none_were_tuned(
    trained: Path, workplace: Path
) -> None:
    checkpoint = plain(trained)
    checkpoint["image_classifier"] |= {"task": "multilabel", "thresholds": [0.2, 0.5, 0.9]}
    route = open_checkpoint(saved(checkpoint), device="cpu")
    assert route.description.several
    assert route.description.thresholds == [0.2, 0.5, 0.9]
    model = ImageClassifier.load_from_checkpoint("x.ckpt", map_location="cpu", weights_only=True)
    assert model.network is not None
    prepared = noise(model.network.eval(), 2)
    found = route.probabilities(prepared)
    assert np.allclose(found, expected(model.network, prepared, several=True), atol=1e-6)


def test_adapters_are_used_when_the_checkpoint_has_some(
    config: dict[str, Any], save: Any, images: Path
) -> None:
    arguments = config["model"]["init_args"]
    arguments |= {"model_name": "timm/vit_tiny_patch16_224", "model_args": VIT, "image_size": 32}
    arguments["lora"] = {"r": 2}
    arguments["optimizer_config"]["lr"] = 0.02
    config["data"]["init_args"]["augmentations"] = None
    result = main(["--config", save(config)])
    assert result is not None
    file = Path(result.output_dir) / "checkpoints/best.ckpt"
    table = by_the_command(file, images / "new")
    route = open_checkpoint(file, device="cpu")
    for name, probabilities in table.items():
        pixels = decode_image(images / "new" / name)
        prepared = route.description.preprocessing.prepare(pixels)[None]
        assert np.allclose(route.probabilities(prepared)[0], probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "class_path", "key"),
    [
        ("model", "mine.Model", "model.class_path"),
        ("data", "mine.ImageDataModule", "data.class_path"),
    ],
)
def test_class_of_the_users_own_is_refused_when_a_checkpoint_is_opened(
    trained: Path, workplace: Path, section: str, class_path: str, key: str
) -> None:
    checkpoint = plain(trained)
    checkpoint["config"][section]["class_path"] = class_path
    with pytest.raises(ConfigError, match=f"^{key}: x.ckpt needs a class of your own") as caught:
        open_checkpoint(saved(checkpoint))
    assert "Use it by main.py --predict PATHS --ckpt_path CKPT" in str(caught.value)


@pytest.mark.parametrize(
    "transforms",
    ["light", [{"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 0.5}}]],
)
def test_transforms_that_cannot_be_repeated_are_refused_when_a_checkpoint_is_opened(
    trained: Path, workplace: Path, transforms: Any
) -> None:
    checkpoint = plain(trained, augmentations={"val": transforms})
    with pytest.raises(ConfigError, match=r"^data.init_args.augmentations.val") as caught:
        open_checkpoint(saved(checkpoint))
    assert "Use it by main.py --predict PATHS --ckpt_path CKPT" in str(caught.value)


def test_network_of_the_users_own_is_never_imported(trained: Path, workplace: Path) -> None:
    (workplace / "evil.py").write_text("raise SystemExit('imported')")
    checkpoint = plain(trained)
    checkpoint["image_classifier"]["network"] = {
        "source": "module", "class_path": "evil.Net", "model_args": {},
        "preprocessing": checkpoint["image_classifier"]["network"]["preprocessing"],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--allow_module evil, or export it to onnx"):
        open_checkpoint(saved(checkpoint))


@pytest.mark.parametrize("damage", ["class_names", "network", "weights"])
def test_parts_that_do_not_fit_are_told_when_a_checkpoint_is_opened(
    trained: Path, workplace: Path, damage: str
) -> None:
    checkpoint = plain(trained)
    if damage == "class_names":
        checkpoint["image_classifier"]["class_names"].pop()
    elif damage == "network":
        checkpoint["image_classifier"]["network"]["source"] = "zzz"
    else:
        checkpoint["state_dict"].pop("network.model.fc.bias")
    with pytest.raises(ConfigError, match=r"^ckpt_path: the parts of x.ckpt do not fit"):
        open_checkpoint(saved(checkpoint))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision: must be fp32, bf16 or fp16, got 'fp8'."),
        ({"device": "cdua"}, "device: torch has no such device here, got 'cdua'."),
    ],
)
def test_option_that_cannot_be_is_refused(
    workplace: Path, options: dict[str, Any], message: str
) -> None:
    write(order_of(small_network(), "safetensors"), workplace)
    with pytest.raises(ConfigError) as caught:
        open_weights(workplace / "model.safetensors", **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_near_and_not_the_same(workplace: Path, precision: str) -> None:
    network = small_network()
    write(order_of(network, "safetensors"), workplace)
    route = open_weights(workplace / "model.safetensors", device="cpu", precision=precision)
    images = noise(network, 4)
    difference = np.abs(route.probabilities(images) - expected(network, images))
    assert 0 < difference.max() < 0.02


def test_threads_get_their_own_answers_when_they_share_a_route(workplace: Path) -> None:
    network = small_network()
    write(order_of(network, "safetensors"), workplace)
    route = open_weights(workplace / "model.safetensors", device="cpu")
    batches = [noise(network, 1 + seed % 3, seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(route.probabilities, batches))
    for images, probabilities in zip(batches, found, strict=True):
        assert np.allclose(probabilities, expected(network, images), atol=1e-6)


def test_pixels_that_must_not_be_written_to_are_taken(workplace: Path) -> None:
    network = small_network()
    write(order_of(network, "safetensors"), workplace)
    images = noise(network, 2)
    images.flags.writeable = False
    route = open_weights(workplace / "model.safetensors", device="cpu")
    assert np.allclose(route.probabilities(images), expected(network, images), atol=1e-6)


@pytest.mark.long
def test_compiled_network_gives_the_same_answers(workplace: Path) -> None:
    network = small_network()
    write(order_of(network, "safetensors"), workplace)
    route = open_weights(workplace / "model.safetensors", device="cpu", compile=True)
    for number in (1, 4, 3):
        images = noise(network, number)
        assert np.allclose(route.probabilities(images), expected(network, images), atol=1e-5)
