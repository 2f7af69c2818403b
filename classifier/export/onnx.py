"""ONNX: one file from pixels to probabilities, for every runtime that reads this format."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError, RunError, reason_of
from classifier.export.order import Order
from classifier.files import replacing
from classifier.formats import FILES
from classifier.inference.description import KEY, Description
from classifier.inference.graph import Graph
from classifier.model.network import Network

log = logging.getLogger(__name__)

INPUT, OUTPUT = "images", "probabilities"
# torch's exporter has no operators for opsets below 18, and none of its own for those above 23.
# 20 is what every onnxruntime of the last two years runs with all its fusions, and the first that
# has Gelu. 21 and 22 add no operator that an image classifier needs; 23 brings Attention, which
# older runtimes do not know.
OLDEST_OPSET, DEFAULT_OPSET, NEWEST_OPSET = 18, 20, 23
# Bytes of weights that one file takes: a protobuf message ends at 2 GiB. torch's own limit.
MOST_IN_ONE_FILE = 1536 << 20
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")


def write(order: Order, folder: Path) -> Description:
    """Write model.onnx.

    Its graph normalises, classifies and calibrates. The input `images` is as the description's
    `input` says, the output `probabilities` (N, num_classes) float32; N is any number from 1.
    Weights of more than 1.5 GiB lie in model.onnx.data, which belongs beside the file.

    Args:
        order: With `precision` fp32; fp16, where the network computes in half; or int8, where the
            weights of linear layers (by channel) and of convolutions are kept in 8 bits, and
            activations become integers at run time.
        folder: Exists, and is empty.

    Returns:
        What the file carries.

    Raises:
        ConfigError: an opset that cannot be written, or int8 of a network that is too large.
        RunError: the exporter cannot write this network.
    """
    check_opset(order.opset)
    opset = DEFAULT_OPSET if order.opset is None else order.opset
    large = _bytes_of_weights(order.network) > MOST_IN_ONE_FILE
    precision = order.description.precision
    if precision == "int8" and large:
        raise ConfigError(
            "--precision", "int8 takes networks of up to 1.5 GiB of weights", got=precision,
            remedy="Write fp16",
        )  # fmt: skip
    description = replace(
        order.description, format="onnx", opset=opset,
        software={**order.description.software, **_software(precision)},
    )  # fmt: skip
    file = folder / FILES["onnx"]
    with _without_chatter():
        _export(Graph(_own_copy(order.network, precision), description), file, opset, large)
        if precision == "int8":
            _quantise(file)
    _describe(file, description)
    return description


def check_opset(asked: int | None) -> None:
    """Refuse an opset that cannot be written.

    Args:
        asked: None leaves it to the program.

    Raises:
        ConfigError: with the opsets that can.
    """
    if asked is not None and not OLDEST_OPSET <= asked <= NEWEST_OPSET:
        raise ConfigError(
            "--opset", f"must be from {OLDEST_OPSET} to {NEWEST_OPSET}", got=asked,
            remedy=f"Leave it out for {DEFAULT_OPSET}, which every recent runtime reads",
        )  # fmt: skip


def _bytes_of_weights(network: Network) -> int:
    return sum(value.nbytes for value in network.state_dict().values())


def _own_copy(network: Network, precision: str) -> Network:
    """The network as the file is to have it.

    In the usual memory format, which is ONNX's only one: an exporter imitates any other by steps
    that compute strides.
    """
    own = copy.deepcopy(network).eval()
    own.use_channels_last(False)
    return own.half() if precision == "fp16" else own


def _export(graph: Graph, file: Path, opset: int, large: bool) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        # A fused attention leaves its output in other strides than the plain one by which the
        # exporter replaces it, and a view that fits the one need not fit the other (Swin).
        with sdpa_kernel(SDPBackend.MATH):
            program = torch.onnx.export(
                graph,
                (graph.example(),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # whatever the exporter, or the network's own code, comes upon
        raise RunError(
            f"torch cannot write this network as ONNX ({reason_of(_first_cause(error), 300)}). "
            "Another format may take it: --export torchscript, or safetensors for the weights alone"
        ) from error
    assert program is not None
    program.save(file, external_data=large)
    with _changing(file) as model:
        # They hold paths and source lines of the machine that exported.
        for node in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
            del node.metadata_props[:]
        for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
            del value.metadata_props[:]
        # Shapes in between, which every reader infers, and which quantisation leaves outdated.
        del model.graph.value_info[:]


def _first_cause(error: BaseException) -> BaseException:
    """The exporter's own message is a page on how to report bugs; the reason is below it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _quantise(file: Path) -> None:
    """Bring a file's weights to 8 bits, by onnxruntime.

    Linear layers have signed weights and convolutions unsigned ones: of the other kind the CPU's
    kernels are two to four times slower. Depthwise convolutions stay as they are, for they hold
    few weights, and one scale for all their channels costs accuracy.

    Source: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference (2018),
    https://arxiv.org/abs/1806.08342, for the depthwise ones.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _changing(file) as model:
        # It is: torch has folded what can be folded. onnxruntime would advise it.
        model.metadata_props.add(key=_PREPROCESSED[0], value=_PREPROCESSED[1])
        shapes = {weight.name: weight.dims for weight in model.graph.initializer}
        depthwise = [
            node.name
            for node in model.graph.node
            if node.op_type == "Conv" and shapes.get(node.input[1], [0, 0])[1] == 1
        ]
    for kind, weights in (("MatMul", QuantType.QInt8), ("Conv", QuantType.QUInt8)):
        with replacing(file) as temporary:
            quantize_dynamic(
                file, temporary, op_types_to_quantize=[kind], weight_type=weights,
                per_channel=True, nodes_to_exclude=depthwise,
            )  # fmt: skip


def _describe(file: Path, description: Description) -> None:
    """Put into a file what it carries: whole under our key, and in parts that other tools read."""
    preprocessing = description.preprocessing
    parts = {
        "names": dict(enumerate(description.class_names)),
        "imgsz": preprocessing.size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "task": description.task,
    }
    texts = {name: json.dumps(part, ensure_ascii=False) for name, part in parts.items()}
    with _changing(file) as model:
        del model.metadata_props[:]
        for key, text in {KEY: description.to_json(), **texts}.items():
            model.metadata_props.add(key=key, value=text)


@contextmanager
def _changing(file: Path) -> Iterator[Any]:
    """The onnx.ModelProto of a file, written back afterwards; weights beside it stay there."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    yield model
    with replacing(file) as temporary:
        onnx.save(model, temporary)


def _software(precision: str) -> dict[str, str]:
    import onnx
    import onnxscript
    import torch

    found = {module.__name__: str(module.__version__) for module in (torch, onnx, onnxscript)}
    if precision == "int8":
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
    return found


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep what exporters tell of their own work in the log's lowest level; errors are raised."""
    root, before, silent = logging.getLogger(), logging.root.manager.disable, logging.NullHandler()
    # onnxruntime's quantisation logs by the root logger, which without a handler gets one on stderr
    # for good.
    root.addHandler(silent)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
    for warning in found:
        log.debug("%s: %s", warning.category.__name__, warning.message)
