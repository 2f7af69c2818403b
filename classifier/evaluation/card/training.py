"""What a card says of a model and its training, in rows of names and texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from classifier.evaluation.card.markdown import escaped
from classifier.masking import shareable

Row = tuple[str, str]


def weights_facts(
    checkpoint: Mapping[str, Any],
    saved: Mapping[str, Any],
    config: Mapping[str, Any],
    checkpoint_path: str,
) -> Iterator[Row]:
    """The encoder, its input, and the file.

    Args:
        checkpoint: As `load_checkpoint` gives it.
        saved: What it says of its classifier; empty for a module of the user's own.
        config: The resolved configuration.
        checkpoint_path: Relative to the card.
    """
    model = config.get("model") or {}
    arguments = model.get("init_args") or {}
    if "model_name" in arguments:
        yield "Encoder", _said(arguments["model_name"])
    else:
        yield "Model", _said(model.get("class_path"))
    network = saved.get("network") or {}
    if network.get("source"):
        library = "a module of its own" if network["source"] == "module" else network["source"]
        yield "Library", _said(library)
    if "pretrained" in arguments:
        yield "Began from", _beginning(config, arguments)
    licence = (network.get("pretrained_cfg") or {}).get("license")
    if licence and arguments.get("pretrained"):
        yield "Licence of the pretrained weights", _said(licence)
    if saved.get("class_names"):
        yield "Classes", str(len(saved["class_names"]))
    data = (config.get("data") or {}).get("init_args") or {}
    if (data.get("augmentations") or {}).get("val"):
        yield "Input", escaped("RGB, as data.init_args.augmentations.val below makes it")
    elif network.get("preprocessing"):
        yield "Input", _input(network["preprocessing"])
    size = sum(tensor.nbytes for tensor in checkpoint["state_dict"].values())
    yield "Size of the weights", f"{size / 1e6:,.1f} MB"
    yield "Checkpoint", escaped(checkpoint_path)
    if "epoch" in checkpoint and "global_step" in checkpoint:
        yield "Epochs trained", str(checkpoint["epoch"] + 1)
        yield "Optimizer steps", f"{checkpoint['global_step']:,}"


def _beginning(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    if config.get("only_weights_load") and config.get("ckpt_path"):
        return "the weights of another checkpoint"
    return "pretrained weights" if arguments["pretrained"] else "random weights"


def _input(preprocessing: Mapping[str, Any]) -> str:
    height, width = preprocessing["size"]
    way = {
        "crop": f"after a resize to {' x '.join(str(n) for n in preprocessing['resize'])}, cropped",
        "squash": "resized without its aspect ratio",
        "pad": "resized and padded",
    }.get(preprocessing["resize_mode"], _said(preprocessing["resize_mode"]))
    mean, std = (
        ", ".join(f"{value:.4g}" for value in preprocessing[name]) for name in ("mean", "std")
    )
    return (
        f"RGB, {height} x {width} pixels {way}; {escaped(preprocessing['interpolation'])}; "
        f"mean {mean}, std {std}"
    )


def training_facts(config: Mapping[str, Any]) -> Iterator[Row]:
    """How a model was trained, as far as its configuration says so.

    Args:
        config: The resolved configuration.
    """
    arguments = (config.get("model") or {}).get("init_args") or {}
    data = (config.get("data") or {}).get("init_args") or {}
    trainer = config.get("trainer") or {}
    if "freeze_encoder" in arguments:
        yield "Trained layers", _trained_part(arguments)
    for key, name in (
        ("optimizer_config", "Optimizer"), ("scheduler_config", "Schedule"),
        ("loss_config", "Loss"), ("class_weights", "Class weights"),
        ("mixup_config", "Mixing of images"),
    ):  # fmt: skip
        if arguments.get(key):
            yield name, _said(arguments[key])
    augmentations = (data.get("augmentations") or {}).get("train")
    if augmentations:
        yield "Augmentations", ", ".join(_names(augmentations))
    if data.get("sampler"):
        yield "Sampler", _said(data["sampler"])
    if data.get("batch_size"):
        yield "Batch size per device", _said(data["batch_size"])
    for key, name in (
        ("accumulate_grad_batches", "Batches per step"), ("max_epochs", "Epochs at most"),
        ("max_steps", "Steps at most"), ("precision", "Precision"),
        ("gradient_clip_val", "Gradients clipped at"),
    ):  # fmt: skip
        if trainer.get(key) not in (None, -1) and (key, trainer[key]) != (
            "accumulate_grad_batches", 1,
        ):  # fmt: skip
            yield name, _said(trainer[key])
    if config.get("seed_everything") is not None:
        yield "Seed", _said(config["seed_everything"])


def _trained_part(arguments: Mapping[str, Any]) -> str:
    if arguments.get("lora"):
        return "low-rank adapters beside the encoder's layers, and the head"
    if arguments.get("unfreeze_schedule"):
        schedule = _said(arguments["unfreeze_schedule"])
        return f"the head, and from epochs on more layers: {schedule}"
    frozen = arguments["freeze_encoder"]
    if frozen is True or frozen == 1:
        return "the head only"
    if not frozen:
        return "all"
    return f"all but the first {frozen:.0%} of the encoder's layers"


def _names(transforms: Any) -> Iterator[str]:
    """What transforms are called; of a preset its name."""
    if isinstance(transforms, str):
        yield escaped(transforms)
        return
    for transform in transforms:
        path = transform.get("class_path") if isinstance(transform, Mapping) else transform
        yield escaped(str(path).rpartition(".")[2])


def _said(value: Any) -> str:
    """A value of a configuration in words: `AdamW, lr 0.0003`."""
    value = shareable(value)
    if isinstance(value, Mapping):
        pairs = (
            _plain(item) if key == "name" else f"{key} {_plain(item)}"
            for key, item in value.items()
            if item is not None
        )
        return escaped(", ".join(pairs))
    return escaped(_plain(value))


def _plain(value: Any) -> str:
    return re.sub(r"['\"]", "", str(value))
