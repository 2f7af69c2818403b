"""What the facts about a data set mean for a training: errors and warnings, worded once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from classifier.data.checking import SPLITS, DataFacts, Entry, FileFacts
from classifier.data.near import NEAR_DISTANCE
from classifier.data.paths import empty_folders

ERROR = "error"
WARNING = "warning"
IMBALANCE = 10.0
FEWEST_IMAGES = 2


@dataclass(frozen=True)
class Item:
    """One thing that a finding is about.

    Args:
        images: The images concerned; more than one where they belong together.
        detail: What there is to say about them.
        sign: Between images that belong together.
    """

    images: tuple[Entry, ...] = ()
    detail: str = ""
    sign: str = "="

    def text(self) -> str:
        """One line, whatever characters a path has."""
        names = f" {self.sign} ".join(f"{image.path} ({image.stage})" for image in self.images)
        return one_line(": ".join(part for part in (names, self.detail) if part))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        images = [
            {"stage": image.stage, "path": image.path, "label": image.label}
            for image in self.images
        ]
        return {"images": images, "detail": self.detail}


@dataclass(frozen=True)
class Finding:
    """Something about the data that a training refuses or that a person should know.

    Args:
        severity: error, what training refuses; or warning.
        kind: A fixed word, for programs.
        message: What was found and how often.
        items: All of it.
        stage: The one that an error is about.
    """

    severity: str
    kind: str
    message: str
    items: tuple[Item, ...]
    stage: str | None = None


def one_line(text: str) -> str:
    """Text without line breaks and without codes that a terminal would obey."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def findings_of(facts: DataFacts, on_bad_image: str = "error") -> list[Finding]:
    """All findings, errors first.

    Args:
        facts: Of all stages.
        on_bad_image: What training does with an image that cannot be decoded: `error`, or a word
            that lets it go on without.
    """
    found = [
        *_unreadable(facts, on_bad_image),
        *_copies(facts),
        *_near(facts),
        *_odd_files(facts),
        *_classes(facts),
    ]
    return sorted(found, key=lambda finding: finding.severity != ERROR)


def _unreadable(facts: DataFacts, on_bad_image: str) -> Iterator[Finding]:
    for stage in facts.stages:
        items = tuple(
            Item((entry,), file.error)
            for entry, file in facts.seen()
            if entry.stage == stage and file.error is not None
        )
        if items:
            refused = stage in SPLITS and on_bad_image == ERROR
            severity = ERROR if refused else WARNING
            message = f"{_number(items, 'unreadable image')} in {stage}"
            yield Finding(severity, "unreadable", message, items, stage)


# The same content twice


def _copies(facts: DataFacts) -> Iterator[Finding]:
    by_content: dict[bytes, list[Entry]] = defaultdict(list)
    for entry, file in facts.seen():
        if file.digest is not None and file.error is None and entry.stage in SPLITS:
            by_content[file.digest].append(entry)
    groups = [group for group in by_content.values() if len(group) > 1]
    leaks = tuple(Item(tuple(group)) for group in groups if _spans_splits(group))
    if leaks:
        message = f"{_number(leaks, 'image')} in more than one split, byte for byte"
        yield Finding(WARNING, "leaks", message, leaks)
    same = tuple(Item(part) for group in groups for part in _by_stage(group) if len(part) > 1)
    if same:
        message = f"{_number(same, 'image')} more than once in the same split, byte for byte"
        yield Finding(WARNING, "duplicates", message, same)
    conflicts = tuple(
        Item(tuple(group), f"labels {' / '.join(_labels(group))}")
        for group in groups
        if len(_labels(group)) > 1
    )
    if conflicts:
        message = f"{_number(conflicts, 'image')} with different labels for the same content"
        yield Finding(WARNING, "label_conflicts", message, conflicts)


def _near(facts: DataFacts) -> Iterator[Finding]:
    bits = f"perceptual hashes at most {NEAR_DISTANCE} of 64 bits apart"
    groups = [tuple(facts.entries[place] for place in group) for group in facts.near or ()]
    for kind, across, where in (
        ("near_leaks", True, "in different splits"),
        ("near_duplicates", False, "in the same split"),
    ):
        items = tuple(Item(group, sign="~") for group in groups if _spans_splits(group) == across)
        if items:
            message = f"{_number(items, 'group')} of images that look the same {where} ({bits})"
            yield Finding(WARNING, kind, message, items)


def _spans_splits(group: Sequence[Entry]) -> bool:
    return len({entry.stage for entry in group}) > 1


def _by_stage(group: Sequence[Entry]) -> list[tuple[Entry, ...]]:
    return [tuple(part) for _, part in groupby(group, key=lambda entry: entry.stage)]


def _labels(group: Sequence[Entry]) -> list[str]:
    return sorted({" + ".join(entry.labels) for entry in group if entry.label is not None})


# Odd files


def _odd_files(facts: DataFacts) -> Iterator[Finding]:
    kinds = Counter(file.kind for _, file in facts.seen() if file.kind)
    shown = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    height, width = facts.input_size or (0, 0)
    tests: list[tuple[str, str, Callable[[FileFacts], str]]] = [
        ("modes", f"neither RGB nor 8-bit grey, converted to RGB: {shown}", lambda file: file.kind),
        (
            "orientation", "with an EXIF orientation, turned upright",
            lambda file: f"orientation {file.orientation}" if file.orientation != 1 else "",
        ),
        (
            "frames", "with more than one frame; only the first is used",
            lambda file: "animated or several pages" if file.animated else "",
        ),
        (
            "small", f"smaller than the model's input, {width} x {height} pixels",
            lambda file: (
                f"{file.width} x {file.height} pixels"
                if file.width and (file.width < width or file.height < height)
                else ""
            ),
        ),
    ]  # fmt: skip
    for kind, words, test in tests:
        items = tuple(Item((entry,), test(file)) for entry, file in facts.seen() if test(file))
        if items:
            yield Finding(WARNING, kind, f"{_number(items, 'image')} {words}", items)


# Classes


def _classes(facts: DataFacts) -> Iterator[Finding]:
    counts = facts.counts()
    train = counts.get("train", Counter())
    yield from _imbalance({name: number for name, number in train.items() if number})
    few = tuple(
        Item(detail=f"{name}: {number}") for name, number in train.items() if number < FEWEST_IMAGES
    )
    if few:
        message = f"{_number(few, 'class')} with fewer than {FEWEST_IMAGES} images in train"
        yield Finding(WARNING, "few_images", message, few)
    for stage in ("val", "test"):
        missing = tuple(
            Item(detail=name) for name, number in counts.get(stage, Counter()).items() if not number
        )
        if missing:
            message = f"{_number(missing, 'class')} without an image in {stage}"
            yield Finding(WARNING, "missing_classes", message, missing)
    yield from _empty_folders(facts)


def _empty_folders(facts: DataFacts) -> Iterator[Finding]:
    """What looks like a class and is none; one data set may serve several stages."""
    sources = {entry.stage: entry.source for entry in facts.entries if entry.stage in SPLITS}
    folders = {
        f"{source.root}/{name}": holds
        for source in sources.values()
        for name, holds in empty_folders(source, facts.class_names).items()
    }
    if folders:
        items = tuple(Item(detail=f"{name} holds {holds}") for name, holds in folders.items())
        message = f"{_number(items, 'folder')} without an image, which are no classes"
        yield Finding(WARNING, "empty_folders", message, items)


def _imbalance(counts: dict[str, int]) -> Iterator[Finding]:
    if not counts:
        return
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[largest] / counts[smallest]
    if ratio >= IMBALANCE:
        items = tuple(Item(detail=f"{name}: {counts[name]}") for name in (largest, smallest))
        message = f"the largest class of train has {ratio:.3g} times the images of the smallest"
        yield Finding(WARNING, "imbalance", message, items)


def _number(items: Sequence[Item], noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{len(items)} {noun if len(items) == 1 else plural}"
