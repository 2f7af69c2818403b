"""Which images each stage sees: splits, groups, copies, files that are no images."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from classifier import FolderImageDataset, ImageDataModule, main
from classifier.data.copies import find_copies
from classifier.data.sampling import BalancedSampler
from classifier.errors import ConfigError, RunError
from tests.conftest import write_classes, write_image
from tests.data.painted import Painted, module, paths

DATA = "data.init_args"


def test_train_val_and_test_are_a_partition_and_each_stays_when_another_changes() -> None:
    dataset = Painted(["a", "b"] * 100)
    data = module(dataset, val_fraction=0.2, test_fraction=0.1)
    parts = [paths(data, stage) for stage in ("train", "val", "test")]
    assert [len(part) for part in parts] == [140, 40, 20]
    assert set.union(*parts) == {f"{i:04d}" for i in range(200)}
    other = module(dataset, val_fraction=0.4, test_fraction=0.1)
    assert paths(other, "test") == parts[2]


def test_groups_of_the_data_and_of_a_pattern_stay_together(workplace: Path) -> None:
    groups = [f"patient {i % 17}" for i in range(200)]
    data = module(Painted(["a", "b"] * 100, groups), test_fraction=0.2)
    seen = [
        {groups[int(path)] for path in paths(data, stage)} for stage in ("train", "val", "test")
    ]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    for index in range(30):
        write_image(
            workplace / "x" / "ab"[index % 2] / f"p{index % 7}_{index}.png", (9, 9, 9), index
        )
    data = module(FolderImageDataset("x"), group_pattern=r"/(p\d+)_")
    patients = [{path.split("/")[1][:2] for path in paths(data, s)} for s in ("train", "val")]
    assert not patients[0] & patients[1]
    with pytest.raises(ConfigError, match=r"group_pattern: matches no path, such as a/p0_0\.png"):
        module(FolderImageDataset("x"), group_pattern="video").stage("train")


def test_copies_stay_on_one_side_unless_told_otherwise(workplace: Path) -> None:
    write_classes(workplace / "x", 12)
    for name in ("red", "blue"):
        for index in range(12):
            shutil.copy(f"x/{name}/{index:02d}.png", f"x/{name}/copy {index:02d}.png")
    data = module(FolderImageDataset("x"), val_fraction=0.3)
    train, val = ({path.replace("copy ", "") for path in paths(data, s)} for s in ("train", "val"))
    assert not train & val
    loose = module(FolderImageDataset("x"), val_fraction=0.3, group_duplicates=False)
    train, val = ({path.replace("copy ", "") for path in paths(loose, s)} for s in ("train", "val"))
    assert train & val


def test_copies_are_found_by_content_and_few_files_are_read(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(workplace / "x", 5)
    shutil.copy("x/red/03.png", "x/green/same.png")
    (workplace / "x" / "blue" / "longer.png").write_bytes(Path("x/red/03.png").read_bytes() + b"1")
    dataset = FolderImageDataset("x")
    read: list[int] = []
    fingerprint = FolderImageDataset.fingerprint

    def noted(self: FolderImageDataset, index: int) -> bytes:
        read.append(index)
        return fingerprint(self, index)

    monkeypatch.setattr(FolderImageDataset, "fingerprint", noted)
    (found,) = find_copies([dataset], 2)
    twins = [dataset.samples[index].path for index, print_ in enumerate(found) if print_]
    assert twins == ["green/same.png", "red/03.png"]
    assert sorted(dataset.samples[index].path for index in read) == twins


def test_copy_of_a_training_image_in_val_is_told(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_classes(workplace / "x", 4)
    write_classes(workplace / "y", 3, seed=900)
    train, val = FolderImageDataset("x"), FolderImageDataset("y")
    module(train, datasets={"val": val})
    assert not [record for record in caplog.records if "in train too" in record.message]
    shutil.copy("x/red/03.png", "y/blue/copied.png")
    module(train, datasets={"val": FolderImageDataset("y")})
    assert caplog.records[-1].message.startswith(
        f"1 of 10 images of {DATA}.dataset_classes.val are in train too, for example y/blue/copied"
    )


def test_folds_are_disjoint_and_cover_all() -> None:
    dataset = Painted(["a", "b", "b"] * 30)
    seen: list[str] = []
    for fold in range(5):
        data = module(dataset, folds=5, fold=fold)
        assert Counter(data.stage("val").targets) == {0: 6, 1: 12}
        assert not paths(data, "train") & paths(data, "val")
        seen += paths(data, "val")
    assert sorted(seen) == [f"{i:04d}" for i in range(90)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": 2}, f"{DATA}.fold: must be from 0 to folds - 1, got 2. Add folds: 5."),
        ({"folds": 5, "fold": 5}, f"{DATA}.fold: must be from 0 to folds - 1, got 5."),
        ({"folds": 1}, f"{DATA}.folds: must be at least 2, got 1."),
        ({"folds": 99}, f"{DATA}.folds: too few images of a: 10, and of 1 other class, got 99. Write at most 10."),
        ({"test_fraction": 1.0}, f"{DATA}.test_fraction: must be in [0, 1), got 1.0."),
        ({"test_fraction": 0.9}, f"{DATA}.test_fraction: leaves nothing to train on beside val_fraction (0.2)"),
        ({"group_pattern": "("}, f"{DATA}.group_pattern: is no regular expression"),
        ({"class_names": ["a", "a"]}, f"{DATA}.class_names: must be distinct names"),
        ({"on_bad_image": "ignore"}, f"{DATA}.on_bad_image: unknown value, got 'ignore'. Write error or skip."),
        ({"sampler": "weighted"}, f"{DATA}.sampler: unknown value, got 'weighted'. Write null or balanced."),
        ({"max_samples": 0}, f"{DATA}.max_samples: must be at least 1, got 0."),
        ({"resize_mode": "stretch"}, f"{DATA}.resize_mode: unknown value, got 'stretch'. Write null or crop or squash or pad."),
        ({"background": (0, 0, 256)}, f"{DATA}.background: must be three numbers from 0 to 255, got [0, 0, 256]."),
        ({"cache_size": 0}, f"{DATA}.cache_size: must be at least 1, got 0."),
    ],
)  # fmt: skip
def test_value_out_of_range_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        module(Painted(["a", "b"] * 10), **arguments).stage("val")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("stage", "key", "value"), [("val", "folds", 5), ("test", "test_fraction", 0.1)])  # fmt: skip
def test_split_without_effect_is_refused(stage: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{DATA}.{key}: has no effect beside"):
        module(Painted(["a", "b"] * 9), datasets={stage: Painted(["a", "b"])}, **{key: value})


# Imbalance


def draws(dataset: Any, seed: int, epoch: int, replicas: int = 1) -> list[list[int]]:
    found = []
    for rank in range(replicas):
        sampler = BalancedSampler(dataset, replicas, rank, seed)
        sampler.set_epoch(epoch)
        found.append([place for _, place in sampler])
    return found


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_balanced_sampler_draws_classes_alike_with_any_number_of_processes(replicas: int) -> None:
    data = module(Painted(["many"] * 900 + ["few"] * 60 + ["rare"] * 40), val_fraction=0.0)
    stage = data.stage("train")
    parts = draws(stage, seed=1, epoch=0, replicas=replicas)
    assert len({len(part) for part in parts}) == 1
    drawn = Counter(stage.targets[place] for part in parts for place in part)
    for number in drawn.values():
        assert number == pytest.approx(1000 / 3, rel=0.15)
    # The epoch as a whole does not depend on the number of processes.
    merged = [place for group in zip(*parts, strict=True) for place in group]
    alone = draws(stage, seed=1, epoch=0)[0]
    assert merged[:1000] == alone[: len(merged)]
    assert draws(stage, 1, 1) != draws(stage, 1, 0) != draws(stage, 2, 0)


def test_balanced_sampler_goes_on_in_the_middle_of_an_epoch() -> None:
    stage = module(Painted(["many"] * 90 + ["few"] * 10), val_fraction=0.0).stage("train")
    whole = draws(stage, seed=1, epoch=4)[0]
    sampler = BalancedSampler(stage, 1, 0, seed=1)
    sampler.set_epoch(4)
    sampler.num_done = 64
    assert [place for _, place in sampler] == whole[64:]


def test_balanced_training_repeats_bit_for_bit(config: Any, save: Any) -> None:
    config["data"]["init_args"]["sampler"] = "balanced"
    one, other = main(["--config", save(config)]), main(["--config", save(config)])
    assert one is not None and other is not None
    assert one.metrics == other.metrics


def test_part_smaller_than_the_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_samples: is fewer than the 2 classes, got 1"):
        module(Painted(["a", "b"] * 9), max_samples=1).stage("train")


def test_class_that_a_held_out_split_lacks_is_told(caplog: pytest.LogCaptureFixture) -> None:
    module(Painted(["a", "b"] * 9 + ["c"])).stage("val")
    assert "val, which is held out of train, has no images of: c" in caplog.text


def test_fractions_can_be_null() -> None:
    data = module(Painted(["a", "b"] * 9), val_fraction=None, test_fraction=None)
    assert not data.has_validation()
    assert len(data.stage("train")) == 18


def test_max_samples_takes_from_the_classes_alike() -> None:
    data = module(Painted(["many"] * 90 + ["few"] * 6), val_fraction=0.0, max_samples=20)
    assert Counter(data.stage("train").targets) == {1: 14, 0: 6}
    assert data.class_counts() == [6, 14]


# Files that are no images


@pytest.fixture
def damaged(config: Any, workplace: Path) -> Any:
    """One damaged file in train, two in test."""
    images = workplace / "images"
    for name in ("train/red/03.png", "test/red/00.png", "test/green/zz.png"):
        (images / name).write_bytes(b"no picture")
    return config


def test_damaged_file_stops_the_training_and_is_named(damaged: Any, save: Any) -> None:
    with pytest.raises(RunError, match=r"images/train/red/03.png: not an image"):
        main(["--config", save(damaged)])


def test_damaged_files_are_skipped_counted_and_listed(damaged: Any, save: Any) -> None:
    damaged["data"]["init_args"]["on_bad_image"] = "skip"
    result = main(["--config", save(damaged)])
    assert result is not None and result.status == "completed"
    log = (Path(result.output_dir) / "log.txt").read_text()
    assert "skipped 1 of " in log
    assert "images/train/red/03.png: not an image" in log
    tested = main(["--test", "--ckpt_path", result.output_dir])
    assert tested is not None
    with (Path(tested.output_dir) / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 13
    bad = {row["path"]: row for row in rows if row["error"]}
    assert set(bad) == {"red/00.png", "green/zz.png"}
    assert bad["red/00.png"]["label"] == bad["red/00.png"]["correct"] == ""


@pytest.mark.parametrize("create_dataset", [False, True])
def test_background_shows_through_in_every_stage(
    config: Any, save: Any, workplace: Path, create_dataset: bool
) -> None:
    from PIL import Image

    for number, file in enumerate((workplace / "images").rglob("*.png")):
        Image.new("RGBA", (32, 32), (number, 0, 0, 0)).save(file)  # of a hidden colour each
    arguments = config["data"]["init_args"]
    arguments |= {"background": [10, 200, 30], "create_dataset": create_dataset}
    result = main(["--config", save(config)])
    assert result is not None
    sets = {name: FolderImageDataset(f"images/{name}") for name in ("train", "test")}
    sets["predict"] = FolderImageDataset("images/new")
    for background in ((10, 200, 30), (255, 255, 255)):
        data = ImageDataModule(
            dict(sets), num_workers=0, background=background, create_dataset=create_dataset
        )
        data.setup("fit")
        for stage in ("train", "val", "test", "predict"):
            assert tuple(data.stage(stage)[0][0][:, 0, 0].tolist()) == background


# Resize


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_resize_mode_is_that_of_every_stage_and_of_the_checkpoint(
    config: Any, save: Any, workplace: Path, mode: str
) -> None:
    from classifier.model.classifier import ImageClassifier

    arguments = config["data"]["init_args"]
    arguments["augmentations"] = None
    arguments["resize_mode"] = mode
    result = main(["--config", save(config)])
    assert result is not None
    checkpoint = Path(result.output_dir) / "checkpoints" / "best.ckpt"
    model = ImageClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert model.preprocessing.resize_mode == mode
    if mode != "crop":
        assert model.preprocessing.resize == model.preprocessing.size
    tested = main(["--test", "--ckpt_path", result.output_dir])
    assert tested is not None and tested.status == "completed"
