"""What a server does with an image that was sent: a Predictor behind LitServe.

LitServe collects what several clients send at the same time into a batch. All of a batch fail
together there, so that here what is wrong with one image is an answer, never an exception.
"""

# No `from __future__ import annotations`: LitServe hands the annotations on to FastAPI as they are.
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from litserve import LitAPI
from litserve.loops.simple_loops import BatchedLoop

from classifier.data.decoding import TOO_LARGE, BadImageError, decode_image, stated_size
from classifier.errors import reason_of
from classifier.inference.description import Description
from classifier.inference.predictor import Prediction, Predictor
from classifier.inference.uploads import read_upload
from classifier.preprocessing import Pixels
from classifier.signals import ignore_interrupts

log = logging.getLogger(__name__)

# What is read of strangers: no format whose reader starts another program, as EPS does.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
IDLE_SECONDS = 0.5
MAX_RATIO = 100


@dataclass(frozen=True)
class Refusal:
    """Why an image has no answer.

    Args:
        status: Of HTTP.
        reason: In plain words.
    """

    status: int
    reason: str


class PatientLoop(BatchedLoop):  # type: ignore[misc]
    """Waits for a first image, then takes what else is there.

    LitServe's own loop asks an idle queue a thousand times a second, which keeps a core busy.
    """

    def get_batch_requests(
        self, lit_api: Any, request_queue: Any, transport: Any
    ) -> tuple[list[Any], list[Any]]:
        """The next batch, and what has waited for too long; both empty of an idle server."""
        batch: list[Any] = []
        late: list[Any] = []
        try:
            taken = request_queue.get(timeout=IDLE_SECONDS)
            while True:
                consumer, uid, since, image = taken
                if time.monotonic() - since > lit_api.request_timeout:
                    late.append((consumer, uid))
                else:
                    batch.append((consumer, uid, image))
                if len(batch) == lit_api.max_batch_size:
                    break
                taken = request_queue.get_nowait()
        except Empty:
            pass
        return batch, late


async def received(request: Request) -> bytes:
    """The image file of a request, within the bounds that the application states."""
    return await read_upload(request, request.app.state.max_bytes)


class ImageApi(LitAPI):  # type: ignore[misc]
    """POST /predict.

    Args:
        model: What Predictor.load takes.
        top_k: How many classes an answer names, at least 1.
        max_pixels: Width times height that an image may state.
        batch_size: Images that go through the model together, at least 1.
    """

    def __init__(self, model: Path, top_k: int, max_pixels: int, batch_size: int) -> None:
        super().__init__(max_batch_size=batch_size, loop=PatientLoop())
        self.model = model
        self.top_k = top_k
        self.max_pixels = max_pixels

    def setup(self, device: str) -> None:
        """Open the model: once in every worker process."""
        ignore_interrupts()
        self.predictor = Predictor.load(self.model)

    def decode_request(self, request: Annotated[bytes, Depends(received)]) -> Pixels | Refusal:
        """From a file's bytes to pixels."""
        try:
            width, height = stated_size(request, FORMATS)
            refused = self._too_large(width, height)
            if refused is not None:
                return refused
            return decode_image(request, background=self.predictor.description.background)
        except BadImageError as error:
            status = 413 if str(error) == TOO_LARGE else 422
            return Refusal(status, f"the image cannot be decoded: {reason_of(error, 200)}")

    def _too_large(self, width: int, height: int) -> Refusal | None:
        if width * height > self.max_pixels:
            most = f"at most {self.max_pixels:,} pixels"
            return Refusal(413, f"the image has {width} x {height} pixels: {most}")
        if max(width, height) > MAX_RATIO * min(width, height):
            # With its shorter side at the size of the network it would fill the memory.
            most = f"one side at most {MAX_RATIO} times the other"
            return Refusal(413, f"the image has {width} x {height} pixels: {most}")
        return None

    def batch(self, inputs: list[Pixels | Refusal]) -> list[Pixels | Refusal]:
        """As they are: images are of any size."""
        return inputs

    def predict(self, inputs: list[Pixels | Refusal]) -> list[Prediction | Refusal]:
        """Answer the images; a refusal stays one."""
        images = [each for each in inputs if not isinstance(each, Refusal)]
        found = iter(self._answers(images) if images else [])
        return [each if isinstance(each, Refusal) else next(found) for each in inputs]

    def _answers(self, images: list[Pixels]) -> Sequence[Prediction | Refusal]:
        try:
            found = self.predictor.predict(images, top_k=self.top_k)
            assert isinstance(found, list), "of several images several answers"
            return found
        except Exception:
            if len(images) == 1:
                log.exception("an image was not answered")
                return [Refusal(500, "the model could not answer this image")]
        # A model's own transforms may fail on one image: it shall not cost the others theirs.
        return [answer for image in images for answer in self._answers([image])]

    def encode_response(self, output: Prediction | Refusal) -> JSONResponse:
        """As JSON."""
        if isinstance(output, Refusal):
            return JSONResponse({"detail": output.reason}, output.status)
        return JSONResponse(asdict(output))


def told_of(description: Description) -> dict[str, Any]:
    """What GET /info says of a model: nothing of where it lies."""
    return {
        "class_names": description.class_names,
        "task": description.task,
        "input_size": list(description.preprocessing.size),
        "format": description.format,
    }
