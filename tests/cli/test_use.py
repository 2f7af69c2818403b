"""--val, --test and --predict with nothing but a checkpoint."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from classifier import main
from classifier.errors import ConfigError
from tests.conftest import COLOURS, write_classes, write_image


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("what", ["folder", "best", "last"])
def test_val_repeats_the_numbers_of_the_training(trained: Path, workplace: Path, what: str) -> None:
    saved = json.loads((trained / "result.json").read_text())
    path = trained if what == "folder" else trained / "checkpoints" / f"{what}.ckpt"
    result = main(["--val", "--ckpt_path", str(path)])
    assert result is not None and result.mode == "validate"
    if what == "last":
        for name, value in result.metrics.items():
            assert value == pytest.approx(saved["metrics"][name], abs=1e-6)
    else:
        assert result.metrics["validation_f1_score"] == pytest.approx(saved["best_score"])


def test_first_word_means_the_same_as_the_flag(trained: Path, workplace: Path) -> None:
    flag = main(["--test", "--ckpt_path", str(trained)])
    word = main(["test", "--ckpt_path", str(trained)])
    assert flag is not None and word is not None
    assert flag.metrics == word.metrics


def test_test_agrees_with_its_own_predictions(trained: Path, workplace: Path) -> None:
    result = main(["--test", "--ckpt_path", str(trained)])
    assert result is not None and result.predictions == "predictions.csv"
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert len(rows) == 12
    share = sum(row["correct"] == "True" for row in rows) / len(rows)
    assert result.metrics["test_accuracy"] == pytest.approx(share)
    names = sorted(COLOURS)
    assert all(names[int(row["target"])] == row["path"].split("/")[0] for row in rows)


def test_lone_checkpoint_in_an_empty_folder_does_all_three(trained: Path, workplace: Path) -> None:
    shutil.copy(trained / "checkpoints/best.ckpt", workplace / "model.ckpt")
    photos = write_classes(workplace / "photos", 2)
    for mode in ("--val", "--test"):
        assert main([mode, "--ckpt_path", "model.ckpt"]) is not None
    result = main(["--predict", str(photos), "--ckpt_path", "model.ckpt"])
    assert result is not None
    assert len(read(Path(result.output_dir, "predictions.csv"))) == 6


def test_predictions_hold_the_contract(trained: Path, workplace: Path) -> None:
    photos = workplace / "photos"
    odd = [
        "a b.png",
        "ü,ö.png",
        "UPPER.PNG",
        "=cmd.png",
        "deep/er/x.png",
        'quo"te.png',
        "new\nline.png",
    ]
    for index, name in enumerate(odd):
        write_image(photos / name, list(COLOURS.values())[index % 3], index)
    (photos / "broken.jpg").write_bytes(b"not an image")
    (photos / "empty.png").write_bytes(b"")
    (photos / ".hidden.png").write_bytes(b"")
    (photos / "notes.txt").write_text("x")
    result = main(["--predict", "photos", "--ckpt_path", str(trained)])
    assert result is not None
    file = Path(result.output_dir, "predictions.csv")
    rows = read(file)
    assert list(rows[0]) == [
        "path", "label", "index", "score", "label_2", "score_2", "label_3", "score_3",
        "prob_blue", "prob_green", "prob_red", "error",
    ]  # fmt: skip
    paths = [row["path"] for row in rows]
    assert len(rows) == len(odd) + 2
    assert [path.removeprefix("./") for path in paths] == sorted([*odd, "broken.jpg", "empty.png"])
    assert "./=cmd.png" in paths
    assert all((photos / path).is_file() for path in paths)
    for row in rows:
        probabilities = [row[f"prob_{name}"] for name in sorted(COLOURS)]
        if row["path"] in ("broken.jpg", "empty.png"):
            assert row["error"] and not row["label"] and not any(probabilities)
        else:
            values = [float(value) for value in probabilities]
            assert sum(values) == pytest.approx(1, abs=1e-5)
            best = max(range(3), key=lambda index: values[index])
            assert (row["label"], int(row["index"])) == (sorted(COLOURS)[best], best)
            assert float(row["score"]) == max(values)
            assert row["error"] == ""
    assert next(row for row in rows if row["path"] == "empty.png")["error"] == "the file is empty"
    assert b"\r\n" in file.read_bytes()


def test_predict_files_and_folders_together(trained: Path, workplace: Path) -> None:
    write_classes(workplace / "one", 1)
    single = write_image(workplace / "single.png", COLOURS["red"], 1)
    result = main(["predict", str(single), "one", "--ckpt_path", str(trained)])
    assert result is not None
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert [row["path"] for row in rows] == [
        single.as_posix(), "one/blue/00.png", "one/green/00.png", "one/red/00.png",
    ]  # fmt: skip


def test_predict_uses_the_configured_folder(trained: Path, workplace: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.init_args\.dataset_classes\.predict: is not configured"
    ):
        main(["--predict", "--ckpt_path", str(trained)])
    write_classes(workplace / "p", 1)
    key = "--data.init_args.dataset_classes.predict"
    value = "{class_path: FolderImageDataset, init_args: {root: p}}"
    result = main(["--predict", "--ckpt_path", str(trained), key, value])
    assert result is not None
    assert len(read(Path(result.output_dir, "predictions.csv"))) == 3


def test_checkpoint_learned_something(trained: Path, workplace: Path) -> None:
    result = main(["--test", "--ckpt_path", str(trained)])
    assert result is not None
    assert result.metrics["test_accuracy"] > 0.8


def test_missing_data_is_said_with_its_key(trained: Path, workplace: Path) -> None:
    key = "data.init_args.dataset_classes.test.init_args.root"
    with pytest.raises(ConfigError) as caught:
        main(["--test", "--ckpt_path", str(trained), f"--{key}", "nowhere"])
    assert str(caught.value).startswith(f"{key}: no such folder, got 'nowhere'.")
    assert not (workplace / "runs").exists()


def test_test_set_with_an_unknown_class_is_refused(trained: Path, workplace: Path) -> None:
    write_classes(workplace / "other", 2, ["blue", "purple"])
    key = "--data.init_args.dataset_classes.test.init_args.root"
    with pytest.raises(ConfigError, match="training does not have: purple"):
        main(["--test", "--ckpt_path", str(trained), key, "other"])


def test_test_set_that_lacks_a_class_keeps_the_labels_right(
    trained: Path, workplace: Path, caplog: Any
) -> None:
    write_classes(workplace / "part", 4, ["green", "red"], seed=700)
    key = "--data.init_args.dataset_classes.test.init_args.root"
    result = main(["--test", "--ckpt_path", str(trained), key, "part"])
    assert result is not None
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert {row["target"] for row in rows} == {"1", "2"}
    assert "has no images of: blue" in caplog.text


def test_exif_orientation_is_applied_when_predicting(trained: Path, workplace: Path) -> None:
    image = Image.new("RGB", (40, 20), COLOURS["red"])
    image.paste(COLOURS["blue"], (0, 0, 20, 20))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    (workplace / "p").mkdir()
    image.save(workplace / "p/plain.png")
    turned.save(workplace / "p/turned.png", exif=exif)
    result = main(["--predict", "p", "--ckpt_path", str(trained)])
    assert result is not None
    plain, rotated = read(Path(result.output_dir, "predictions.csv"))
    assert plain["prob_red"] == rotated["prob_red"]


def test_evaluation_on_several_devices_is_refused(trained: Path, workplace: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["--test", "--ckpt_path", str(trained), "--trainer.devices", "2"])
    assert str(caught.value) == (
        "trainer.devices: validation, test, prediction and lr_find run on one device, got 2. Write 1."
    )


def test_few_predictions_are_printed(trained: Path, workplace: Path, capfd: Any) -> None:
    write_image(workplace / "red.png", COLOURS["red"], 1)
    (workplace / "bad.png").write_bytes(b"")
    result = main(["--predict", "red.png", "bad.png", "--ckpt_path", str(trained)])
    assert result is not None
    assert (result.num_images, result.num_errors) == (2, 1)
    lines = capfd.readouterr().out.splitlines()
    assert lines[1] == "bad.png: the file is empty"
    assert lines[2].startswith("red.png: red 0.")


def test_prediction_needs_none_of_the_trainings_classes(trained: Path, workplace: Path) -> None:
    from classifier.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    sets = checkpoint["config"]["data"]["init_args"]["dataset_classes"]
    sets["train"] = {"class_path": "gone.Images"}
    import torch

    torch.save(checkpoint, "x.ckpt")
    write_image(workplace / "red.png", COLOURS["red"], 1)
    assert main(["--predict", "red.png", "--ckpt_path", "x.ckpt"]) is not None
