"""A checkpoint as a model to be used: its network with the weights, and what it says of itself.

It needs neither Lightning nor jsonargparse nor Albumentations, which take seconds to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from classifier.checkpoints import CONFIG_KEY
from classifier.data.deterministic import preprocessing_of
from classifier.errors import ConfigError, reason_of
from classifier.inference.description import Description
from classifier.model.saved import CHECKPOINT_KEY, Calibration
from classifier.model.tasks import MULTICLASS
from classifier.preprocessing import Preprocessing

if TYPE_CHECKING:
    from classifier.model.network import Network

_WEIGHTS = "network."  # how their names begin in a checkpoint
_WHITE = (255, 255, 255)
_AUGMENTATIONS = "data.init_args.augmentations.val"
_BY_MAIN = "Use it by main.py --predict PATHS --ckpt_path CKPT"


def describe(checkpoint: Mapping[str, Any], file: Path) -> Description:
    """What a checkpoint says of itself, as `main.py --predict` takes it.

    Args:
        checkpoint: As `load_checkpoint` gave it.
        file: From which it was read, for messages.

    Raises:
        ConfigError: a model or a data module of the user's own, or images that are prepared by
            transforms that cannot be repeated without Albumentations.
    """
    config = checkpoint[CONFIG_KEY]
    _check_own(config, "model", "ImageClassifier", file)
    _check_own(config, "data", "ImageDataModule", file)
    try:
        saved = checkpoint[CHECKPOINT_KEY]
        calibration = _calibration(saved, config)
        return Description(
            format="checkpoint",
            class_names=list(saved["class_names"]),
            task=saved.get("task") or MULTICLASS,
            preprocessing=_preprocessing(saved["network"], config),
            background=cast(
                tuple[int, int, int], tuple(_arguments(config, "data").get("background") or _WHITE)
            ),
            temperature=calibration.temperature,
            thresholds=calibration.thresholds or saved.get("thresholds"),
            positive=calibration.positive,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise unfitting(error, file) from error


def rebuild(checkpoint: Mapping[str, Any], file: Path) -> Network:
    """The network of a checkpoint with its weights, in eval mode on the CPU, offline.

    Adapters of LoRA stay beside their layers, so that numbers are the same to the last bit;
    `merge_adapters` makes it a plain network.

    Args:
        checkpoint: As `load_checkpoint` gave it.
        file: From which it was read, for messages.

    Raises:
        ConfigError: the network is code of the user's own, or weights that do not fit it.
    """
    weights = {
        name.removeprefix(_WEIGHTS): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_WEIGHTS)
    }
    try:
        saved = checkpoint[CHECKPOINT_KEY]
        given = _arguments(checkpoint[CONFIG_KEY], "model").get("channels_last")
        return with_weights(
            saved["network"], len(saved["class_names"]), weights, file,
            given if isinstance(given, bool) else None,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise unfitting(error, file) from error


def with_weights(
    spec: Mapping[str, Any],
    num_classes: int,
    weights: Mapping[str, Any],
    file: Path,
    channels_last: bool | None = None,
) -> Network:
    """A network by what a file says of it, in eval mode on the CPU.

    Args:
        spec: As `Network.spec`.
        num_classes: Outputs of the head.
        weights: By their names in the network, all of them.
        file: From which they came, for messages.
        channels_last: As the configuration has it; None is what suits the network.

    Raises:
        ConfigError: the network is code of the user's own, or parts that do not fit each other.
    """
    check_no_code(spec, file)
    from classifier.model.encoders import rebuild_network

    try:
        network = rebuild_network(spec, num_classes, channels_last)
        network.load_state_dict(weights)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise unfitting(error, file) from error
    return network.eval().requires_grad_(False)


def check_no_code(spec: Mapping[str, Any], file: Path) -> None:
    """Refuse a network that is made by code which a file only names.

    Args:
        spec: As `Network.spec`.
        file: From which it came, for the message.

    Raises:
        ConfigError: names the class, and the way that asks whether it is trusted.
    """
    if spec.get("source") != "module":
        return
    class_path = str(spec.get("class_path"))
    package = class_path.partition(".")[0]
    raise ConfigError(
        "ckpt_path", f"the network of {file} is code of your own, which is not imported here",
        got=class_path, remedy=f"{_BY_MAIN} --allow_module {package}, or export it to onnx, "
        "torch_export or torchscript, which need no code",
    )  # fmt: skip


def unfitting(error: BaseException, file: Path) -> ConfigError:
    """What to say of a file whose parts do not fit each other.

    Args:
        error: By which it was found out.
        file: The file.
    """
    reason = reason_of(error, 200)
    return ConfigError(
        "ckpt_path", f"the parts of {file} do not fit each other ({reason})",
        remedy="Use a file as this program wrote it",
    )  # fmt: skip


def _check_own(config: Mapping[str, Any], section: str, name: str, file: Path) -> None:
    """Of a class of the user's own it is not known what it does with images or logits."""
    found = str((config.get(section) or {}).get("class_path"))
    package, _, _ = found.partition(".")
    if found.rpartition(".")[2] != name or package not in ("classifier", name):
        raise ConfigError(
            f"{section}.class_path", f"{file} needs a class of your own, which only a whole "
            "command loads", got=found, remedy=_BY_MAIN,
        )  # fmt: skip


def _arguments(config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    return (config.get(section) or {}).get("init_args") or {}


def _calibration(saved: Mapping[str, Any], config: Mapping[str, Any]) -> Calibration:
    """What counts of a calibration: a setting that is null leaves its part out."""
    found = Calibration.read(saved.get("calibration"))
    settings = config.get("evaluation") or {}
    by_settings = settings.get("tune_thresholds") is not None
    return Calibration(
        temperature=1.0 if settings.get("calibrate") is None else found.temperature,
        thresholds=found.thresholds if by_settings else None,
        positive=found.positive if by_settings else None,
    )


def _preprocessing(spec: Mapping[str, Any], config: Mapping[str, Any]) -> Preprocessing:
    """What images go through: the user's list, or the encoder's own in the mode of the data."""
    arguments = _arguments(config, "data")
    found = Preprocessing.from_dict(spec["preprocessing"])
    mode = arguments.get("resize_mode")
    found = found if mode is None else found.in_mode(mode)
    transforms = (arguments.get("augmentations") or {}).get("val")
    if isinstance(transforms, str):
        raise ConfigError(
            _AUGMENTATIONS, "images are prepared by a preset, which draws random numbers",
            got=transforms, remedy=_BY_MAIN,
        )  # fmt: skip
    return preprocessing_of(transforms, found, _AUGMENTATIONS, _BY_MAIN)
