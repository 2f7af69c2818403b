"""A network rebuilt from its description, with the weights of a checkpoint or of safetensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from classifier.checkpoints import load_checkpoint
from classifier.errors import ConfigError
from classifier.inference.checkpoint import describe, rebuild, with_weights
from classifier.inference.description import KEY, UINT8, Description, read_description
from classifier.inference.graph import Graph
from classifier.inference.route import Probabilities
from classifier.model.network import Network
from classifier.preprocessing import Pixels

AUTO = "auto"
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class WeightsRoute:
    """A network in torch. Several threads may use one at the same time.

    Args:
        network: In eval mode, in float32.
        description: Of the file that it came from.
        device: auto (cuda, else mps, else cpu), or any device of torch.
        precision: fp32, bf16 or fp16: what torch's autocast computes in; weights stay in float32.
        compile: Whether torch.compile makes the network faster. The first batch waits for it, and
            the first one of another size once more.

    Raises:
        ConfigError: no such device or precision.
    """

    def __init__(
        self,
        network: Network,
        description: Description,
        device: str = AUTO,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                "precision", "must be fp32, bf16 or fp16", got=precision,
                name=str(precision), options=PRECISIONS,
            )  # fmt: skip
        self.description = description
        self.device = _device(device)
        self.precision = precision
        # A file may be written with another input; pixels come to every route in the same form.
        as_pixels = replace(description, input=UINT8)
        self.graph = Graph(network, as_pixels).to(self.device)
        if compile:
            network.compile()

    def probabilities(self, images: Pixels) -> Probabilities:
        """What the model says of prepared images.

        Args:
            images: (N, height, width, 3) uint8, N >= 1.

        Returns:
            (N, num_classes) float32.
        """
        with torch.inference_mode(), self._autocast():
            answers: Tensor = self.graph(as_tensor(images).to(self.device))
        found: Probabilities = answers.float().cpu().numpy()
        return found

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = PRECISIONS[self.precision]
        if dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype)


def open_checkpoint(
    file: Path, device: str = AUTO, precision: str = "fp32", compile: bool = False
) -> WeightsRoute:
    """Open a checkpoint, without Lightning.

    Args:
        file: A .ckpt file of this program.
        device: As `WeightsRoute` has it.
        precision: As `WeightsRoute` has it.
        compile: As `WeightsRoute` has it.

    Raises:
        ConfigError: no checkpoint, a damaged one, or one that only a whole command can use, because
            its model, data module, transforms or network are code of the user's own.
    """
    checkpoint = load_checkpoint(file)
    description = describe(checkpoint, file)
    return WeightsRoute(rebuild(checkpoint, file), description, device, precision, compile)


def open_weights(
    file: Path, device: str = AUTO, precision: str = "fp32", compile: bool = False
) -> WeightsRoute:
    """Open weights in safetensors that `--export safetensors` wrote.

    Args:
        file: The file. Its weights may be in half precision; they are used in float32.
        device: As `WeightsRoute` has it.
        precision: As `WeightsRoute` has it.
        compile: As `WeightsRoute` has it.

    Raises:
        ConfigError: a damaged file, one of another program, or a network of the user's own.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as stored:
            written = (stored.metadata() or {}).get(KEY)
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            "ckpt_path", f"the file is damaged, or is no safetensors file ({error})", got=str(file),
            remedy="Export the model once more",
        ) from error  # fmt: skip
    if written is None:
        raise ConfigError(
            "ckpt_path", "the file holds weights of another program", got=str(file),
            remedy="Give a file that --export safetensors wrote",
        )  # fmt: skip
    description = read_description(written, file)
    full = {
        name: value.float() if value.is_floating_point() else value
        for name, value in weights.items()
    }
    num_classes = len(description.class_names)
    network = with_weights(description.network, num_classes, full, file)
    return WeightsRoute(network, description, device, precision, compile)


def as_tensor(images: Pixels) -> Tensor:
    """The same memory as a tensor; torch takes no array that it must not write to.

    Args:
        images: Of any shape.
    """
    return torch.from_numpy(images if images.flags.writeable else images.copy())


def _device(name: str) -> torch.device:
    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            "device", "torch has no such device here", got=name, remedy="Write auto or cpu"
        ) from error
    return device
