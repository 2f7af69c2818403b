"""What a model's file carries besides its weights: everything that its answers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError, reason_of
from classifier.inference.claims import check_claims
from classifier.model.tasks import MULTILABEL
from classifier.preprocessing import Preprocessing

# The key of the JSON text in a file's own metadata, and of nothing else.
KEY = "image_classifier"
VERSION = 1
UINT8, FLOAT = "uint8", "float"


@dataclass(frozen=True)
class Description:
    """How images go into a model, and what comes out of it.

    Args:
        format: checkpoint, onnx, torch_export, torchscript, huggingface or safetensors.
        class_names: In the order of the probabilities.
        task: multiclass (probabilities add up to 1) or multilabel (they do not).
        preprocessing: From RGB pixels to what the network sees.
        background: What shows through where an image is transparent: (R, G, B), 0 to 255.
        temperature: By which logits are divided before they become probabilities; above 0.
        thresholds: In multilabel the probability in (0, 1), for every class, from which on an image
            has it; of two exclusive classes one number, for the class `positive`; else None.
        positive: Of two exclusive classes the index of the one that the threshold is for.
        input: Of a graph that normalises: uint8 (N, H, W, 3), or float (N, 3, H, W) in [0, 1].
        precision: fp32, fp16 or int8: what the weights are kept in.
        opset: Of an ONNX file; else None.
        network: Plain data from which the architecture is rebuilt, where a file holds weights
            alone; else empty.
        software: Name -> version of the libraries that wrote the file.
    """

    format: str
    class_names: list[str]
    task: str
    preprocessing: Preprocessing
    background: tuple[int, int, int] = (255, 255, 255)
    temperature: float = 1.0
    thresholds: list[float] | None = None
    positive: int | None = None
    input: str = UINT8
    precision: str = "fp32"
    opset: int | None = None
    network: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether an image may have any number of classes."""
        return self.task == MULTILABEL

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        plain = {"version": VERSION, **asdict(self)}
        return {**plain, "preprocessing": self.preprocessing.to_dict()}

    def to_json(self) -> str:
        """As text, for a file's metadata."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Description:
        """The inverse of `to_dict`.

        Raises:
            ValueError: of a later version of this program, or nothing that it could have written;
                says what is wrong.
        """
        if not isinstance(values, Mapping):
            raise ValueError("it is no mapping")
        plain = dict(values)
        if plain.pop("version", None) != VERSION:
            raise ValueError("written by another version of this program")
        check_claims(plain, (UINT8, FLOAT))
        preprocessing = Preprocessing.from_dict(plain.pop("preprocessing"))
        background = tuple(plain.pop("background"))
        return cls(**plain, preprocessing=preprocessing, background=background)

    @classmethod
    def from_json(cls, text: str) -> Description:
        """The inverse of `to_json`.

        Raises:
            ValueError: as `from_dict` does, or no JSON.
        """
        try:
            return cls.from_dict(json.loads(text))
        except RecursionError as error:  # of thousands of brackets
            raise ValueError("its values lie too deep in each other") from error


def read_description(carried: str | Mapping[str, Any], file: Path) -> Description:
    """The description that a file carries.

    Args:
        carried: JSON as `Description.to_json` wrote it, or the mapping of `Description.to_dict`.
        file: The file or folder, for the message.

    Raises:
        ConfigError: it is of another version of this program, or none at all.
    """
    try:
        if isinstance(carried, str):
            return Description.from_json(carried)
        return Description.from_dict(carried)
    except ValueError as error:
        raise ConfigError(
            "ckpt_path", f"what it says of its model cannot be read ({reason_of(error, 300)})",
            got=str(file), remedy="Export the checkpoint anew with this version",
        ) from error  # fmt: skip
