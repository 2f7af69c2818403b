"""Learning-rate schedules by name, with a warm-up: our own closed forms, or any of torch's."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from classifier.errors import ConfigError
from classifier.importing import check_arguments, import_path

log = logging.getLogger(__name__)

SCHEDULER = "model.init_args.scheduler_config"
_TORCH_SCHEDULERS = {
    name: cls
    for name, cls in vars(lr_scheduler).items()
    if isinstance(cls, type)
    and issubclass(cls, lr_scheduler.LRScheduler)
    and not name.startswith("_")
    and cls is not lr_scheduler.LRScheduler
}
# What each short name takes besides `name`, `warmup_epochs` and `warmup_ratio`.
_SHORT_SCHEDULERS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": ("min_lr",),
    "linear": ("min_lr",),
    "one_cycle": ("pct_start", "div_factor", "final_div_factor"),
    "plateau": ("monitor", "mode", "factor", "patience", "threshold", "cooldown", "min_lr"),
    "step": ("step_size", "gamma"),
}
_WARMUP_KEYS = ("warmup_epochs", "warmup_ratio")
_WARMUP_START = 1e-3  # of the full learning rate; zero would waste the first step


def check_scheduler(config: Mapping[str, Any] | None) -> None:
    """Refuse an unknown schedule, unknown arguments or values, before there is a network.

    Raises:
        ConfigError: names the key and the nearest valid name.
    """
    if config is None:
        return
    _check_scheduler_keys(config)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    try:
        built = build_scheduler(optimizer, config, num_steps=1000, num_epochs=1000)
        if built["interval"] == "step":
            optimizer.step()
            built["scheduler"].step()
    except ConfigError:
        raise
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ConfigError(
            SCHEDULER, f"{config['name']} refuses its arguments: {error}", got=dict(config)
        ) from error


def _check_scheduler_keys(config: Mapping[str, Any]) -> None:
    name = config.get("name")
    if "warmup_epochs" in config and "warmup_ratio" in config:
        raise ConfigError(
            f"{SCHEDULER}.warmup_ratio", "stands beside warmup_epochs", got=config["warmup_ratio"],
            remedy="Keep one of the two",
        )  # fmt: skip
    for key in _WARMUP_KEYS:
        value = config.get(key, 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise ConfigError(
                f"{SCHEDULER}.{key}", "must be a number of at least 0", got=value,
                remedy="Write for example warmup_epochs: 1",
            )  # fmt: skip
    if name in _SHORT_SCHEDULERS:
        known = ("name", *_WARMUP_KEYS, *_SHORT_SCHEDULERS[name])
        for key in config:
            if key not in known:
                raise ConfigError(
                    f"{SCHEDULER}.{key}", f"{name} takes no {key!r}",
                    remedy=f"It takes {', '.join(known[1:])}", name=key, options=known,
                )  # fmt: skip
        return
    check_arguments(_scheduler_class(name), _own(config), SCHEDULER, hidden=("optimizer",))


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a class of torch, without those that are ours."""
    return {k: v for k, v in config.items() if k not in ("name", "interval", *_WARMUP_KEYS)}


def _scheduler_class(name: Any) -> Callable[..., Any]:
    found = _TORCH_SCHEDULERS.get(name)
    if isinstance(name, str) and "." in name:
        found = import_path(name, f"{SCHEDULER}.name")
    if isinstance(found, type) and issubclass(found, lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            f"{SCHEDULER}.name", "follows a metric, which only plateau is told", got=name,
            remedy="Write name: plateau, with the same arguments",
        )  # fmt: skip
    if isinstance(found, type) and issubclass(found, lr_scheduler.LRScheduler):
        return found
    raise ConfigError(
        f"{SCHEDULER}.name", "unknown schedule", got=name,
        remedy=f"Write {', '.join(_SHORT_SCHEDULERS)}, a class of torch.optim.lr_scheduler, "
        "or an import path",
        name=str(name), options=[*_SHORT_SCHEDULERS, *_TORCH_SCHEDULERS],
    )  # fmt: skip


def build_scheduler(
    optimizer: Optimizer, config: Mapping[str, Any], *, num_steps: int, num_epochs: int
) -> dict[str, Any]:
    """The schedule that a configuration names, as Lightning's `lr_scheduler` dictionary.

    cosine, linear, one_cycle, step and constant advance every optimizer step; plateau and the
    classes of torch advance every epoch (`interval: step` changes that for the latter).

    Args:
        optimizer: Its learning rates are those after the warm-up.
        config: `name`; `warmup_epochs` or `warmup_ratio` (of all steps) for a linear rise from
            0.001 of the learning rate; and the schedule's own arguments. `min_lr` is that of the
            parameters with the highest learning rate; all others keep their proportion to it.
        num_steps: Optimizer steps of the whole training.
        num_epochs: Epochs of the whole training, at least 1.

    Raises:
        ConfigError: the warm-up cannot precede this schedule, or it refuses its arguments.
    """
    name = config["name"]
    steps_per_epoch = num_steps / num_epochs
    warmup = round(
        config.get("warmup_epochs", 0) * steps_per_epoch + config.get("warmup_ratio", 0) * num_steps
    )
    if warmup > num_steps // 2:
        log.warning(
            "%s: the warm-up of %d steps is cut to half of the training's %d",
            SCHEDULER, warmup, num_steps,
        )  # fmt: skip
        warmup = num_steps // 2
    if name not in _SHORT_SCHEDULERS:
        return _from_class(optimizer, config, warmup)
    if name == "plateau":
        return _plateau(optimizer, config, warmup)
    if name == "one_cycle":
        return {"scheduler": _one_cycle(optimizer, config, num_steps, warmup), "interval": "step"}
    # One curve for all, as timm does it: layer-wise decay scales the whole schedule.
    highest = max(group["lr"] for group in optimizer.param_groups)
    factor = _factor(config, highest, num_steps, warmup, steps_per_epoch)
    return {"scheduler": lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}


def forget_length(state: dict[str, Any]) -> None:
    """Let a saved one-cycle schedule take the length of the training that resumes it.

    Args:
        state: The schedule's state of a checkpoint; changed in place.
    """
    for key in ("total_steps", "_schedule_phases", "_milestones", "total_iters"):
        state.pop(key, None)
    for inner in state.get("_schedulers", []):
        forget_length(inner)


def _factor(
    config: Mapping[str, Any], lr: float, num_steps: int, warmup: int, steps_per_epoch: float
) -> Callable[[int], float]:
    """Step -> factor on the learning rate, for constant, cosine, linear and step.

    A closed form of the step: a training that is resumed with more epochs follows the longer
    schedule from where it stands.

    Source of cosine: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
        ICLR 2017, equation 5, without restarts.
    """
    floor = config.get("min_lr", 0.0) / lr if lr else 0.0
    gamma, every = config.get("gamma", 0.1), config.get("step_size", 30) * steps_per_epoch
    steps = max(1, num_steps - warmup)
    decays: dict[str, Callable[[int], float]] = {
        "constant": lambda _: 1.0,
        "cosine": lambda step: (
            floor + (1 - floor) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
        ),
        "linear": lambda step: floor + (1 - floor) * max(1 - step / steps, 0.0),
        "step": lambda step: gamma ** math.floor(step / every + 1e-9),
    }
    decay = decays[config["name"]]

    def factor(step: int) -> float:
        if step < warmup:
            return float(_WARMUP_START + (1 - _WARMUP_START) * step / warmup)
        return float(decay(step - warmup))

    return factor


def _one_cycle(
    optimizer: Optimizer, config: Mapping[str, Any], num_steps: int, warmup: int
) -> lr_scheduler.LRScheduler:
    arguments = {k: config[k] for k in _SHORT_SCHEDULERS["one_cycle"] if k in config}
    rates = [group["lr"] for group in optimizer.param_groups]
    main = lr_scheduler.OneCycleLR(
        optimizer, max_lr=rates, total_steps=num_steps - warmup, **arguments
    )
    return _after_warmup(optimizer, main, warmup)


def _after_warmup(
    optimizer: Optimizer, main: lr_scheduler.LRScheduler, warmup: int
) -> lr_scheduler.LRScheduler:
    if not warmup:
        return main
    rise = lr_scheduler.LinearLR(optimizer, start_factor=_WARMUP_START, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])


def _plateau(optimizer: Optimizer, config: Mapping[str, Any], warmup: int) -> dict[str, Any]:
    if warmup:
        raise ConfigError(
            f"{SCHEDULER}.name", "plateau cannot follow a warm-up", got="plateau",
            remedy="Remove warmup_epochs and warmup_ratio, or use cosine",
        )  # fmt: skip
    monitor = config.get("monitor", "validation_loss")
    mode = config.get("mode", "min" if monitor.endswith("loss") else "max")
    own = {k: v for k, v in config.items() if k in ("factor", "patience", "threshold", "cooldown")}
    rates = [group["lr"] for group in optimizer.param_groups]
    highest = max(rates) or 1.0
    floors = [config.get("min_lr", 0.0) * (rate / highest) for rate in rates]
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, min_lr=floors, **own)
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}


def _from_class(optimizer: Optimizer, config: Mapping[str, Any], warmup: int) -> dict[str, Any]:
    interval = config.get("interval", "epoch")
    if warmup and interval != "step":
        raise ConfigError(
            f"{SCHEDULER}.interval", f"a warm-up before {config['name']} needs steps", got=interval,
            remedy="Write interval: step, and count its arguments in steps",
        )  # fmt: skip
    try:
        main = _scheduler_class(config["name"])(optimizer, **_own(config))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            SCHEDULER, f"{config['name']} refuses its arguments: {error}", got=_own(config),
            remedy="Correct the value",
        ) from error  # fmt: skip
    return {"scheduler": _after_warmup(optimizer, main, warmup), "interval": interval}


def planned_length(trainer: Any) -> tuple[int, int]:
    """Optimizer steps and epochs that a trainer will make.

    Raises:
        ConfigError: there is no end to them.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ConfigError(
            "trainer.max_epochs", "a schedule needs the length of the training",
            got=trainer.max_epochs, remedy="Write a number of epochs, or scheduler_config: null",
        )  # fmt: skip
    epochs = trainer.max_epochs
    if epochs is None or epochs < 1:
        batches = max(1, trainer.num_training_batches)
        epochs = max(1, round(steps * trainer.accumulate_grad_batches / batches))
    return max(1, int(steps)), epochs
