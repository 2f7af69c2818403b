"""How a network is built, besides its name: what the configuration may say of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classifier.errors import ConfigError, reason_of
from classifier.model.heads import HeadLayers

MODEL = "model.init_args"
MODEL_NAME = f"{MODEL}.model_name"
PRETRAINED = f"{MODEL}.pretrained"
MODEL_ARGS = f"{MODEL}.model_args"
IMAGE_SIZE = f"{MODEL}.image_size"
RATES = ("drop_rate", "drop_path_rate")
# Arguments of the libraries that have a key of their own here, or that are not the user's to give.
_OTHER_KEYS = {
    "pretrained": "pretrained", "weights": "pretrained", "checkpoint_path": "model_name",
    "num_classes": "num_classes", "num_labels": "num_classes", "img_size": "image_size",
    "image_size": "image_size", "drop_rate": "drop_rate", "drop_path_rate": "drop_path_rate",
}  # fmt: skip
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is built, besides its name and the number of classes.

    Its fields are arguments of `ImageClassifier`, which says what they mean.

    Raises:
        ConfigError: a number out of range, or an argument that has a key of its own.
    """

    pretrained: bool = True
    model_args: Mapping[str, Any] | None = None
    drop_rate: float | None = None
    drop_path_rate: float | None = None
    head: Mapping[str, Any] | None = None
    image_size: int | Sequence[int] | None = None
    channels_last: bool | None = None
    lora: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_reserved(self.model_args or {}, _OTHER_KEYS)
        for name, rate in self.rates().items():
            if not 0.0 <= rate < 1.0:
                raise ConfigError(
                    f"{MODEL}.{name}", "must be in [0, 1)", got=rate,
                    remedy="Write for example 0.1, or null for the library's default",
                )  # fmt: skip
        sides = [self.image_size] if isinstance(self.image_size, int) else self.image_size
        if sides is not None and (len(sides) > 2 or not sides or min(sides) < 1):
            raise ConfigError(
                IMAGE_SIZE, "must be one side or [height, width] in pixels", got=self.image_size,
                remedy="Write for example 224",
            )  # fmt: skip
        self.head_layers()

    def rates(self) -> dict[str, float]:
        """drop_rate and drop_path_rate, where they were given."""
        given = {name: getattr(self, name) for name in RATES}
        return {name: rate for name, rate in given.items() if rate is not None}

    def arguments(
        self,
        model: str,
        known: Collection[str],
        rate_names: Mapping[str, Sequence[str]],
        not_to_give: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """model_args, and the rates under the names that an architecture has for them.

        Args:
            model: The architecture's name.
            known: What it takes.
            rate_names: drop_rate, drop_path_rate -> their names; the first one that is known.
            not_to_give: As `check_reserved` takes it.

        Raises:
            ConfigError: an argument or rate that it does not take.
        """
        given, reserved = dict(self.model_args or {}), not_to_give or {}
        check_reserved(given, reserved)
        for name in given:
            if name not in known:
                free = [item for item in known if item not in ("num_classes", *reserved)]
                raise unknown_argument(name, model, free)
        for rate, value in self.rates().items():
            own = next((name for name in rate_names[rate] if name in known), None)
            if own is None:
                raise unknown_argument(rate, model)
            given[own] = value
        return given

    def head_layers(self) -> HeadLayers | None:
        """The head that was asked for; None for the library's own."""
        return None if self.head is None else HeadLayers.from_config(self.head)

    @property
    def size(self) -> tuple[int, int] | None:
        """image_size as height and width."""
        sides = [self.image_size] if isinstance(self.image_size, int) else self.image_size
        return None if sides is None else (sides[0], sides[-1])


def check_reserved(arguments: Mapping[str, Any], other_keys: Mapping[str, str]) -> None:
    """Refuse arguments of an architecture that are set in another place.

    Args:
        arguments: As `model_args` has them.
        other_keys: Argument -> the key of the model that sets it.

    Raises:
        ConfigError: names the key to use.
    """
    for name in arguments:
        if name in other_keys:
            raise ConfigError(
                f"{MODEL_ARGS}.{name}", "has a key of its own",
                remedy=f"Write {MODEL}.{other_keys[name]}",
            )  # fmt: skip


def unknown_argument(name: str, model: str, options: Collection[str] = ()) -> ConfigError:
    """The message for an argument that an architecture does not take.

    Args:
        name: An argument, or drop_rate, drop_path_rate.
        model: The architecture's name.
        options: What it takes, as far as that is known.
    """
    if name in RATES:
        return ConfigError(
            f"{MODEL}.{name}", f"{model} has no such rate to set", remedy="Write null"
        )
    remedy = f"It takes {', '.join(options)}" if options else "Correct or remove it"
    return ConfigError(
        f"{MODEL_ARGS}.{name}", f"{model} takes no {name!r}", remedy=remedy,
        name=name, options=options,
    )  # fmt: skip


def refused_arguments(error: Exception, model: str, arguments: Mapping[str, Any]) -> ConfigError:
    """What a library says of arguments that it cannot use, under the key that holds them.

    Args:
        error: What it raised.
        model: The architecture's name.
        arguments: What it was given.
    """
    found = _UNKNOWN_ARGUMENT.search(str(error))
    if found and found[1] in arguments:
        return unknown_argument(found[1], model)
    return ConfigError(
        MODEL_ARGS, f"{model} refuses its arguments ({reason_of(error)})", got=dict(arguments),
        remedy="Correct or remove them",
    )  # fmt: skip


def unavailable(model_name: str, error: Exception) -> ConfigError:
    """The message for a model that cannot be loaded from where its name points."""
    return ConfigError(
        MODEL_NAME, f"could not be loaded ({_first_line(error)})", got=model_name,
        remedy="Check the name and the network connection, or give a local folder",
    )  # fmt: skip


def no_weights(model_name: str, error: Exception) -> ConfigError:
    """The message for weights that cannot be loaded, of a model that there is."""
    return ConfigError(
        PRETRAINED, f"the weights of {model_name} could not be loaded ({_first_line(error)})",
        got=True, remedy="Check the network connection, or write pretrained: false",
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
