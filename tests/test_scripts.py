from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from classifier.data.decoding import decode_image

ROOT = Path(__file__).parents[1]


def _make_digits() -> Any:
    spec = importlib.util.spec_from_file_location("make_digits", ROOT / "scripts/make_digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_are_scikit_learns_in_class_folders(tmp_path: Path) -> None:
    assert _make_digits().write_digits(tmp_path) == 1797
    train = sorted((tmp_path / "train").rglob("*.png"))
    test = sorted((tmp_path / "test").rglob("*.png"))
    assert len(train) + len(test) == 1797 and abs(len(test) - 360) < 10
    assert not {file.name for file in train} & {file.name for file in test}
    assert len(list((tmp_path / "new").iterdir())) == 20
    digits = load_digits()
    for file in test[::40]:
        index = int(file.stem)
        assert int(file.parent.name) == digits.target[index]
        expected = np.round(digits.images[index] * (255 / 16))
        assert np.array_equal(decode_image(file)[:, :, 0], expected)


def test_digits_are_written_once(tmp_path: Path) -> None:
    make = _make_digits()
    make.write_digits(tmp_path)
    file = next((tmp_path / "train").rglob("*.png"))
    before = file.stat().st_mtime_ns
    make.write_digits(tmp_path)
    assert file.stat().st_mtime_ns == before
