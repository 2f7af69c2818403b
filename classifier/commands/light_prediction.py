"""--predict without Lightning: by an export, or by a checkpoint of which nothing else is asked."""

from __future__ import annotations

import copy
import logging
import signal
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from classifier.arguments import Command
from classifier.callbacks.prediction_rows import Row
from classifier.callbacks.prediction_table import PredictionTable, answer_of
from classifier.commands.ending import carry_out
from classifier.commands.light_conditions import (
    Wishes,
    check_words,
    is_light,
    takes_light_words,
    wishes,
)
from classifier.commands.receipt import receipt
from classifier.config import for_evaluation, parse_word
from classifier.data.decoding import BadImageError, decode_image
from classifier.data.paths import listing_fingerprint, named_images, size_of
from classifier.errors import ConfigError, Interrupted
from classifier.inference.answers import decided
from classifier.inference.description import Description
from classifier.inference.images import Batches
from classifier.inference.opening import (
    CHECKPOINT,
    Model,
    experiment_of,
    locate,
    open_model,
)
from classifier.inference.precision import FEWEST, half_of, try_half
from classifier.inference.route import Probabilities, Route
from classifier.preprocessing import Pixels
from classifier.runs import Result, Run, create_run
from classifier.signals import handling_signals
from classifier.terminal import Log, quiet_known_noise, show
from classifier.trees import override

log = logging.getLogger(__name__)

LINE_EVERY_SECONDS = 10.0
# By Lightning's names, as the whole way tells them.
_NAMES = {"fp32": "32-true", "fp16": "16-true"}
_HALF = {"bf16": "bf16-mixed", "fp16": "16-mixed"}
_BYTES_AHEAD = 256_000_000


# Without a repr: Python asks for that of a signal's handler, and tensors take seconds to print.
@dataclass(repr=False)
class _Source:
    """What predicts, and what is told of it.

    Args:
        model: Where it is.
        description: How images go in.
        experiment: Name of the experiment.
        checkpoint: As it was read; None of an export.
        route: Its runtime; None of a checkpoint whose network is not built yet.
    """

    model: Model
    description: Description
    experiment: str
    checkpoint: Mapping[str, Any] | None = None
    route: Route | None = None


class _Prepared(NamedTuple):
    path: str
    file: Path
    pixels: Pixels | None
    error: str = ""


def predict_lightly(command: Command, started: float) -> Result | None:
    """Predict without Lightning, where that comes to the same.

    Args:
        command: A prediction with a checkpoint.
        started: time.time() at the start of the command.

    Returns:
        The result; None where the prediction has to take the whole way.

    Raises:
        ConfigError: an option that an export has not, a damaged model, or no images.
        RunError: the prediction failed.
    """
    model = locate(str(command.ckpt_path))
    if model.format == CHECKPOINT and not takes_light_words(command):
        return None
    record = Log()
    record.start()
    try:
        with warnings.catch_warnings():
            quiet_known_noise()
            source = _of_checkpoint(model) if model.format == CHECKPOINT else None
            if model.format == CHECKPOINT and source is None:
                return None
            return _Prediction(command, source or _of_export(command, model), started).run(record)
    finally:
        record.stop()


def _of_export(command: Command, model: Model) -> _Source:
    check_words(command, model.format)
    route = open_model(model)
    return _Source(model, route.description, experiment_of(model), route=route)


def _of_checkpoint(model: Model) -> _Source | None:
    """A checkpoint that can be used without Lightning; None of any other one."""
    from classifier.checkpoints import CONFIG_KEY, load_checkpoint  # imports torch
    from classifier.inference.checkpoint import describe
    from classifier.model.saved import CHECKPOINT_KEY

    checkpoint = load_checkpoint(model.path)
    config = checkpoint[CONFIG_KEY]
    if not is_light(config, checkpoint.get(CHECKPOINT_KEY) or {}):
        return None
    try:
        description = describe(checkpoint, model.path)
    except ConfigError:
        return None  # the whole way can use it, or says what is wrong
    experiment = str(config.get("custom_folder_name") or "experiment")
    return _Source(model, description, experiment, checkpoint)


@dataclass(repr=False)
class _Prediction:
    """One command on its way.

    Args:
        command: What is asked for.
        source: What predicts.
        started: time.time() at the start of the command.
    """

    command: Command
    source: _Source
    started: float
    signals: list[int] = field(default_factory=list)

    def run(self, record: Log) -> Result:
        """Predict, in a run folder of its own.

        Args:
            record: The log, which goes into the run folder.
        """
        config = self._config()
        asked = wishes(self.command, config)
        images = named_images(self.command.paths, "--predict")
        # Decoding goes on while a checkpoint's network is built, which imports its library.
        with Batches(
            images.items(), self._prepare, asked.batch_size, self._num_ahead(asked)
        ) as batches:
            route = self.source.route or self._built()
            run = self._create_run(record, asked, config, images)

            def work() -> None:
                with handling_signals(self._note):
                    self._predict(run, asked, route, batches, len(images))

            return carry_out(run, work, asked.batch_size)

    def _config(self) -> dict[str, Any]:
        """A checkpoint's configuration, with the words of the command line; empty of an export."""
        if self.source.checkpoint is None:
            return {}
        config = copy.deepcopy(for_evaluation(self.source.checkpoint["config"], of_paths=True))
        for key, text in self.command.overrides:
            override(config, key, parse_word(text))
        return config

    def _built(self) -> Route:
        from classifier.inference.checkpoint import rebuild
        from classifier.inference.weights_route import WeightsRoute

        assert self.source.checkpoint is not None
        network = rebuild(self.source.checkpoint, self.source.model.path)
        return WeightsRoute(network, self.source.description)

    def _create_run(
        self, record: Log, asked: Wishes, config: Mapping[str, Any], images: Mapping[str, Path]
    ) -> Run:
        run = create_run(asked.experiment or self.source.experiment, "predict", self.started)
        show(run.folder.as_posix())
        record.write_to(run.folder / "log.txt")
        file = self.source.model.path.resolve()
        run.result.checkpoint, run.result.seed = str(file), asked.seed
        if self.source.checkpoint is None:
            log.info("model %s (%s)", file, self.source.model.format)
        else:
            run.write_config(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            epoch, step = (self.source.checkpoint[key] for key in ("epoch", "global_step"))
            log.info("checkpoint %s (epoch %d, step %d)", file, epoch + 1, step)
        facts = receipt(self.command.words, self.started, asked.seed)
        sizes = [size_of(file) for file in images.values()]
        listing = listing_fingerprint(list(images), [()] * len(images), sizes)
        run.write_environment({**facts, "data": {"predict": listing}})
        run.write_result()
        return run

    # Images

    def _num_ahead(self, asked: Wishes) -> int:
        """Batches that are decoded ahead: as many as fit into the memory that is spent on it."""
        height, width = self.source.description.preprocessing.size
        return max(1, _BYTES_AHEAD // (3 * height * width * asked.batch_size))

    def _prepare(self, item: tuple[str, Path]) -> _Prepared:
        path, file = item
        try:
            pixels = decode_image(file, background=self.source.description.background)
        except (BadImageError, FileNotFoundError) as error:
            return _Prepared(path, file, None, str(error))
        return _Prepared(path, file, self.source.description.preprocessing.prepare(pixels))

    # Predictions

    def _predict(
        self,
        run: Run,
        asked: Wishes,
        route: Route,
        batches: Iterable[list[_Prepared]],
        num_images: int,
    ) -> None:
        """Fill the table, and the run's result."""
        description = self.source.description
        # An export answers as it was verified.
        is_checkpoint = self.source.model.format == CHECKPOINT
        tries = is_checkpoint and num_images >= FEWEST and not asked.full_precision
        precision = _NAMES.get(description.precision, description.precision)
        half = half_of(route) if tries else None
        progress = _Progress(num_images)
        with PredictionTable(run.folder, asked.settings) as table, progress:
            table.start(description.class_names, several=description.several, with_truth=False)
            for batch in batches:
                self._end_if_asked()
                pixels = [image.pixels for image in batch if image.pixels is not None]
                if half is not None and len(pixels) > 1:
                    trial = try_half(route, half, np.stack(pixels), description)
                    log.info("%s", trial.told(half.precision))
                    answers = trial.exact
                    if trial.is_won:
                        answers = trial.rough  # all rows of the table come about in the same way
                        route, precision = half, _HALF[half.precision]
                    half = None
                else:
                    answers = _ask(route, pixels)
                self._write(table, batch, answers)
                progress.count(len(batch))
            self._end_if_asked()
        run.result.precision = precision
        device = getattr(route, "device", None)  # of torch's alone
        log.info("precision %s%s", precision, f" on {device}" if device else "")
        table.tell(run.result)

    def _write(
        self, table: PredictionTable, batch: Sequence[_Prepared], answers: Probabilities
    ) -> None:
        decisions = decided(answers, self.source.description).tolist()
        found = iter(zip(answers.tolist(), decisions, strict=True))
        for image in batch:
            answer = None if image.pixels is None else answer_of(*next(found))
            table.write(Row(image.path, str(image.file), answer, image.error))

    # Signals

    def _note(self, signum: int, frame: Any) -> None:
        if self.signals and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signals.append(signum)
        log.info("%s: ending after this batch", signal.Signals(signum).name)

    def _end_if_asked(self) -> None:
        if self.signals:
            raise Interrupted(self.signals[0])


def _ask(route: Route, pixels: Sequence[Pixels]) -> Probabilities:
    if not pixels:
        return np.empty((0, len(route.description.class_names)), np.float32)
    return route.probabilities(np.stack(pixels))


class _Progress:
    """How fast it goes: a progress bar on a terminal, else lines of the log.

    Args:
        num_total: Images in all.
    """

    def __init__(self, num_total: int) -> None:
        from tqdm import tqdm

        self._started = self._told = time.monotonic()
        self._num_total, self._num_done = num_total, 0
        self._bar = tqdm(total=num_total, unit=" images", leave=False, disable=None)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.close()
        if kind is None:
            seconds = time.monotonic() - self._started
            log.info("%d images in %.1f s (%.1f images/s)", self._num_done, seconds, self._rate())

    def count(self, number: int) -> None:
        """Count images of a batch."""
        self._num_done += number
        self._bar.update(number)
        now = time.monotonic()
        ends = self._num_done == self._num_total  # of which the last line tells
        if self._bar.disable and now - self._told >= LINE_EVERY_SECONDS and not ends:
            self._told = now
            log.info(
                "%d of %d images (%.1f images/s)", self._num_done, self._num_total, self._rate()
            )

    def _rate(self) -> float:
        return self._num_done / max(time.monotonic() - self._started, 1e-9)
