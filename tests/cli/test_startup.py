"""What needs no model is answered without importing torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.argv = ["main.py", *sys.argv[1:]]
from classifier.entry import console
code = console()
heavy = sorted({"torch", "lightning", "jsonargparse", "numpy", "timm"} & set(sys.modules))
print(code, heavy, file=sys.stderr)
"""


def run(words: list[str], folder: Path, script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *words], cwd=folder, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, timeout=120, check=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [
        ("", ["--help"], 0),
        ("a: [", ["--config", "x.yaml"], 2),
        ("model: {}\nmodel: {}\n", ["--config", "x.yaml"], 2),
        ("modle: {}\n", ["--config", "x.yaml"], 2),
        ("", ["--config", "gone.yaml"], 2),
        ("", ["--test"], 2),
        ("model: {}\n", ["--config", "x.yaml", "--folds", "3", "--ckpt_path", "gone"], 2),
    ],
)
def test_answer_without_torch(tmp_path: Path, text: str, words: list[str], code: int) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert run(words, tmp_path).stderr.splitlines()[-1] == f"{code} []"


def test_help_is_one_short_page(capfd: Any) -> None:
    from classifier import main

    main(["--help"])
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100


def test_all_keys_are_a_manual(capfd: Any) -> None:
    from classifier import main

    main(["--help", "all"])
    text = capfd.readouterr().out
    for word in (
        "--model.init_args.freeze_encoder",
        "--data.init_args.val_fraction",
        "--trainer.max_epochs",
    ):
        assert word in text
    assert "from the input side" in " ".join(text.split())


def test_training_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    script = "import classifier.execution, sys; print([m for m in ('pandas', 'sklearn', 'optuna', 'timm') if m in sys.modules])"
    assert run([], tmp_path, script).stdout.strip() == "[]"
