"""The route of a folder of the Hugging Face format, opened without a network or the Hub's code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError, reason_of
from classifier.formats import FILES
from classifier.inference.checkpoint import with_weights
from classifier.inference.description import KEY, Description, read_description
from classifier.inference.weights_route import AUTO, WeightsRoute
from classifier.model.network import Network

_CONFIG = "config.json"
_WEIGHTS = FILES["safetensors"]
_REMEDY = "Give a folder that --export huggingface wrote"


def open_folder(
    folder: Path, device: str = AUTO, precision: str = "fp32", compile: bool = False
) -> WeightsRoute:
    """Open an exported folder.

    Args:
        folder: With config.json and model.safetensors. Weights in half precision are used in
            float32.
        device: As `WeightsRoute` has it.
        precision: As `WeightsRoute` has it.
        compile: As `WeightsRoute` has it.

    Raises:
        ConfigError: a folder of another program, or a damaged one.
    """
    config, description = _read(folder)
    try:
        if "pretrained_cfg" in config:
            network = _timm_network(folder, config, description)
        else:
            network = _transformers_network(folder, config, description)
    except (ConfigError, ModuleNotFoundError):
        raise
    except Exception as error:  # of safetensors, timm, transformers: no one class
        raise _refused(folder, f"the model cannot be opened ({reason_of(error, 300)})") from error
    # The weights hold the temperature already.
    route = WeightsRoute(network, replace(description, temperature=1.0), device, precision, compile)
    route.description = description
    return route


def _read(folder: Path) -> tuple[dict[str, Any], Description]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        carried = config[KEY]
    except FileNotFoundError as error:
        raise _refused(folder, f"the folder holds no {_CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:  # the last of thousands of brackets
        raise _refused(folder, f"{_CONFIG} is damaged ({reason_of(error, 300)})") from error
    except (KeyError, TypeError) as error:
        raise _refused(
            folder, f"{_CONFIG} says nothing under {KEY}: another program wrote it"
        ) from error
    if not (folder / _WEIGHTS).is_file():
        raise _refused(folder, f"the folder holds no {_WEIGHTS}")
    return config, read_description(carried, folder / _CONFIG)


def _timm_network(folder: Path, config: Mapping[str, Any], description: Description) -> Network:
    """As a checkpoint's network is rebuilt, which refuses arguments that name other files."""
    from safetensors.torch import load_file

    spec = {
        "source": "timm",
        "architecture": config["architecture"],
        "model_args": config["model_args"],
        "pretrained_cfg": config["pretrained_cfg"],
        "preprocessing": description.preprocessing.to_dict(),
    }
    weights = {f"model.{name}": value for name, value in load_file(folder / _WEIGHTS).items()}
    return with_weights(spec, len(description.class_names), weights, folder)


def _transformers_network(
    folder: Path, config: Mapping[str, Any], description: Description
) -> Network:
    """By transformers itself, which knows the names of its weights; nothing names code to it."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    from classifier.model.transformers_config import without_code
    from classifier.model.transformers_encoder import TransformersNetwork

    values = without_code({key: value for key, value in config.items() if key != KEY})
    with without_bars():
        model, loading = AutoModelForImageClassification.from_pretrained(
            str(folder),
            config=AutoConfig.for_model(values.pop("model_type"), **values),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise _refused(folder, f"{_WEIGHTS} does not hold the weights of this model")
    network = TransformersNetwork(model, description.preprocessing, {}, [])
    network.use_channels_last(None)
    return network.eval().requires_grad_(False)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' progress bars off the terminal: a file on this machine takes a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refused(folder: Path, problem: str) -> ConfigError:
    return ConfigError("ckpt_path", problem, got=str(folder), remedy=_REMEDY)
