"""model.torchscript: the whole model as TorchScript, for runtimes that know nothing newer."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifier.errors import RunError, reason_of
from classifier.export.order import Order
from classifier.export.torch_export import described, graph_of
from classifier.files import replacing
from classifier.formats import FILES
from classifier.inference.description import Description
from classifier.inference.exported_archive import EXTRA
from classifier.inference.exported_route import quiet
from classifier.inference.graph import Graph

FORMAT = "torchscript"


def write(order: Order, folder: Path) -> Description:
    """Write the model with a batch of any size.

    Args:
        order: The model.
        folder: An existing folder.

    Returns:
        What the file carries as its extra file image_classifier.json.

    Raises:
        RunError: the network cannot be traced, or its trace holds for one size of batch alone.
    """
    description = described(order)
    graph = graph_of(order)
    whole = io.BytesIO()
    with quiet(), torch.no_grad():
        try:
            traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                graph, (graph.example(),), check_trace=False
            )
            _check(traced, graph)
        except Exception as error:
            # Of the tracer, of the interpreter, of the network itself: nothing in common.
            raise RunError(
                f"the network cannot be traced to TorchScript ({reason_of(error, 300)}). "
                "Use another format: onnx, torch_export or safetensors"
            ) from error
        torch.jit.save(traced, whole, _extra_files={EXTRA: description.to_json()})
    with replacing(folder / FILES[FORMAT]) as temporary:
        _copy_what_is_needed(whole, temporary)
    return description


def _check(traced: Callable[[Tensor], Tensor], graph: Graph) -> None:
    """A trace keeps what it saw as constants; other sizes of batch tell whether one was theirs.

    Raises:
        ValueError: the trace answers otherwise than what was traced.
    """
    example = graph.example()
    random = torch.Generator().manual_seed(0)
    for number in (1, 3):
        images = torch.rand((number, *example.shape[1:]), generator=random)
        images = images if example.is_floating_point() else (images * 255).to(example.dtype)
        if not torch.allclose(traced(images), graph(images), atol=1e-4):
            raise ValueError(f"the trace answers otherwise for {number} images than for two")


def _copy_what_is_needed(whole: io.BytesIO, target: Path) -> None:
    """Leave out the example, and where in the source code a node came from.

    The latter are paths of the machine that exported.
    """
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            inner = entry.filename.partition("/")[2]
            if not inner.startswith("traced_inputs") and not inner.endswith(".debug_pkl"):
                copy.writestr(entry.filename, source.read(entry))
