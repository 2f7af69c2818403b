"""What a writer of an export is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classifier.inference.description import Description
from classifier.model.network import Network


@dataclass(frozen=True)
class Order:
    """A model to be written in some format.

    Args:
        network: In eval mode, on the CPU, in float32; adapters of LoRA are merged.
        description: What the file is to carry; its `format`, `input` and `precision` are settled.
        checkpoint: From which the network came, as it was read.
        opset: Of an ONNX file; None is the newest that is well supported.
        card: The text of a model card, README.md.
    """

    network: Network
    description: Description
    checkpoint: Mapping[str, Any]
    opset: int | None = None
    card: str = ""
