"""Optimizers and learning-rate schedules by name: torch's, timm's, or any import path."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from classifier.errors import ConfigError
from classifier.importing import check_arguments, import_path

log = logging.getLogger(__name__)

OPTIMIZER = "model.init_args.optimizer_config"
SCHEDULER = "model.init_args.scheduler_config"
_TORCH_OPTIMIZERS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
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


def build_optimizer(module: nn.Module, config: Mapping[str, Any]) -> Optimizer:
    """The optimizer that a configuration names, over the trainable parameters.

    Biases and normalisation weights (tensors of at most one dimension) get no weight decay, as in
    timm and in Hugging Face's Trainer.

    Args:
        module: The network; parameters with requires_grad=False are left out.
        config: `name` and the optimizer's own arguments. A name with capitals is a class of
            torch.optim (`AdamW`), one in lower case an optimizer of timm (`adamw`, `lamb`), one
            with a dot an import path.

    Raises:
        ConfigError: unknown name, unknown argument, or a value that the optimizer refuses.

    Source: no decay on biases and gains, He et al., "Bag of Tricks for Image Classification with
        Convolutional Neural Networks", CVPR 2019, section 3.1.
    """
    arguments = {key: value for key, value in config.items() if key != "name"}
    make = _optimizer_class(config)
    check_arguments(make, arguments, OPTIMIZER, hidden=("params",))
    for key in ("lr", "weight_decay"):
        if not isinstance(arguments.get(key, 0.0), int | float | torch.Tensor):
            raise ConfigError(f"{OPTIMIZER}.{key}", "must be a number", got=arguments[key])
    trainable = [p for p in module.parameters() if p.requires_grad]
    own_default = inspect.signature(make).parameters.get("weight_decay")
    default = own_default.default if own_default is not None else 0.0
    groups = _decay_groups(trainable, arguments.get("weight_decay", default))
    try:
        return make(groups, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            OPTIMIZER, f"{config['name']} refuses its arguments: {reason}", got=arguments,
            remedy="Correct the value",
        ) from error  # fmt: skip


def _decay_groups(parameters: Iterable[nn.Parameter], weight_decay: Any) -> list[dict[str, Any]]:
    parameters = list(parameters)
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    if not weight_decay or not decayed or not others:
        return [{"params": parameters}]
    return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]


def _optimizer_class(config: Mapping[str, Any]) -> Callable[..., Optimizer]:
    from timm.optim import get_optimizer_class, list_optimizers

    name = config.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"{OPTIMIZER}.name", "must be the name of an optimizer", got=name,
            remedy="Write for example name: AdamW",
        )  # fmt: skip
    if name in _TORCH_OPTIMIZERS:
        return _TORCH_OPTIMIZERS[name]
    if name in list_optimizers():
        info_class: Any = get_optimizer_class(name, bind_defaults=False)
        bound: Any = get_optimizer_class(name, bind_defaults=True)
        defaults = dict(getattr(bound, "keywords", {}))

        def make(params: Any, **arguments: Any) -> Optimizer:
            optimizer: Optimizer = info_class(params, **{**defaults, **arguments})
            return optimizer

        make.__signature__ = inspect.signature(info_class)  # type: ignore[attr-defined]
        make.__name__ = name
        return make
    if "." in name:
        found = import_path(name, f"{OPTIMIZER}.name")
        if isinstance(found, type) and issubclass(found, Optimizer):
            return found
        raise ConfigError(
            f"{OPTIMIZER}.name", "is no torch.optim.Optimizer", got=name,
            remedy="Write the import path of an optimizer class",
        )  # fmt: skip
    raise ConfigError(
        f"{OPTIMIZER}.name", "unknown optimizer", got=name,
        remedy="Write a class of torch.optim, a name of timm.optim, or an import path",
        name=name, options=[*_TORCH_OPTIMIZERS, *list_optimizers()],
    )  # fmt: skip


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
    arguments = {k: v for k, v in config.items() if k not in ("name", "interval", *_WARMUP_KEYS)}
    check_arguments(_scheduler_class(name), arguments, SCHEDULER, hidden=("optimizer",))


def _scheduler_class(name: Any) -> Callable[..., Any]:
    if name in _TORCH_SCHEDULERS:
        return _TORCH_SCHEDULERS[name]
    if isinstance(name, str) and "." in name:
        found = import_path(name, f"{SCHEDULER}.name")
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
            0.001 of the learning rate; and the schedule's own arguments. `min_lr` is absolute.
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
    factors = [
        _factor(config, group["lr"], num_steps, warmup, steps_per_epoch)
        for group in optimizer.param_groups
    ]
    return {"scheduler": lr_scheduler.LambdaLR(optimizer, factors), "interval": "step"}


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
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, min_lr=config.get("min_lr", 0.0), **own
    )
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}


def _from_class(optimizer: Optimizer, config: Mapping[str, Any], warmup: int) -> dict[str, Any]:
    interval = config.get("interval", "epoch")
    if warmup and interval != "step":
        raise ConfigError(
            f"{SCHEDULER}.interval", f"a warm-up before {config['name']} needs steps", got=interval,
            remedy="Write interval: step, and count its arguments in steps",
        )  # fmt: skip
    own = {k: v for k, v in config.items() if k not in ("name", "interval", *_WARMUP_KEYS)}
    try:
        main = _scheduler_class(config["name"])(optimizer, **own)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            SCHEDULER, f"{config['name']} refuses its arguments: {error}", got=own,
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
