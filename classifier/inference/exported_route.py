"""Graphs in torch's own formats: torch.export, and TorchScript for older runtimes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from classifier.errors import ConfigError, reason_of
from classifier.inference.description import UINT8, Description, read_description
from classifier.inference.exported_archive import check_exported, check_script
from classifier.inference.route import Probabilities
from classifier.inference.weights_route import as_tensor
from classifier.preprocessing import Pixels


class ExportedRoute:
    """A graph, on the CPU. Several threads may use one at the same time.

    Args:
        graph: From images, as the description's `input` says, to probabilities.
        description: Of the file that it came from.
    """

    def __init__(self, graph: Callable[[Tensor], Tensor], description: Description) -> None:
        self.graph = graph
        self.description = description

    def probabilities(self, images: Pixels) -> Probabilities:
        """What the model says of prepared images.

        Args:
            images: (N, height, width, 3) uint8, N >= 1.

        Returns:
            (N, num_classes) float32.
        """
        pixels = as_tensor(images)
        with torch.inference_mode():
            if self.description.input != UINT8:
                pixels = pixels.permute(0, 3, 1, 2).float() / 255
            answers = self.graph(pixels)
        found: Probabilities = answers.float().numpy()
        return found


def open_exported(file: Path, format: str) -> ExportedRoute:
    """Open a graph. Nothing in it is run as Python code: see `exported_archive`.

    Args:
        file: As `--export torch_export` or `--export torchscript` wrote it.
        format: torch_export or torchscript.

    Raises:
        ConfigError: damaged, of another program, of a torch that this one does not read, or with
            anything in it that could be code.
    """
    check = check_script if format == "torchscript" else check_exported
    checked = check(file.read_bytes(), file)
    description = read_description(checked.description, file)
    load = _script if format == "torchscript" else _exported
    try:
        graph = load(checked.archive)
    except Exception as error:
        # Of the deserialiser, of the compiler of TorchScript, of assertions: they have no class in
        # common, and the file is as this program wrote it, so that only the version is left.
        raise ConfigError(
            "ckpt_path", f"torch {torch.__version__} cannot read the file, which was written by "
            f"torch {description.software.get('torch', 'unknown')} ({reason_of(error, 200)})",
            got=str(file), remedy="Export the model once more with this version",
        ) from error  # fmt: skip
    return ExportedRoute(graph, description)


def _exported(archive: bytes) -> Callable[[Tensor], Tensor]:
    # Its guards compare the sizes of an input, with messages of their own.
    graph: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(archive)).module()
    return graph


def _script(archive: bytes) -> Callable[[Tensor], Tensor]:
    with quiet():
        graph: Callable[[Tensor], Tensor] = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(archive), map_location="cpu"
        ).eval()
    return graph


@contextmanager
def quiet() -> Iterator[None]:
    """Let torch say nothing of what is known of TorchScript."""
    with warnings.catch_warnings():
        # It is deprecated in favour of torch.export, which is the other format.
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=category)
        # The tracer looks at every attribute of a module, those that are deprecated, too.
        warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing")
        # Conditions on sizes become constants, which batches of other sizes put to the test.
        warnings.filterwarnings(
            "ignore",
            category=torch.jit.TracerWarning,  # type: ignore[attr-defined]
        )
        yield
