"""model.safetensors: the network's weights, and in the header all that is needed to use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifier.errors import ConfigError
from classifier.export.order import Order
from classifier.export.torch_export import described
from classifier.files import replacing
from classifier.formats import FILES
from classifier.inference.checkpoint import check_no_code
from classifier.inference.description import KEY, Description

FORMAT = "safetensors"


def write(order: Order, folder: Path) -> Description:
    """Write the state_dict of the network, and its architecture as plain data.

    Args:
        order: The model.
        folder: An existing folder.

    Returns:
        What the file carries under image_classifier in the metadata of its header.

    Raises:
        ConfigError: the network is code of the user's own, which a file of weights cannot carry.
    """
    from safetensors.torch import save_file

    spec = order.network.spec
    if spec.get("source") == "module":
        raise ConfigError(
            "--export", "safetensors holds weights alone, and the network is code of your own",
            got=FORMAT, remedy=f"Export to onnx, torch_export or torchscript, which carry what "
            f"{spec['class_path']} does",
        )  # fmt: skip
    check_no_code(spec, folder / FILES[FORMAT])
    plain: dict[str, Any] = json.loads(json.dumps(spec))
    description = replace(described(order), network=plain)
    half = order.description.precision == "fp16"
    weights = {
        name: _own(value.half() if half and value.is_floating_point() else value)
        for name, value in order.network.state_dict().items()
    }
    with replacing(folder / FILES[FORMAT]) as temporary:
        save_file(weights, temporary, metadata={KEY: description.to_json()})
    return description


def _own(value: Tensor) -> Tensor:
    """A copy in memory of its own: weights that several layers share are written for each."""
    return value.detach().clone(memory_format=torch.contiguous_format)
