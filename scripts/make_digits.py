"""Write scikit-learn's handwritten digits as PNG files in class folders.

1,797 scans of 8 x 8 pixels, ten classes. They come with scikit-learn, so no network is needed.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998.

    python scripts/make_digits.py [FOLDER]        (default: data/digits)

FOLDER/train and FOLDER/test hold one folder a class (the last fifth of every class is test);
FOLDER/new holds 20 test images without labels, for prediction.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

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
    for label in range(10):
        members = np.flatnonzero(digits.target == label)
        first_test = round(len(members) * (1 - TEST_FRACTION))
        for rank, index in enumerate(members):
            split = "train" if rank < first_test else "test"
            _write(images[index], folder / split / str(label) / f"{index:04d}.png")
            if first_test <= rank < first_test + NUM_NEW // 10:
                _write(images[index], folder / "new" / f"scan_{index:04d}.png")
    done.touch()
    return len(images)


def _write(image: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "data/digits")
    print(f"{write_digits(target)} images in {target}")
