"""Which predictions can do without lightning, and what may be said beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classifier.arguments import Command
from classifier.callbacks.prediction_files import check_format
from classifier.config import TRUSTED_PACKAGES, class_paths, parse_word
from classifier.errors import ConfigError
from classifier.evaluation.settings import SECTION, EvaluationSettings
from classifier.ranks import is_first
from classifier.runs import trial_folder
from classifier.trees import lookup

BATCH_SIZE = "data.init_args.batch_size"
PRECISION = "trainer.precision"
NAME = "custom_folder_name"
_OF_TABLE = ("format", "top_k", "abstain_below")
_TAKEN = (*(f"{SECTION}.{name}" for name in _OF_TABLE), BATCH_SIZE, NAME)
_FORMATS = ("csv", "parquet", "json")
_SOURCES = ("timm", "transformers", "torchvision")
# What trainer.precision may be, for the light way to use float32 whatever is faster ...
_FULL = (32, "32", "32-true")
# ... and where what a training did in half precision does not say what a prediction should.
_MIXED = (None, 16, "16", "16-mixed", "bf16", "bf16-mixed")


@dataclass(frozen=True)
class Wishes:
    """What the words of the command line, and a checkpoint's configuration, ask for.

    Args:
        settings: format, top_k and abstain_below.
        batch_size: At least 1.
        experiment: The name of the experiment; None where nothing gives one.
        full_precision: Whether the command line asks for float32; what a training was computed in
            is no wish of a prediction.
        seed: Of the configuration.
    """

    settings: EvaluationSettings
    batch_size: int = 32
    experiment: str | None = None
    full_precision: bool = False
    seed: int | None = None


def takes_light_words(command: Command) -> bool:
    """Whether nothing is asked for that only the whole configuration can answer.

    Args:
        command: A prediction with a checkpoint.
    """
    words = {_whole_key(key): parse_word(text) for key, text in command.overrides}
    precision = words.pop(PRECISION, None)
    plain = not (command.configs or command.allowed or command.print_config)
    alone = is_first() and trial_folder() is None
    return (
        bool(command.paths) and plain and alone and words.keys() <= set(_TAKEN)
        and precision in (None, *_FULL)
    )  # fmt: skip


def is_light(config: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's predictions are those of its network and the encoder's preprocessing.

    It is where all of this holds; else the prediction takes the whole way, with Lightning:

    - the model is `classifier.ImageClassifier`, the data are `classifier.ImageDataModule`;
    - the network is of timm, transformers or torchvision, not a module of the user's own;
    - nothing that the configuration names is of a package that has to be allowed;
    - images are looked at once, without test-time augmentation;
    - the precision is float32, or a mixed one, of which float32 is the more exact one.

    The evaluation's augmentations are judged where the checkpoint is opened: only there is known
    what they come to.

    Args:
        config: Of the checkpoint.
        saved: What it says of its model.
    """
    settings = config.get(SECTION) or {}
    packages = {path.partition(".")[0] for _, path in class_paths(config) if "." in path}
    return (
        _is_named(lookup(config, "model.class_path"), "ImageClassifier")
        and _is_named(lookup(config, "data.class_path"), "ImageDataModule")
        and (saved.get("network") or {}).get("source") in _SOURCES
        and packages <= TRUSTED_PACKAGES
        and settings.get("tta") is None
        and lookup(config, PRECISION) in (*_MIXED, *_FULL)
    )  # fmt: skip


def _is_named(class_path: Any, name: str) -> bool:
    return class_path in (name, f"classifier.{name}")


def check_words(command: Command, kind: str) -> None:
    """Refuse what an exported model would ignore.

    Args:
        command: A prediction with an export.
        kind: The format of the export.

    Raises:
        ConfigError: names the option.
    """
    given = {
        "--config": command.configs, "--allow_module": command.allowed,
        "--print_config": command.print_config,
        **{f"--{key}": True for key, _ in command.overrides if _whole_key(key) not in _TAKEN},
    }  # fmt: skip
    for option, value in given.items():
        if value:
            raise ConfigError(
                option, f"does not go with a model of the format {kind}, which is used as it was "
                "exported", remedy=f"Leave it out; {', '.join(f'--{key}' for key in _TAKEN)} can "
                "be given, and with the checkpoint everything",
            )  # fmt: skip
    if not command.paths:
        raise ConfigError(
            "--predict", "needs images: an export names none",
            remedy="Write --predict a.jpg or --predict photos/",
        )  # fmt: skip


def wishes(command: Command, config: Mapping[str, Any]) -> Wishes:
    """What is asked for: by the checkpoint's configuration, and by words, which win.

    Args:
        command: Whose words `takes_light_words` or `check_words` has let pass.
        config: Of the checkpoint; empty of an export.

    Raises:
        ConfigError: a value that cannot be.
    """
    words = {_whole_key(key): parse_word(text) for key, text in command.overrides}

    def asked(key: str) -> Any:
        return words[key] if key in words else lookup(config, key)

    values = {name: asked(f"{SECTION}.{name}") for name in _OF_TABLE}
    values["format"] = values["format"] or "csv"
    _check_values(values)
    settings = EvaluationSettings(**values)
    check_format(settings.format)
    batch_size = asked(BATCH_SIZE)
    if batch_size is None:
        batch_size = Wishes.batch_size
    _check_number(BATCH_SIZE, batch_size, int)
    if batch_size < 1:
        raise ConfigError(
            BATCH_SIZE, "must be at least 1", got=batch_size,
            remedy="Write a whole number from 1 on",
        )  # fmt: skip
    seed, name = config.get("seed_everything"), asked(NAME)
    return Wishes(
        settings, batch_size, None if name is None else str(name),
        words.get(PRECISION) in _FULL, seed if type(seed) is int else None,
    )  # fmt: skip


def _check_values(values: Mapping[str, Any]) -> None:
    if values["format"] not in _FORMATS:
        raise ConfigError(
            f"{SECTION}.format", "no such format", got=values["format"],
            remedy=f"Write {', '.join(_FORMATS)}", name=str(values["format"]), options=_FORMATS,
        )  # fmt: skip
    for name, kinds in (("top_k", int), ("abstain_below", int | float)):
        if values[name] is not None:
            _check_number(f"{SECTION}.{name}", values[name], kinds)


def _check_number(key: str, value: Any, kinds: Any) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        number = "a whole number" if kinds is int else "a number"
        raise ConfigError(key, f"must be {number}", got=value, remedy=f"Write {number}")


def _whole_key(key: str) -> str:
    """A key as the configuration has it: on the command line `init_args` may be left out."""
    return BATCH_SIZE if key == "data.batch_size" else key
