"""--check: what it refuses, what it says, and the folder that it leaves."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from classifier import main
from classifier.entry import console
from classifier.errors import ConfigError
from classifier.runs import newest_unfinished
from tests.conftest import COLOURS, write_classes, write_image

TRAIN = "data.init_args.dataset_classes.train"


@pytest.fixture
def check(config: dict[str, Any], save: Any) -> Any:
    """Check the fixture's images with some words more on the command line."""
    return lambda *words: main(["--check", "--config", save(config), *words])


def only_folder(workplace: Path) -> Path:
    (folder,) = (workplace / "runs/colours").iterdir()
    return folder


def report(workplace: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((only_folder(workplace) / "report/data.json").read_text())
    return content


def kinds(workplace: Path) -> dict[str, str]:
    return {found["kind"]: found["severity"] for found in report(workplace)["findings"]}


def test_good_data_ends_well_and_leaves_a_folder(check: Any, workplace: Path, capfd: Any) -> None:
    result = check("--strict")
    folder = only_folder(workplace)
    assert (result.status, result.num_images, result.num_errors) == ("completed", 45, 0)
    assert sorted(item.name for item in folder.iterdir()) == [
        "config.yaml", "environment.json", "log.txt", "report", "result.json",
    ]  # fmt: skip
    assert sorted(item.name for item in (folder / "report").iterdir()) == [
        "data.html", "data.json", "samples.png",
    ]  # fmt: skip
    saved = json.loads((folder / "result.json").read_text())
    assert (saved["mode"], saved["status"]) == ("check", "completed")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == result.output_dir
    assert lines[1] == "cfg.yaml: the configuration can be read"
    assert "45 images (train 24, val 6, test 12, predict 3): no findings" in lines
    assert f"report: {result.output_dir}/report/data.html" in lines


def test_json_has_counts_and_sizes(check: Any, workplace: Path) -> None:
    check()
    content = report(workplace)
    assert content["images"] == {"train": 24, "val": 6, "test": 12, "predict": 3}
    assert content["classes"]["test"] == {"blue": 4, "green": 4, "red": 4}
    assert content["sizes"]["width"] == {"min": 32, "median": 32.0, "max": 32}
    assert content["input_size"] == [32, 32]
    assert content["findings"] == []


def test_configuration_of_the_folder_trains(check: Any, workplace: Path) -> None:
    check()
    file = only_folder(workplace) / "config.yaml"
    result = main(["--config", str(file), "--trainer.max_epochs", "1"])
    assert result is not None and result.status == "completed"


def test_all_unreadable_images_are_told_at_once(
    check: Any, images: Path, workplace: Path, capfd: Any
) -> None:
    for name in ("00", "01", "02", "03", "04"):  # the very first image of the data among them
        (images / f"train/blue/{name}.png").write_text("text")
    (images / "test/red/01.png").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        check("--data.init_args.val_fraction", "0")
    folder = only_folder(workplace).relative_to(workplace).as_posix()
    reason = "not an image in any format that Pillow reads"
    first = "; ".join(f"{images}/train/blue/0{n}.png (train): {reason}" for n in range(3))
    remedy = f"Replace or remove what is named in {folder}/report/data.html."
    assert str(caught.value).splitlines() == [
        f"{TRAIN}: 5 unreadable images in train ({first}; ... and 2 more). {remedy}",
        "data.init_args.dataset_classes.test: 1 unreadable image in test "
        f"({images}/test/red/01.png (test): the file is empty). {remedy}",
    ]
    saved = json.loads((workplace / folder / "result.json").read_text())
    assert (saved["status"], saved["error"]) == ("failed", str(caught.value))
    assert (saved["num_images"], saved["num_errors"]) == (45, 6)
    first_finding = report(workplace)["findings"][0]
    assert len(first_finding["items"]) == 5
    assert first_finding["items"][0]["images"][0]["label"] == "blue"
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == folder
    assert "error: 5 unreadable images in train" in lines


def test_unreadable_image_that_is_held_out_is_one_of_train(check: Any, images: Path) -> None:
    for file in (images / "train/red").glob("*.png"):
        file.write_text(f"text {file.name}")
    with pytest.raises(ConfigError) as caught:
        check()
    one, other = str(caught.value).splitlines()
    assert one.startswith(f"{TRAIN}: 8 unreadable images in train (")
    assert other.startswith(f"{TRAIN}: 2 unreadable images in val (")


def test_unreadable_images_that_training_skips_are_no_error(
    check: Any, images: Path, workplace: Path
) -> None:
    (images / "train/red/03.png").write_text("text")
    result = check("--data.init_args.on_bad_image", "skip")
    assert (result.status, result.num_errors) == ("completed", 1)
    assert kinds(workplace) == {"unreadable": "warning"}


def test_empty_folder_is_a_finding_when_the_classes_are_listed(
    check: Any, images: Path, workplace: Path, caplog: Any
) -> None:
    for folder in ("train/void", "test/void", "test/red/inner"):
        (images / folder).mkdir()
    assert check("--data.init_args.class_names", "[red, green, blue]").status == "completed"
    (found,) = report(workplace)["findings"]
    assert (found["kind"], found["severity"]) == ("empty_folders", "warning")
    assert [item["detail"].partition("images/")[2] for item in found["items"]] == [
        "train/void holds 0 folders and 0 files", "test/void holds 0 folders and 0 files",
    ]  # fmt: skip
    for stage in ("train", "test"):
        told = f"data.init_args.dataset_classes.{stage} has folders without an image: void"
        assert caplog.text.count(told) == 1


def test_unreadable_image_to_predict_is_no_error(check: Any, images: Path, workplace: Path) -> None:
    (images / "new/0.png").write_text("text")
    assert check().status == "completed"
    assert kinds(workplace) == {"unreadable": "warning"}


def test_warning_ends_with_code_2_only_when_strict(
    config: Any, save: Any, images: Path, monkeypatch: Any, workplace: Path, capfd: Any
) -> None:
    shutil.copy(images / "train/red/00.png", images / "test/red/leak.png")
    words = ["main.py", "--check", "--config", save(config)]
    monkeypatch.setattr(sys, "argv", words)
    assert console() == 0
    assert kinds(workplace) == {"leaks": "warning"}
    shutil.rmtree(workplace / "runs")
    monkeypatch.setattr(sys, "argv", [*words, "--strict"])
    assert console() == 2
    page = f"{only_folder(workplace).relative_to(workplace).as_posix()}/report/data.html"
    assert capfd.readouterr().err.splitlines()[-1] == (
        "--strict: the data has 1 finding (1 image in more than one split, byte for byte). "
        f"Correct what is named in {page}, or leave --strict out."
    )


def test_strict_goes_with_check_only(config: Any, save: Any, workplace: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["--strict", "--config", save(config)])
    assert str(caught.value) == (
        "--strict: goes with --check only. Add --check, or leave --strict out."
    )
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.init_args.num_classes", "5"),
        ("data.init_args.dataset_classes.test.init_args.root", "nowhere"),
        ("data.init_args.dataset_classes.predict.init_args.root", "nowhere"),
    ],
)
def test_mistake_in_the_configuration_leaves_no_folder(
    check: Any, workplace: Path, key: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        check(f"--{key}", value)
    assert not (workplace / "runs").exists()


def test_broken_first_image_still_ends_a_training(config: Any, save: Any, images: Path) -> None:
    from classifier.errors import RunError

    (images / "train/blue/00.png").write_text("text")
    with pytest.raises(RunError, match=r"blue/00\.png"):
        main(["--config", save(config), "--data.init_args.val_fraction", "0"])


def test_check_before_a_sweep_is_quick(
    check: Any, workplace: Path, monkeypatch: Any, capfd: Any
) -> None:
    (workplace / "trial").mkdir()
    monkeypatch.setenv("CLASSIFIER_TRIAL_DIR", str(workplace / "trial"))
    assert check() is None
    assert "configuration and data are in order" in capfd.readouterr().out
    assert [item.name for item in (workplace / "trial").iterdir()] == ["survey.json"]
    assert not (workplace / "runs").exists()


def test_folder_of_a_check_is_no_training_to_resume(check: Any, images: Path) -> None:
    (images / "train/red/03.png").write_text("text")
    with pytest.raises(ConfigError):
        check()
    assert newest_unfinished("colours") is None


# The page


def test_hostile_class_name_is_text_on_the_page(config: Any, save: Any, workplace: Path) -> None:
    hostile = '<script>alert("x")<'  # a folder cannot hold a slash
    root = write_classes(workplace / "<b>bold", 3, [hostile, "猫", "plain"])
    (root / hostile / '"onerror=x.png').write_text("text")
    config["data"]["init_args"]["dataset_classes"] = {
        "train": {"class_path": "FolderImageDataset", "init_args": {"root": str(root)}}
    }
    config["custom_folder_name"] = "colours"
    with pytest.raises(ConfigError):
        main(["--check", "--config", save(config)])
    page = (only_folder(workplace) / "report/data.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>" not in page and '"onerror' not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;" in page and "猫" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)


def test_page_carries_the_picture_and_shows_twenty_items(
    check: Any, images: Path, workplace: Path
) -> None:
    for number in range(25):
        write_image(images / f"train/red/tiny{number:02d}.png", (9, 9, 9), number, size=8)
    check("--data.init_args.val_fraction", "0")
    folder = only_folder(workplace) / "report"
    page = (folder / "data.html").read_text(encoding="utf-8")
    assert page.count("8 x 8 pixels</li>") == 20
    assert "... and 5 more, see data.json" in page
    (finding,) = report(workplace)["findings"]
    assert finding["kind"] == "small" and len(finding["items"]) == 25
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(encoded) == (folder / "samples.png").read_bytes()


@pytest.mark.parametrize("normalised", [False, True])
def test_picture_shows_the_colours_of_the_classes(
    config: Any, save: Any, images: Path, workplace: Path, normalised: bool
) -> None:
    """Un-normalised, unreadable images skipped, one row a class."""
    if normalised:
        own = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # the encoder's
        step = {"class_path": "albumentations.Normalize", "init_args": own}
        config["data"]["init_args"]["augmentations"]["train"].append(step)
    (images / "train/green/03.png").write_text("text")
    with pytest.raises(ConfigError, match=r"green/03\.png"):
        main(["--check", "--config", save(config)])
    with Image.open(only_folder(workplace) / "report/samples.png") as picture:
        assert picture.width == 6 * 134 - 6
        height = picture.height // 3
        for row, name in enumerate(("blue", "green", "red")):
            cell = picture.crop((0, row * height + 24, 128, (row + 1) * height - 6))
            assert np.asarray(cell).mean(axis=(0, 1)) == pytest.approx(COLOURS[name], abs=6)


def test_saved_configuration_has_no_mode_flag(check: Any, workplace: Path) -> None:
    check()
    saved = yaml.safe_load((only_folder(workplace) / "config.yaml").read_text())
    assert not {"check", "strict"} & set(saved)


def test_data_is_looked_at_before_missing_weights_are_told(
    config: Any, save: Any, workplace: Path
) -> None:
    config["model"]["init_args"] |= {"model_name": "timm/resnetaa34d", "pretrained": True}
    with pytest.raises(ConfigError, match=r"model\.init_args\.pretrained: "):
        main(["--check", "--config", save(config)])
    assert report(workplace)["findings"] is not None
    saved = json.loads((only_folder(workplace) / "result.json").read_text())
    assert saved["status"] == "failed"
    with pytest.raises(ConfigError, match=r"model\.init_args\.pretrained: "):
        main(["--config", save(config)])  # a training makes no folder
    assert only_folder(workplace)
