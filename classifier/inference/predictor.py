"""Predictor: labels and probabilities of images, by a checkpoint or by any export of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np

from classifier.errors import ConfigError
from classifier.inference.answers import decided, ranked
from classifier.inference.images import Batches, as_images, is_single, pixels_of
from classifier.inference.opening import locate, open_model
from classifier.inference.route import Probabilities, Route
from classifier.preprocessing import Pixels


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Args:
        labels: The likeliest classes, the likeliest first.
        indices: Theirs.
        probabilities: Theirs, in [0, 1].
        decided: The labels that the image has: one where classes exclude each other, by its
            threshold where one was tuned; in multilabel any number.
    """

    labels: list[str]
    indices: list[int]
    probabilities: list[float]
    decided: list[str]


class Predictor:
    """Classifies images; several threads may use one at the same time.

    Args:
        route: The model in its runtime.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.description = route.description
        self.class_names = route.description.class_names

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        precision: str | None = None,
        compile: bool = False,  # as torch calls it
    ) -> Self:
        """Open a model.

        Args:
            path: A checkpoint, a run folder (its best checkpoint, or what it exported), an exported
                file, or the folder of an export.
            device: auto, cpu, cuda or mps; None is auto. This and the next two are not for onnx,
                torch_export and torchscript, which are used as they were exported.
            precision: fp32, bf16 or fp16; None is fp32.
            compile: Use torch.compile, which takes a while at the first batch.

        Raises:
            ConfigError: no model, a damaged one, one whose runtime is not installed, or an option
                that it does not have.
        """
        options = {"device": device, "precision": precision, "compile": compile or None}
        given = {name: value for name, value in options.items() if value is not None}
        return cls(open_model(locate(path), **given))

    def predict(
        self, images: Any, top_k: int = 5, batch_size: int = 32
    ) -> Prediction | list[Prediction]:
        """Classify images.

        Args:
            images: A path, the bytes of an image file, an RGB array (H, W, 3) of uint8, also
                (H, W) grey or (H, W, 4) with transparency, a PIL image, or an iterable of these.
            top_k: How many of the likeliest classes are named, at least 1; more than there are is
                all.
            batch_size: Images that go through the model at once, at least 1.

        Returns:
            Of a single image a prediction, of several a list in their order.

        Raises:
            BadImageError: an image that cannot be decoded; names it.
            FileNotFoundError: no such file.
            ConfigError: something else than an image.
        """
        _check_count("top_k", top_k)
        found = [
            prediction
            for batch in self._batches(images, batch_size)
            for prediction in self._answers(batch, top_k)
        ]
        return found[0] if is_single(images) else found

    def probabilities(self, images: Any, batch_size: int = 32) -> Probabilities:
        """What the model says of every class.

        Args:
            images: As `predict` takes them.
            batch_size: Images that go through the model at once, at least 1.

        Returns:
            (N, num_classes) float32, in the order of `class_names`; of a single image N is 1.

        Raises:
            BadImageError: an image that cannot be decoded; names it.
            FileNotFoundError: no such file.
            ConfigError: something else than an image.
        """
        none = np.empty((0, len(self.class_names)), np.float32)
        return np.concatenate([none, *self._batches(images, batch_size)])

    def prepare(self, image: Any) -> Pixels:
        """An image as the model takes it: (height, width, 3) uint8.

        Args:
            image: A single one, as `predict` takes it.
        """
        return self.description.preprocessing.prepare(pixels_of(image, self.description.background))

    def _batches(self, images: Any, batch_size: int) -> Iterator[Probabilities]:
        """Probabilities (n, num_classes) of one batch after another."""
        _check_count("batch_size", batch_size)
        given = as_images(images)
        if is_single(images):  # threads would only cost time
            yield from (self.route.probabilities(self.prepare(image)[None]) for image in given)
            return
        with Batches(given, self.prepare, batch_size) as batches:
            for batch in batches:
                yield self.route.probabilities(np.stack(batch))

    def _answers(self, probabilities: Probabilities, top_k: int) -> Iterator[Prediction]:
        orders = ranked(probabilities)
        decisions = decided(probabilities, self.description)
        name = self.class_names.__getitem__
        for scores, order, has in zip(probabilities, orders, decisions, strict=True):
            best = order[:top_k].tolist()
            yield Prediction(
                [name(index) for index in best],
                best,
                scores[best].tolist(),
                [name(index) for index in order.tolist() if has[index]],
            )


def _check_count(name: str, number: Any) -> None:
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
        raise ConfigError(
            name, "must be a whole number of at least 1", got=number, remedy="Write for example 5"
        )
