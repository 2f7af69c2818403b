"""model.pt2: the whole model as a graph of torch.export, for torch without this program."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import fx

from classifier.errors import RunError, reason_of
from classifier.export.order import Order
from classifier.files import replacing
from classifier.formats import FILES
from classifier.inference.description import Description
from classifier.inference.exported_archive import EXTRA
from classifier.inference.graph import Graph

FORMAT = "torch_export"


def graph_of(order: Order) -> Graph:
    """The whole model in the precision that is asked for, with weights in memory of their own.

    torch writes the bytes of a weight as they lie; views, and weights in channels_last, are for
    memory. The images still go through in the memory format of the network.

    Args:
        order: Whose network stays as it is.
    """
    network = copy.deepcopy(order.network)
    if order.description.precision == "fp16":
        network.half()
    for value in (*network.parameters(), *network.buffers()):
        value.data = value.detach().clone(memory_format=torch.contiguous_format)
    return Graph(network, order.description).requires_grad_(False)


def described(order: Order) -> Description:
    """What a file that torch writes carries."""
    software = {**order.description.software, "torch": str(torch.__version__)}
    return replace(order.description, software=software)


def write(order: Order, folder: Path) -> Description:
    """Write the model with a batch of any size.

    Args:
        order: The model.
        folder: An existing folder.

    Returns:
        What the file carries as its extra file image_classifier.json.

    Raises:
        RunError: torch cannot follow what the network does.
    """
    description = described(order)
    graph = graph_of(order)
    sizes = {0: torch.export.Dim("batch", min=1)}
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (graph.example(),), dynamic_shapes=(sizes,))
    except Exception as error:
        # Of dynamo, of the symbolic sizes, of the network itself: they have no class in common.
        raise RunError(
            f"torch.export cannot write this network ({reason_of(error, 300)}). "
            "Use another format: onnx, torchscript or safetensors"
        ) from error
    _forget_sources(program)
    program.example_inputs = None
    with replacing(folder / FILES[FORMAT]) as temporary, temporary.open("wb") as stream:
        torch.export.save(program, stream, extra_files={EXTRA: description.to_json()})
    return description


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Leave out where in the source code a node came from: paths of the machine that exported."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
                    node.meta.pop(key, None)
