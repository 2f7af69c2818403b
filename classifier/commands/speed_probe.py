"""The short measurement by which precision, memory format and workers are chosen."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.callbacks import Timer

from classifier.commands.prepare import Prepared
from classifier.data.loading import collate
from classifier.data.workers import training_rate, workers_to_try
from classifier.errors import reason_of
from classifier.model.step_times import BF16, FLOAT32, FP16, Setting, StepTimes, largest_difference

log = logging.getLogger(__name__)

_MAX_SECONDS, _MAX_SHARE = 20.0, 0.02  # of the planned training
# Of a trainer, one of which a choice has: chosen, or as the user wrote it.
_PRECISIONS = (
    FLOAT32, BF16, FP16, "64-true", "bf16-true", "16-true", "transformer-engine",
    "transformer-engine-float16",
)  # fmt: skip
_MIN_IMAGES, _MIN_SECONDS = 5_000, 60.0  # of a training in whose share something can be measured
_FIRST_IMAGES = 4  # of a step that is measured; more, as long as it stays short
_STEP_SECONDS = 0.3
_LEAST_STEPS = 12  # less time than for so many is too little to measure in
_STEPS_COMPARED = 4
_TOLERANCE = 0.02  # of the loss of each of these, as a share of it
_WORTH = 1.1  # times faster: less is noise
_NEARLY = 0.95  # of the best rate: fewer workers do as well


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Args:
        precision: Of the trainer.
        channels_last: The memory format.
        num_workers: Processes that decode.
        told: What was measured, in words; empty where nothing was.
        seconds: That measuring took; 0 where an earlier training has measured.
    """

    precision: str
    channels_last: bool
    num_workers: int
    told: str = ""
    seconds: float = 0.0

    @classmethod
    def read(cls, fields: Any) -> Choice | None:
        """A choice that was kept as JSON; None where it is not what this version keeps.

        Args:
            fields: What the file had.
        """
        if not (isinstance(fields, dict) and fields.keys() == cls.__dataclass_fields__.keys()):
            return None
        found = cls(**fields)
        fits = (
            found.precision in _PRECISIONS
            and isinstance(found.channels_last, bool)
            and type(found.num_workers) is int
            and found.num_workers >= 0
            and isinstance(found.told, str)
            and isinstance(found.seconds, float | int)
        )
        return found if fits else None


@dataclass(frozen=True)
class Open:
    """Which of the three the user has left open."""

    precision: bool
    channels_last: bool
    num_workers: bool

    def __bool__(self) -> bool:
        return self.precision or self.channels_last or self.num_workers


class Budget:
    """Time that may be spent, which depends on how long the training takes.

    Args:
        most: Seconds after which the training ends, whatever is left to do.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._began = time.perf_counter()
        self._most = most
        self.limit(most)

    def limit(self, planned_seconds: float) -> None:
        """Allow a share of a training that takes so long."""
        self._seconds = min(_MAX_SECONDS, _MAX_SHARE * min(planned_seconds, self._most))

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds; negative where there are none."""
        return self._seconds - self.spent


def planned_batches(prepared: Prepared) -> int:
    """Batches of a process that a training takes, as far as its configuration says."""
    trainer, data = prepared.trainer, prepared.data
    processes = trainer.num_devices * trainer.num_nodes
    per_epoch = math.ceil(len(data.stage("train")) / (data.batch_size * processes))
    limit = trainer.limit_train_batches
    per_epoch = min(per_epoch, limit) if isinstance(limit, int) else round(per_epoch * limit)
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else 1000
    steps = per_epoch * epochs
    if trainer.max_steps not in (None, -1):
        steps = min(steps, trainer.max_steps * trainer.accumulate_grad_batches)
    return int(steps)


def is_long_enough(prepared: Prepared) -> bool:
    """Whether a training is planned in whose 2 % something can be measured.

    Args:
        prepared: Of the training.
    """
    images = planned_batches(prepared) * prepared.data.batch_size
    return images >= _MIN_IMAGES and time_limit(prepared.trainer) >= _MIN_SECONDS


def time_limit(trainer: Any) -> float:
    """Seconds after which a training ends by trainer.max_time, or by a Timer among its callbacks.

    Args:
        trainer: Which has not begun.
    """
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    limits = [timer.time_remaining() for timer in timers]
    return min((limit for limit in limits if limit is not None), default=math.inf)


def measure(prepared: Prepared, left: Open, usual: Choice) -> Choice | None:
    """What is fastest; None where the training is too short to find out.

    It trains copies of the model, from the same start, on the first images of the training.

    Args:
        prepared: Of the training; not changed.
        left: What may be chosen.
        usual: What holds where nothing is gained.
    """
    budget = Budget(time_limit(prepared.trainer))
    data, device = prepared.data, prepared.trainer.strategy.root_device
    stage = data.stage("train")
    plain = Setting(usual.precision, usual.channels_last)
    decoding = _seconds_to_decode(stage)
    if budget.left < 0:
        return None
    steps, base = _steps(prepared, plain, device, decoding, budget)
    size = len(steps.images)
    if budget.left < _LEAST_STEPS * base:
        return None
    chosen, seconds, words = _fastest(steps, plain, _settings(left, plain, device), budget)
    workers = usual.num_workers
    if left.num_workers:
        numbers = workers_to_try(decoding, seconds / size, device.type == "cpu")
        rates = _rates(stage, numbers, size, steps.step(chosen), budget)
        workers = fewest_that_do(rates) if rates else workers
    workers_told = f"{workers} worker{'' if workers == 1 else 's'}"
    told = f"{words}; {workers_told}"
    return Choice(chosen.precision, chosen.channels_last, workers, told, budget.spent)


def _seconds_to_decode(stage: Any) -> float:
    """Of an image, in this process."""
    stage[0]  # what is imported at the first image is no part of its time
    started, number = time.perf_counter(), min(8, len(stage))
    for position in range(number):
        stage[position]
    return (time.perf_counter() - started) / number


def _steps(
    prepared: Prepared, plain: Setting, device: torch.device, decoding: float, budget: Budget
) -> tuple[StepTimes, float]:
    """Steps on a batch that is quickly done, as large as the training's at most; and one's time.

    Args:
        prepared: Of the training.
        plain: How they are computed.
        device: On which.
        decoding: Seconds to decode an image.
        budget: Gets its limit, which a short training reaches with few images.
    """
    stage, batch_size = prepared.data.stage("train"), prepared.data.batch_size
    planned = planned_batches(prepared) * batch_size
    size = min(batch_size, len(stage), _FIRST_IMAGES)
    steps = StepTimes(prepared.model, device)
    while True:
        batch = collate([stage[position] for position in range(size)])
        steps.take(batch.images, batch.targets)
        base = steps.seconds(plain, 1)
        budget.limit(planned * (base / size + decoding))
        larger = min(2 * size, batch_size, len(stage))
        needed = 3 * _LEAST_STEPS * base  # by steps of twice the time, and to find that out
        if larger == size or 2 * base > _STEP_SECONDS or budget.left < needed:
            return steps, base
        size = larger


def _settings(left: Open, plain: Setting, device: torch.device) -> Iterator[Setting]:
    """What else there is to try, the most promising first."""
    half = plain.precision
    if left.precision and plain.precision == FLOAT32:
        has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        half = BF16 if has_bf16 else FP16
        yield Setting(half, plain.channels_last)
    if left.channels_last:
        yield Setting(half, not plain.channels_last)
        if half != plain.precision:
            yield Setting(plain.precision, not plain.channels_last)


def _fastest(
    steps: StepTimes, plain: Setting, others: Iterator[Setting], budget: Budget
) -> tuple[Setting, float, str]:
    """The fastest setting whose losses are right, its seconds a step, and both in words."""
    times = {plain: steps.seconds(plain, 3)}
    for setting in others:
        if budget.left < 8 * times[plain]:
            break
        try:
            times[setting] = steps.seconds(setting, 3)
        except Exception as error:  # a kernel that is missing has an error of any kind
            log.info("speed: %s is not possible: %s", named(setting), reason_of(error))
    # Once more, the other way round: what else runs on the machine comes and goes.
    for setting in reversed(times):
        if budget.left > 8 * times[setting]:
            times[setting] = min(times[setting], steps.seconds(setting, 2))
    expected, refused = steps.losses(plain, _STEPS_COMPARED), ""
    for setting in sorted(times, key=lambda setting: times[setting]):
        gain = times[plain] / times[setting]
        if setting == plain or gain < _WORTH:
            break
        difference = largest_difference(steps.losses(setting, _STEPS_COMPARED), expected)
        if difference <= _TOLERANCE:
            words = f"{named(setting)}: {gain:.1f} x {named(plain)}{refused}"
            return setting, times[setting], words
        refused += f" ({named(setting)} is {gain:.1f} x, but its loss is {difference:.0%} off)"
    nothing_faster = ", and nothing faster" if len(times) > 1 else ""
    return plain, times[plain], f"{named(plain)}{nothing_faster}{refused}"


def named(setting: Setting) -> str:
    """In words."""
    return f"{setting.precision} + {'channels_last' if setting.channels_last else 'contiguous'}"


def _rates(
    stage: Any, numbers: Sequence[int], size: int, step: Callable[[], Any], budget: Budget
) -> dict[int, float]:
    """Images a second by number of workers, of as many numbers as there is time for."""
    rates: dict[int, float] = {}
    for done, number in enumerate(numbers):
        seconds = min(3.0, budget.left / (len(numbers) - done) - 0.2)
        if seconds < 0.3:
            break
        rates[number] = training_rate(stage, number, size, step, seconds)
    return rates


def fewest_that_do(rates: dict[int, float]) -> int:
    """The smallest number of workers that comes near the best rate.

    Args:
        rates: Number of workers -> images a second; not empty.
    """
    return min(number for number, rate in rates.items() if rate >= _NEARLY * max(rates.values()))
