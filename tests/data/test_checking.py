"""Every kind of fault is planted, and found where it was planted."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier import FolderImageDataset, ImageDataModule
from classifier.data.checking import DataFacts, Entry, Files, entries_of, inspect
from classifier.data.findings import Finding, findings_of, one_line
from classifier.data.near import groups_of
from tests.conftest import write_classes, write_image

ROOT = Path(__file__).parents[2]
BLUE = (40, 60, 200)
CLASSES = ["blue", "red"]


class NamedFiles(Files):
    """Each told by its name, as a data set would by its path."""

    def describe(self, index: int) -> str:
        return self.files[index].name


def entry(file: Path, stage: str = "train", label: Any = "blue") -> Entry:
    return Entry(stage, label, NamedFiles([file]), 0)


def look(*entries: Entry, size: tuple[int, int] | None = (32, 32)) -> DataFacts:
    return inspect(entries, CLASSES, size)


def found(facts: DataFacts, **options: Any) -> dict[str, Finding]:
    """Findings by kind; those about the classes are left to their own tests."""
    classes = {"few_images", "missing_classes", "imbalance"}
    return {f.kind: f for f in findings_of(facts, **options) if f.kind not in classes}


def paths(finding: Finding) -> list[list[str]]:
    return [[image.path for image in item.images] for item in finding.items]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_image(tmp_path / "good.png", BLUE, 0)


def test_good_image_gives_no_finding(good: Path) -> None:
    facts = look(entry(good))
    assert found(facts) == {}
    (file,) = facts.files
    assert file is not None
    assert (file.width, file.height, file.error, file.kind) == (32, 32, None, "")


# Unreadable


def broken(kind: str, folder: Path) -> Path:
    file = folder / f"{kind}.jpg"
    if kind == "truncated":
        Image.effect_noise((64, 64), 90).save(file)
        file.write_bytes(file.read_bytes()[:-500])
    elif kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("no picture")
    return file  # gone: never written


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "truncated"),
        ("empty", "the file is empty"),
        ("text", "not an image in any format that Pillow reads"),
        ("gone", "No such file"),
    ],
)
def test_unreadable_file_is_an_error_with_its_reason(
    kind: str, reason: str, good: Path, tmp_path: Path
) -> None:
    facts = look(entry(good), entry(broken(kind, tmp_path), "test"))
    (finding,) = found(facts).values()
    assert (finding.severity, finding.kind, finding.stage) == ("error", "unreadable", "test")
    assert paths(finding) == [[f"{kind}.jpg"]]
    assert reason in finding.items[0].detail


def test_unreadable_file_is_a_warning_when_training_goes_on_without_it(tmp_path: Path) -> None:
    facts = look(entry(broken("text", tmp_path)))
    assert found(facts, on_bad_image="skip")["unreadable"].severity == "warning"
    facts = look(entry(broken("text", tmp_path), "predict", None))
    assert found(facts)["unreadable"].severity == "warning"


def test_unreadable_files_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    facts = look(entry(broken("empty", tmp_path)), entry(broken("empty", tmp_path), "val", "red"))
    assert set(found(facts)) == {"unreadable"}


# Odd files


def sixteen_bit_colour(file: Path) -> None:
    import cv2

    cv2.imwrite(str(file), np.full((40, 40, 3), 30000, dtype=np.uint16))


def palette_with_transparency(file: Path) -> None:
    Image.new("P", (40, 40)).save(file, transparency=0)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.jpg", lambda file: Image.new("CMYK", (40, 40)).save(file), "CMYK"),
        ("a.png", lambda file: Image.new("I;16", (40, 40)).save(file), "16-bit"),
        ("a.png", sixteen_bit_colour, "16-bit"),
        ("a.png", lambda file: Image.new("P", (40, 40)).save(file), "palette"),
        ("a.png", palette_with_transparency, "palette with transparency"),
        ("a.png", lambda file: Image.new("RGBA", (40, 40)).save(file), "RGB with transparency"),
        ("a.png", lambda file: Image.new("1", (40, 40)).save(file), "black and white"),
    ],
)
def test_odd_mode_is_named(name: str, write: Any, words: str, good: Path, tmp_path: Path) -> None:
    write(tmp_path / name)
    (finding,) = found(look(entry(good), entry(tmp_path / name))).values()
    assert finding.message == f"1 image neither RGB nor 8-bit grey, converted to RGB: 1 {words}"
    assert paths(finding) == [[name]]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_found_and_sizes_are_upright(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / f"x{suffix}", exif=exif)
    facts = look(entry(tmp_path / f"x{suffix}"))
    assert list(found(facts)) == ["orientation"]
    (file,) = facts.files
    assert file is not None and (file.width, file.height) == (40, 60)


def test_animation_is_found(tmp_path: Path) -> None:
    frames = [Image.new("L", (40, 40), shade) for shade in (0, 120, 250)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "x.tiff", save_all=True, append_images=frames[1:])
    finding = found(look(entry(tmp_path / "x.gif"), entry(tmp_path / "x.tiff")))["frames"]
    assert paths(finding) == [["x.gif"], ["x.tiff"]]


def test_image_smaller_than_the_input_is_found(good: Path, tmp_path: Path) -> None:
    tiny = write_image(tmp_path / "tiny.png", BLUE, 1, size=16)
    (finding,) = found(look(entry(good), entry(tiny))).values()
    assert finding.message == "1 image smaller than the model's input, 32 x 32 pixels"
    assert finding.items[0].text() == "tiny.png (train): 16 x 16 pixels"
    assert found(look(entry(good), entry(tiny), size=None)) == {}


# The same content twice


def copied(file: Path, name: str) -> Path:
    copy = file.with_name(name)
    copy.write_bytes(file.read_bytes())
    return copy


def test_copy_in_another_split_is_a_leak(good: Path) -> None:
    facts = look(entry(good), entry(copied(good, "copy.png"), "val"))
    (finding,) = found(facts).values()
    assert (finding.kind, finding.severity) == ("leaks", "warning")
    assert finding.items[0].text() == "good.png (train) = copy.png (val)"


def test_copy_in_the_same_split_is_a_duplicate(good: Path) -> None:
    facts = look(entry(good), entry(copied(good, "copy.png")))
    (finding,) = found(facts).values()
    assert (finding.kind, paths(finding)) == ("duplicates", [["good.png", "copy.png"]])


def test_copy_to_predict_is_no_finding(good: Path) -> None:
    assert found(look(entry(good), entry(copied(good, "copy.png"), "predict", None))) == {}


def test_copy_with_another_label_is_a_conflict(good: Path) -> None:
    facts = look(entry(good), entry(copied(good, "copy.png"), label="red"))
    kinds = found(facts)
    assert set(kinds) == {"duplicates", "label_conflicts"}
    assert kinds["label_conflicts"].items[0].detail == "labels blue / red"


@pytest.mark.parametrize(
    ("other", "conflict"), [(("red", "blue"), False), (("blue",), True), ((), True)]
)
def test_several_labels_are_compared_as_sets(
    good: Path, other: tuple[str, ...], conflict: bool
) -> None:
    copy = entry(copied(good, "copy.png"), label=other)
    facts = look(entry(good, label=("blue", "red")), copy)
    assert ("label_conflicts" in found(facts)) == conflict
    assert facts.counts()["train"]["blue"] == 1 + ("blue" in other)


# Near duplicates


def picture(file: Path, seed: int = 0) -> Path:
    """Soft blobs, unlike those of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(file)
    return file


def test_same_picture_in_another_format_is_a_near_duplicate(tmp_path: Path) -> None:
    one, other = picture(tmp_path / "one.png"), picture(tmp_path / "other.jpg")
    unlike = picture(tmp_path / "unlike.png", seed=1)
    facts = look(entry(one), entry(unlike), entry(other, "test"))
    (finding,) = found(facts).values()
    assert (finding.kind, paths(finding)) == ("near_leaks", [["one.png", "other.jpg"]])
    facts = look(entry(one), entry(unlike), entry(other))
    (finding,) = found(facts).values()
    assert (finding.kind, paths(finding)) == ("near_duplicates", [["one.png", "other.jpg"]])
    assert found(look(entry(one), entry(unlike), entry(other, "predict", None))) == {}


def test_exact_copies_are_not_told_again_as_near_duplicates(tmp_path: Path) -> None:
    one = picture(tmp_path / "one.png")
    facts = look(entry(one), entry(copied(one, "two.png"), "val"), entry(one, "predict", None))
    assert set(found(facts)) == {"leaks"}


def test_near_duplicates_are_not_looked_for_without_the_library(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.data.near.find_spec", lambda name: None)
    assert look(entry(good)).near is None


def test_near_copy_in_another_split_is_found_beside_a_nearer_one_in_the_same() -> None:
    kinds = ["train", "train", "val", "val"]
    assert groups_of([0b0, 0b1, 0b1110, 0b11110], kinds) == [[0, 1, 2, 3]]


def test_groups_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    # More than a block of 512 rows, with copies that differ in 0 to 8 bits.
    hashes = [int(value) for value in rng.integers(0, 2**63, 900, dtype=np.uint64)]
    for place in range(600, 900, 3):
        flipped = sum(1 << int(bit) for bit in rng.choice(64, place % 9, replace=False))
        hashes[place] = hashes[place - 600] ^ flipped
    near = {
        (i, j)
        for i, one in enumerate(hashes)
        for j, other in enumerate(hashes[:i])
        if (one ^ other).bit_count() <= 4
    }
    assert len(near) > 20
    groups = groups_of(hashes, ["train"] * len(hashes))
    assert sorted(tuple(sorted(group, reverse=True)) for group in groups) == sorted(near)


def test_all_that_are_near_are_in_a_group() -> None:
    assert groups_of([], []) == []
    assert groups_of([0b0, 0b1111, 0b11111111, 2**63 - 1], ["val"] * 4) == [[0, 1, 2]]


# Classes


def counted(**numbers: int) -> dict[str, Finding]:
    """Findings about images without files: 5 of stage and class for test_red=5."""
    entries = [
        Entry(name.split("_")[0], name.split("_")[1], object(), number)
        for name, count in numbers.items()
        for number in range(count)
    ]
    return {finding.kind: finding for finding in findings_of(inspect(entries, CLASSES))}


@pytest.mark.parametrize(("red", "expected"), [(3, True), (4, False)])
def test_imbalance_is_told_from_ten_times_on(red: int, expected: bool) -> None:
    findings = counted(train_blue=30, train_red=red)
    assert list(findings) == (["imbalance"] if expected else [])
    if expected:
        assert "10 times" in findings["imbalance"].message
        assert [item.detail for item in findings["imbalance"].items] == ["blue: 30", "red: 3"]


def test_class_with_one_image_is_found() -> None:
    (finding,) = counted(train_blue=5, train_red=1).values()
    assert finding.message == "1 class with fewer than 2 images in train"
    assert finding.items[0].text() == "red: 1"


def test_class_missing_in_a_split_is_found() -> None:
    (finding,) = counted(train_blue=2, train_red=2, test_blue=1).values()
    assert finding.message == "1 class without an image in test"
    assert finding.items[0].text() == "red"


# From a data module


def module(root: Path, **stages: str) -> ImageDataModule:
    data = ImageDataModule(
        {name: FolderImageDataset(str(root / folder)) for name, folder in stages.items()}
    )
    data.setup("fit")
    return data


def test_entries_are_all_images_of_all_stages(images: Path) -> None:
    entries = entries_of(module(images, train="train", test="test", predict="new"))
    stages = [entry.stage for entry in entries]
    assert {name: stages.count(name) for name in stages} == {
        "train": 24, "val": 6, "test": 12, "predict": 3,
    }  # fmt: skip
    assert {entry.label for entry in entries if entry.stage == "predict"} == {None}
    for one in entries:
        assert one.file is not None and one.file.is_file() and one.decodes
        if one.stage != "predict":
            assert one.label == one.file.parent.name


def test_entries_have_no_validation_when_nothing_is_held_out(images: Path) -> None:
    data = ImageDataModule({"train": FolderImageDataset(str(images / "train"))}, val_fraction=0.0)
    data.setup("fit")
    assert {entry.stage for entry in entries_of(data)} == {"train"}


def test_entries_keep_no_path_of_an_image() -> None:
    number, source = 2000, Files([Path("folder/image.png")])
    stage = SimpleNamespace(
        source=source, indices=range(number), targets=[0] * number, skipped={}
    )  # fmt: skip
    data = SimpleNamespace(
        dataset_classes={"train": source}, class_names=["blue"],
        selection=SimpleNamespace(is_held_out=lambda name: False), stage=lambda name: stage,
    )  # fmt: skip
    tracemalloc.start()
    try:
        entries = entries_of(data)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(entries) == number
    assert kept < 150 * number  # a pathlib.Path alone is more, once its text was asked for
    assert (entries[0].path, entries[0].file) == ("folder/image.png", source.files[0])


@pytest.mark.parametrize(
    ("targets", "expected"),
    [([0, 1, -1], ["zero", "one", None]), ([(0,), (0, 1), ()], [("zero",), ("zero", "one"), ()])],
)
def test_data_set_without_files_is_counted_by_its_targets(
    targets: list[Any], expected: list[Any]
) -> None:
    stage = SimpleNamespace(source=object(), indices=[0, 1, 2], targets=targets, skipped={})
    data = SimpleNamespace(
        dataset_classes={"train": stage.source}, class_names=["zero", "one"],
        selection=SimpleNamespace(is_held_out=lambda name: False), stage=lambda name: stage,
    )  # fmt: skip
    entries = entries_of(data)
    assert [entry.label for entry in entries] == expected
    assert inspect(entries, ["zero", "one"]).files == [None] * 3


class OwnFormat(FolderImageDataset):
    """Reads files that nothing else can read."""

    def load(self, index: int) -> Any:
        return np.zeros((8, 8, 3), dtype=np.uint8)


def test_files_that_a_user_decodes_are_hashed_and_not_refused(images: Path) -> None:
    for name in ("00", "01"):
        (images / f"train/red/{name}.png").write_text("pixels of my own")
    data = ImageDataModule({"train": OwnFormat(str(images / "train"))}, val_fraction=0.0)
    data.setup("fit")
    facts = inspect(entries_of(data), data.class_names or [])
    assert set(found(facts)) == {"duplicates"}


def test_all_held_out_stages_and_skipped_files_are_entries(images: Path) -> None:
    (images / "train/red/04.png").write_text("text")
    data = ImageDataModule(
        {"train": FolderImageDataset(str(images / "train"))},
        val_fraction=0.2, test_fraction=0.2, on_bad_image="skip",
    )  # fmt: skip
    data.setup("fit")
    entries = entries_of(data)
    assert {entry.stage for entry in entries} == {"train", "val", "test"}
    assert len(entries) == 30
    (finding,) = found(inspect(entries, CLASSES), on_bad_image="skip").values()
    assert (finding.severity, finding.kind, len(finding.items)) == ("warning", "unreadable", 1)


# The rest


def test_file_part_needs_no_torch() -> None:
    script = "import classifier.data.checking, classifier.data.findings, sys; print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"


def test_hostile_path_stays_on_one_harmless_line() -> None:
    assert one_line("a\nb\x1b[31m\udcff é 猫") == "a\\nb\\x1b[31m\\udcff é 猫"


def test_many_files_come_back_in_their_order(tmp_path: Path) -> None:
    write_classes(tmp_path, 100, CLASSES)
    files = sorted(tmp_path.rglob("*.png"))
    facts = look(*(entry(file, label=file.parent.name) for file in files))
    one_by_one = [look(entry(file)).files[0] for file in files[::37]]
    assert list(facts.files[::37]) == one_by_one
    assert facts.counts()["train"] == {"blue": 100, "red": 100}
