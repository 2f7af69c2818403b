"""Augmentations by name: each stands for a list of transforms that --print_config writes out."""

from __future__ import annotations

from typing import Any

from classifier.errors import ConfigError


def _entry(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


def _torchvision(name: str, **arguments: Any) -> dict[str, Any]:
    transform = _entry(f"torchvision.transforms.v2.{name}", **arguments)
    return _entry("classifier.TorchvisionTransform", transform=transform)


def _crop(low: float) -> dict[str, Any]:
    return _entry("classifier.RandomResizedCrop", scale=[low, 1.0])


_FLIP = _entry("albumentations.HorizontalFlip", p=0.5)
_ERASING = _torchvision("RandomErasing", p=0.25, value=127)

# RandAugment and TrivialAugmentWide at the settings of their papers' ImageNet experiments:
# Cubuk et al., RandAugment, 2020; Mueller and Hutter, TrivialAugment, 2021.
PRESETS: dict[str, list[dict[str, Any]]] = {
    "light": [_crop(0.6), _FLIP],
    "medium": [
        _crop(0.3),
        _FLIP,
        _entry("albumentations.ColorJitter", brightness=[0.8, 1.2], contrast=[0.8, 1.2],
               saturation=[0.8, 1.2], hue=[-0.03, 0.03], p=0.8),
        _entry("albumentations.Rotate", limit=[-10, 10], p=0.3),
    ],
    "strong": [
        _crop(0.08),
        _FLIP,
        _entry("albumentations.ColorJitter", brightness=[0.6, 1.4], contrast=[0.6, 1.4],
               saturation=[0.6, 1.4], hue=[-0.1, 0.1], p=0.8),
        _entry("albumentations.ToGray", p=0.1),
        _entry("albumentations.GaussianBlur", p=0.1),
        _ERASING,
    ],
    "trivial_augment": [_crop(0.3), _FLIP, _torchvision("TrivialAugmentWide")],
    "rand_augment": [_crop(0.08), _FLIP, _torchvision("RandAugment", num_ops=2, magnitude=9),
                     _ERASING],
}  # fmt: skip


def transforms_of(name: str, key: str) -> list[dict[str, Any]]:
    """What the name of a preset stands for, as class paths with their arguments.

    Args:
        name: Of the preset.
        key: The configuration key that holds it, for the message.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            key, "no such preset", got=name,
            remedy=f"Write {', '.join(PRESETS)}, or a list of transforms",
            name=name, options=PRESETS,
        )  # fmt: skip
    return PRESETS[name]


def written_out(augmentations: Any, key: str) -> Any:
    """The section `augmentations` with every preset replaced by its transforms.

    Args:
        augmentations: Stage -> list of transforms, null, or the name of a preset.
        key: Where it stands, for messages.

    Raises:
        ConfigError: no such preset.
    """
    if not isinstance(augmentations, dict):
        return augmentations
    return {
        stage: transforms_of(item, f"{key}.{stage}") if isinstance(item, str) else item
        for stage, item in augmentations.items()
    }
