"""The Predictor: images of every kind, answers, threads, and what it imports."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classifier import Predictor
from classifier.data.decoding import BadImageError
from classifier.errors import ConfigError
from classifier.inference.answers import decided, ranked
from classifier.inference.description import Description
from classifier.inference.predictor import Prediction
from classifier.inference.route import Probabilities
from classifier.model.answers import Answers, Calibration
from classifier.preprocessing import Pixels, Preprocessing
from tests.conftest import COLOURS, write_image

ROOT = Path(__file__).parents[2]
NAMES = ["red", "green", "blue", "none"]
SIZE = 8


def described(**changes: Any) -> Description:
    preprocessing = Preprocessing(size=(SIZE, SIZE), resize=(SIZE, SIZE))
    values = {"format": "onnx", "class_names": NAMES, "task": "multiclass", **changes}
    return Description(**values, preprocessing=preprocessing)


class Means:
    """Answers by the mean of each channel: what an image is can be read off the probabilities."""

    def __init__(self, description: Description | None = None) -> None:
        self.description = description or described()
        self.batches: list[int] = []

    def probabilities(self, images: Pixels) -> Probabilities:
        assert images.dtype == np.uint8 and images.shape[1:] == (SIZE, SIZE, 3)
        self.batches.append(len(images))
        means = images.reshape(len(images), -1, 3).mean(axis=1) + 1.0
        shares = np.concatenate([means, np.ones((len(images), 1))], axis=1)
        found: Probabilities = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        return found


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Means())


def one(predictor: Predictor, image: Any, **more: Any) -> Prediction:
    found = predictor.predict(image, **more)
    assert isinstance(found, Prediction)
    return found


def several(predictor: Predictor, images: Any, **more: Any) -> list[Prediction]:
    found = predictor.predict(images, **more)
    assert isinstance(found, list)
    return found


def coloured(colour: tuple[int, ...], side: int = 12) -> Any:
    pixels = np.empty((side, side, len(colour)), np.uint8)
    pixels[:] = colour
    return pixels


RED = coloured((200, 10, 10))


def test_kinds_of_images_give_the_same_when_they_show_the_same(
    predictor: Predictor, tmp_path: Path
) -> None:
    file = tmp_path / "red.png"
    Image.fromarray(RED).save(file)
    kinds = [str(file), file, file.read_bytes(), RED, Image.fromarray(RED), Image.open(file)]
    expected = Means().probabilities(RED[None, :SIZE, :SIZE])
    for kind in kinds:
        found = one(predictor, kind)
        assert (found.labels[0], found.indices[0], found.decided) == ("red", 0, ["red"])
        assert found.probabilities == sorted(expected[0].tolist(), reverse=True)
    assert several(predictor, kinds) == [one(predictor, RED)] * len(kinds)
    assert several(predictor, (kind for kind in kinds[:3])) == [one(predictor, RED)] * 3
    assert several(predictor, np.stack([RED, RED])) == [one(predictor, RED)] * 2
    assert np.array_equal(predictor.probabilities(RED), expected)


def test_grey_and_transparent_arrays_are_understood(predictor: Predictor) -> None:
    grey = one(predictor, np.full((9, 9), 100, np.uint8), top_k=4)
    assert grey == one(predictor, coloured((100, 100, 100)), top_k=4)
    assert grey == one(predictor, np.full((9, 9, 1), 100, np.uint8), top_k=4)
    clear = coloured((200, 10, 10, 0))
    assert one(predictor, clear) == one(predictor, coloured((255, 255, 255)))
    black = Predictor(Means(described(background=(0, 0, 0))))
    assert one(black, clear) == one(black, coloured((0, 0, 0)))
    assert one(black, Image.fromarray(clear)) == one(black, coloured((0, 0, 0)))


def test_photographs_are_turned_upright_when_exif_says_so(
    predictor: Predictor, tmp_path: Path
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 20, 3), np.uint8))
    tags = Image.Exif()
    tags[274] = 6
    image.save(tmp_path / "turned.png", exif=tags)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    expected = predictor.probabilities(upright)
    assert np.array_equal(predictor.probabilities(tmp_path / "turned.png"), expected)
    assert np.array_equal(predictor.probabilities(Image.open(tmp_path / "turned.png")), expected)
    assert not np.array_equal(predictor.prepare(image), predictor.prepare(upright))


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (RED / 255.0, "must hold uint8, got 'an array (12, 12, 3) of float64'. For pixels in [0, 1]"),
        (RED.astype(np.int32), "Convert it to uint8"),
        (RED.transpose(2, 0, 1), "Give image.transpose(1, 2, 0)"),
        (np.empty((0, 4, 3), np.uint8), "must be (H, W, 3)"),
        (7, "is no image, got 'int'"),
        ([RED, None], "is no image, got 'NoneType'"),
        (torch.zeros(3, 4, 4), "is no image"),
        ([[1, 2]], "is no image, got 'list'"),
    ],
)  # fmt: skip
def test_other_things_are_refused_with_what_to_give(
    predictor: Predictor, image: Any, told: str
) -> None:
    with pytest.raises(ConfigError, match="images: ") as error:
        predictor.predict(image)
    assert told in str(error.value)


def test_folder_is_refused_with_the_remedy(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder.*rglob"):
        predictor.predict([tmp_path])


def test_bad_image_is_named(predictor: Predictor, tmp_path: Path) -> None:
    good = write_image(tmp_path / "good.png", COLOURS["red"], 0)
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:200])
    with Image.open(bad) as opened:
        for images in (bad, [good, bad, good], opened):
            with pytest.raises(BadImageError, match=r"bad\.png: "):
                predictor.predict(images)
    with pytest.raises(FileNotFoundError, match="gone"):
        predictor.predict([good, tmp_path / "gone.png"])


def test_nothing_gives_nothing(predictor: Predictor) -> None:
    assert predictor.predict([]) == []
    assert predictor.probabilities([]).shape == (0, 4)


@pytest.mark.parametrize(("top_k", "number"), [(1, 1), (3, 3), (100, 4)])
def test_top_k_is_bounded_by_the_classes(predictor: Predictor, top_k: int, number: int) -> None:
    found = one(predictor, RED, top_k=top_k)
    assert len(found.labels) == len(found.indices) == len(found.probabilities) == number
    assert found.probabilities == sorted(found.probabilities, reverse=True)


@pytest.mark.parametrize(
    "words", [{"top_k": 0}, {"batch_size": 0}, {"top_k": 1.5}, {"top_k": "3"}, {"batch_size": None}]
)
def test_counts_are_refused_when_they_are_no_whole_numbers_from_one_on(
    predictor: Predictor, words: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="must be a whole number of at least 1, got"):
        predictor.predict(RED, **words)


def test_batches_are_of_the_size_and_in_order_when_images_come_as_an_iterable() -> None:
    route = Means()
    shades = [coloured((shade, 0, 0)) for shade in range(0, 250, 10)]
    found = several(Predictor(route), iter(shades), batch_size=4, top_k=4)
    assert route.batches == [4] * 6 + [1]
    assert found == [one(Predictor(Means()), shade, top_k=4) for shade in shades]


def test_generator_is_read_only_a_few_batches_ahead() -> None:
    taken: list[int] = []
    seen: list[int] = []

    class Watching(Means):
        def probabilities(self, images: Pixels) -> Probabilities:
            seen.append(len(taken))
            return super().probabilities(images)

    def images() -> Any:
        for number in range(40):
            taken.append(number)
            yield RED

    several(Predictor(Watching()), images(), batch_size=4)
    assert len(seen) == 10 and max(seen[:5]) <= 28


def test_threads_get_their_own_answers_when_they_share_a_predictor(predictor: Predictor) -> None:
    colours = [coloured((9 * n, 255 - 9 * n, n)) for n in range(24)]
    expected = [one(Predictor(Means()), colour, top_k=4) for colour in colours]
    start = threading.Barrier(8)

    def work(first: int) -> list[Prediction]:
        start.wait()
        mine = colours[3 * first : 3 * first + 3]
        return [*several(predictor, mine * 5, top_k=4, batch_size=2)[:3]]

    with ThreadPoolExecutor(8) as pool:
        found = [prediction for part in pool.map(work, range(8)) for prediction in part]
    assert found == expected


class Deciding(Answers):
    def __init__(self, task: str, calibration: Calibration, own: list[float] | None) -> None:
        super().__init__()
        self.task, self.calibration, self._own_thresholds = task, calibration, own


@pytest.mark.parametrize(
    ("task", "thresholds", "positive", "num_classes"),
    [
        ("multiclass", None, None, 4), ("multiclass", [0.3], 1, 2), ("multiclass", [0.8], 0, 2),
        ("multilabel", [0.1, 0.5, 0.25, 0.9], None, 4),
    ],
)  # fmt: skip
def test_decisions_are_the_models_own(
    task: str, thresholds: list[float] | None, positive: int | None, num_classes: int
) -> None:
    chances = np.random.default_rng(3).dirichlet(np.ones(num_classes), 500).astype(np.float32)
    if thresholds:
        chances[:50, positive or 0] = thresholds[0]  # exactly on the edge
    several = task == "multilabel"
    tuned = Calibration(1.0, None if several else thresholds, positive)
    model = Deciding(task, tuned, thresholds if several else None)
    names = [str(index) for index in range(num_classes)]
    found = described(class_names=names, task=task, thresholds=thresholds, positive=positive)
    expected = model.decisions(torch.from_numpy(chances)).numpy()
    assert np.array_equal(decided(chances, found), expected)
    assert 0 < expected.mean() < 1


def test_several_labels_are_decided_by_their_thresholds() -> None:
    found = described(task="multilabel", thresholds=[0.2, 0.2, 0.2, 0.2])
    assert one(Predictor(Means(found)), coloured((250, 250, 0)), top_k=1).decided == [
        "red",
        "green",
    ]
    assert one(Predictor(Means(found)), coloured((0, 0, 255))).decided == ["blue"]


def test_equal_probabilities_are_ranked_by_their_index() -> None:
    assert ranked(np.array([[0.25, 0.5, 0.25], [0.4, 0.2, 0.4]], np.float32)).tolist() == [
        [1, 0, 2],
        [0, 2, 1],
    ]


def test_png_bytes_that_are_damaged_are_a_bad_image(predictor: Predictor) -> None:
    stream = io.BytesIO()
    Image.fromarray(RED).save(stream, "PNG")
    with pytest.raises(BadImageError):
        predictor.predict(stream.getvalue()[:50])


def test_predictor_imports_numpy_and_pillow_alone(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png", COLOURS["red"], 0)
    script = """
import sys
blocked = ("torch", "lightning", "cv2", "timm", "yaml", "albumentations", "tqdm", "filelock")
sys.modules.update(dict.fromkeys(blocked))
sys.path.insert(0, sys.argv[1])
from tests_route import Means
from classifier import Predictor
print(Predictor(Means()).predict(sys.argv[2]).labels[0])
"""
    source = Path(__file__).read_text(encoding="utf-8")
    route = source[source.index("SIZE = 8") : source.index("@pytest.fixture")]
    (tmp_path / "tests_route.py").write_text(
        "from __future__ import annotations\nimport numpy as np\n"
        "from classifier.inference.description import Description\n"
        "from classifier.preprocessing import Preprocessing\n"
        "NAMES = ['red', 'green', 'blue', 'none']\n" + route
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(file)], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("red\n", "")
