"""What `lora` of the configuration may say, and peft's own object for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from classifier.errors import ConfigError
from classifier.model.options import MODEL

LORA = f"{MODEL}.lora"
_LIBRARY = "peft"
# What chooses the layers; a checkpoint holds the names of those that were chosen instead.
CHOICE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
# Arguments of peft.LoraConfig that are plain data, and say all that is needed to begin.
_ARGUMENTS = (
    "r", "lora_alpha", "lora_dropout", *CHOICE, "bias", "use_rslora", "use_dora", "lora_bias",
    "init_lora_weights", "rank_pattern", "alpha_pattern",
)  # fmt: skip
_STARTS = (True, False, "gaussian", "orthogonal", "pissa", "olora")
_BIASES = ("none", "all", "lora_only")


def check_lora(
    config: Mapping[str, Any] | None, freeze_encoder: bool | float, schedule: Any
) -> None:
    """Refuse adapters that cannot be, before anything is built.

    Args:
        config: `lora`.
        freeze_encoder: Beside it, false or true.
        schedule: `unfreeze_schedule`, which cannot stand beside it.

    Raises:
        ConfigError: names the key, or what to install.
    """
    if config is None:
        return
    _check_values(config)
    if freeze_encoder not in (0, 1):
        raise ConfigError(
            f"{MODEL}.freeze_encoder", "stands beside lora, which freezes the whole encoder",
            got=freeze_encoder, remedy="Write true, or lora: null",
        )  # fmt: skip
    if schedule is not None:
        raise ConfigError(
            f"{MODEL}.unfreeze_schedule", "stands beside lora, whose encoder stays frozen",
            got=schedule, remedy="Write null for one of the two",
        )  # fmt: skip
    peft_config(config)


def _check_values(config: Mapping[str, Any]) -> None:
    for key in config:
        if key not in _ARGUMENTS:
            raise ConfigError(
                f"{LORA}.{key}", "unknown key", name=key, options=_ARGUMENTS,
                remedy=f"It takes {', '.join(_ARGUMENTS)}",
            )  # fmt: skip
    r, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if type(r) is not int or r < 1:
        raise ConfigError(f"{LORA}.r", "must be a whole number of at least 1", got=r)
    if not _is_number(alpha) or alpha <= 0:
        raise ConfigError(f"{LORA}.lora_alpha", "must be a number above 0", got=alpha)
    dropout = config.get("lora_dropout", 0.0)
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise ConfigError(f"{LORA}.lora_dropout", "must be in [0, 1)", got=dropout)
    for key, allowed in (("bias", _BIASES), ("init_lora_weights", _STARTS)):
        if key in config and config[key] not in allowed:
            raise ConfigError(
                f"{LORA}.{key}", "unknown value", got=config[key], name=str(config[key]),
                remedy=f"Write one of {', '.join(str(value) for value in allowed).lower()}",
                options=[value for value in allowed if isinstance(value, str)],
            )  # fmt: skip
    targets = config.get("target_modules")
    names = [targets] if isinstance(targets, str) or targets is None else targets
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(n, str | None) for n in names)
    ):
        raise ConfigError(
            f"{LORA}.target_modules", "must be a list of names, or a regular expression",
            got=targets, remedy="Write for example [qkv, proj], all-linear, or null",
        )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def peft_config(config: Mapping[str, Any]) -> Any:
    """The peft.LoraConfig of a configuration.

    Raises:
        ConfigError: peft is not installed, or refuses it.
    """
    if find_spec(_LIBRARY) is None:
        raise ConfigError(LORA, "needs peft, which is not installed", remedy="pip install peft")
    from peft import LoraConfig

    try:
        return LoraConfig(**config)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(LORA, f"peft refuses it ({reason})", got=dict(config)) from error
