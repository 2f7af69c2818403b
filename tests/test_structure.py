"""The house: arrows one way, rooms of a size, one reader of YAML."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "classifier").rglob("*.py"))
# From the door to the cellar: a module imports from its own floor or from below.
FLOORS = [
    ["classifier"],
    ["classifier.entry"],
    ["classifier.warm"],
    ["classifier.execution"],
    ["classifier.commands", "classifier.repeating"],
    ["classifier.assembly"],
    ["classifier.cli"],
    ["classifier.explain"],
    ["classifier.callbacks", "classifier.tuning"],
    ["classifier.evaluation", "classifier.export"],
    ["classifier.inference"],
    ["classifier.terminal"],
    [
        "classifier.model",
        "classifier.data",
        "classifier.checkpoints",
        "classifier.checkpoint_writing",
    ],
    ["classifier.runs", "classifier.ranks", "classifier.rank_launcher"],
    ["classifier.arguments", "classifier.manual"],
    ["classifier.masking"],
    ["classifier.measured"],
    ["classifier.importing", "classifier.nulls", "classifier.preprocessing", "classifier.config"],
    ["classifier.image_steps"],
    [
        "classifier.cores",
        "classifier.files",
        "classifier.formats",
        "classifier.opencv_resize",
        "classifier.page",
        "classifier.signals",
        "classifier.spreadsheets",
        "classifier.trees",
    ],
    ["classifier.errors"],
]


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def floor_of(module: str) -> int:
    found = -1
    for number, floor in enumerate(FLOORS):
        for name in floor:
            if module == name or (name != "classifier" and module.startswith(f"{name}.")):
                found = number
    assert found >= 0, f"{module} is on no floor"
    return found


def imports_of(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_arrows_point_down(file: Path) -> None:
    here = module_of(file)
    for name in imports_of(file):
        if name.startswith("classifier."):
            assert floor_of(here) <= floor_of(name), f"{here} imports {name} from above"
            sides = {"classifier.model", "classifier.data"}
            rooms = {side for side in sides if here.startswith(side) or name.startswith(side)}
            assert rooms != sides, (
                f"{here} imports {name}: model and data know nothing of each other"
            )


def test_no_circle_of_imports() -> None:
    modules = {module_of(file): set(imports_of(file)) for file in FILES}
    TopologicalSorter({name: found & modules.keys() for name, found in modules.items()}).prepare()


# A module of the diagram in the README -> what it stands for there, beside the package of its name.
DRAWN = {
    "arguments": "shared", "manual": "shared", "warm": "entry", "assembly": "cli", "explain": "cli",
    "checkpoints": "runs", "checkpoint_writing": "runs", "ranks": "runs",
    "rank_launcher": "runs", "terminal": "runs",
    "config": "shared", "cores": "shared", "errors": "shared", "files": "shared", "formats": "shared", "importing": "shared", "nulls": "shared",
    "image_steps": "shared", "masking": "shared", "measured": "shared", "opencv_resize": "shared", "page": "shared", "preprocessing": "shared", "signals": "shared",
    "spreadsheets": "shared", "trees": "shared",
}  # fmt: skip


def drawn(module: str) -> str:
    part = module.split(".")[1]
    return DRAWN.get(part, part)


def test_diagram_of_the_readme_shows_the_imports() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    arrows = {(a, b) for a, b in re.findall(r"^  (\w+) --> (\w+)$", readme, flags=re.MULTILINE)}
    real = {
        (drawn(module_of(file)), drawn(name))
        for file in FILES
        if module_of(file) != "classifier"
        for name in imports_of(file)
        if name.startswith("classifier.")
    }
    assert arrows and arrows <= real
    reached = {(a, b) for a, b in real if a == b} | arrows
    while more := {(a, d) for a, b in reached for c, d in reached if b == c} - reached:
        reached |= more
    assert real <= reached, f"not in the diagram: {real - reached}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_rooms_are_of_a_size(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= 360
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_albumentations_has_its_rooms() -> None:
    users = {module_of(file) for file in FILES if "albumentations" in set(imports_of(file))}
    assert users == {"classifier.data.augmentations", "classifier.data.transforms"}


# What is done in one place -> where.
ONE_PLACE = {
    r"\byaml\.(safe_)?load\(": {"config", "cli"},  # cli: what jsonargparse has written
    r"\bos\.(replace|rename)\(": {"files"},
    r"\bcv2\.im(read|decode)\(": {"data.jpeg"},
    r"\bImage\.open\(": {"data.decoding", "data.checking"},  # checking: of the header alone
    r"\bsignal\.signal\(": {"signals", "data.worker_signals"},
    r"\bseed_everything\(|\bnp\.random\.seed\(": set(),  # Lightning's command line does it
}


@pytest.mark.parametrize("pattern", ONE_PLACE)
def test_one_place_for_each_thing(pattern: str) -> None:
    found = {
        module_of(file).removeprefix("classifier.")
        for file in FILES
        if re.search(pattern, file.read_text(encoding="utf-8"))
    }
    assert found == ONE_PLACE[pattern]


def test_main_is_a_door_and_nothing_else() -> None:
    assert len((ROOT / "main.py").read_text().splitlines()) <= 10
