"""Write scikit-learn's handwritten digits as PNG files in class folders.

1,797 scans of 8 x 8 pixels, ten classes. They come with scikit-learn, so no network is needed.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998.

    python scripts/make_digits.py [FOLDER]        (default: data/digits)

FOLDER/train and FOLDER/test hold one folder a class (a random fifth of every class is test);
FOLDER/new holds 20 test images without labels, for prediction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST_FRACTION = 0.2
NUM_NEW = 20


def write_digits(folder: Path) -> int:
    """Write the images, unless the folder is complete already.

    Args:
        folder: Gets train/, test/ and new/.

    Returns:
        Number of labelled images.
    """
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    done = folder / ".complete"
    if done.exists():
        return len(images)
    train, test = train_test_split(
        np.arange(len(images)), test_size=TEST_FRACTION, stratify=digits.target, random_state=0
    )
    for split, members in (("train", train), ("test", test)):
        for index in members:
            _write(images[index], folder / split / str(digits.target[index]) / f"{index:04d}.png")
    for index in test[:NUM_NEW]:
        _write(images[index], folder / "new" / f"scan_{index:04d}.png")
    done.touch()
    return len(images)


def _write(image: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/digits"))
    target = parser.parse_args().folder
    print(f"{write_digits(target)} images in {target}")
