"""What the README shows works."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from classifier import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def test_configuration_of_the_readme_is_in_order(images: Path, workplace: Path) -> None:
    run, sweep = blocks("yaml")
    (workplace / "simpsons.yaml").write_text(run + sweep)
    words = ["--model.pretrained", "false", "--model.model_name", "timm/test_resnet"]
    root = "--data.init_args.dataset_classes.train.init_args.root"
    result = main(["--check", "--config", "simpsons.yaml", *words, root, str(images / "train")])
    assert result is not None and result.status == "completed"


@pytest.mark.filterwarnings("ignore")
def test_python_of_the_readme_runs(images: Path, workplace: Path, capsys: Any) -> None:
    python_block, _ = blocks("python")
    small = (
        python_block.replace("timm/resnet18.a1_in1k", "timm/test_resnet")
        .replace("freeze_encoder=0.5", "freeze_encoder=0.5, pretrained=False")
        .replace('"photos"', repr(str(images / "train")))
        .replace("max_epochs=5", "max_epochs=1, accelerator='cpu', enable_progress_bar=False")
    )
    exec(compile(small, "README.md", "exec"), {})
    assert "tensor(" in capsys.readouterr().out


def test_predictor_of_the_readme_predicts(trained: Path, images: Path, capsys: Any) -> None:
    _, block = blocks("python")
    there = block.replace('"model.onnx"', repr(str(trained)))
    there = there.replace('"cat.jpg"', repr(str(images / "new/0.png")))
    exec(compile(there, "README.md", "exec"), {})
    assert "'blue'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "file", sorted((ROOT / "classifier").rglob("*.py")), ids=lambda file: file.stem
)
def test_architecture_says_of_every_module_what_its_docstring_says(file: Path) -> None:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    line = " ".join(said.partition("\n\n")[0].split())
    folder = file.parent.relative_to(ROOT).as_posix()
    section = ARCHITECTURE.partition(f"## {folder}/\n")[2].partition("\n## ")[0].splitlines()
    if file.parent.name != "classifier" or file.name != "__init__.py":
        assert (line if file.name == "__init__.py" else f"- `{file.name}`: {line}") in section


def test_journeys_pass_through_modules_that_there_are() -> None:
    how = README.partition("## How it works")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)`", how)
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / "classifier" / name).is_file()]
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_architecture_points_at_what_there_is() -> None:
    named = re.findall(r"`([\w/]+\.py)`: `(\w+)`", ARCHITECTURE)
    assert len(named) > 15
    for file, name in named:
        source = (ROOT / "classifier" / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(def|class) {name}\b", source, flags=re.MULTILINE), (file, name)
