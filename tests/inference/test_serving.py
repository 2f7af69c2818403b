from __future__ import annotations

import io
import pickle
import queue
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.inference.predictor import Predictor
from classifier.inference.serving import ImageApi, PatientLoop, Refusal
from tests.inference.test_predictor import Means


class Fails(Predictor):
    """On images whose first pixel is black, as a transform of a user's own might."""

    def predict(self, images: Any, top_k: int = 5, batch_size: int = 32) -> Any:
        if any(not image[0, 0].any() for image in images):
            raise ValueError("a crop is larger than the image: /secret")
        return super().predict(images, top_k, batch_size)


@pytest.fixture
def api() -> ImageApi:
    made = ImageApi(Path("model.onnx"), top_k=1, max_pixels=10_000, batch_size=4)
    made.predictor = Fails(Means())
    return made


def image(grey: int) -> np.ndarray:
    return np.full((20, 30, 3), grey, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_image_that_fails_costs_the_others_of_its_batch_nothing(api: ImageApi) -> None:
    refusal = Refusal(422, "x")
    answers = api.predict([image(9), refusal, image(0), image(200)])
    alone = Predictor(Means()).predict([image(9), image(200)], top_k=1)
    assert [answers[0], answers[3]] == alone and answers[1] is refusal
    assert answers[2] == Refusal(500, "the model could not answer this image")
    assert api.encode_response(answers[2]).status_code == 500


def test_batch_of_refusals_asks_the_model_nothing(api: ImageApi) -> None:
    assert api.predict([Refusal(413, "x")] * 2) == [Refusal(413, "x")] * 2


def test_pixels_are_bounded_before_they_are_decoded(api: ImageApi) -> None:
    pixels = api.decode_request(png(image(7)))
    assert isinstance(pixels, np.ndarray) and np.array_equal(pixels, image(7))
    large = api.decode_request(png(np.zeros((101, 100, 3), np.uint8)))
    assert large == Refusal(413, "the image has 100 x 101 pixels: at most 10,000 pixels")


def test_api_reaches_its_worker_process_as_it_is() -> None:
    made = ImageApi(Path("model.onnx"), top_k=3, max_pixels=5, batch_size=2)
    copy = pickle.loads(pickle.dumps(made))
    assert (copy.model, copy.top_k, copy.max_pixels, copy.max_batch_size) == (made.model, 3, 5, 2)


def test_batch_is_what_waits_and_what_is_late_is_told_of(api: ImageApi) -> None:
    api.request_timeout = 5
    waiting: queue.Queue[Any] = queue.Queue()
    now = time.monotonic()
    for number in range(6):
        waiting.put((0, number, now - 60 if number == 1 else now, b"image"))
    loop = PatientLoop()
    batch, late = loop.get_batch_requests(api, waiting, None)
    assert [uid for _, uid, _ in batch] == [0, 2, 3, 4] and late == [(0, 1)]
    assert loop.get_batch_requests(api, waiting, None) == ([(0, 5, b"image")], [])
    assert loop.get_batch_requests(api, waiting, None) == ([], [])
