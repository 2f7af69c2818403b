"""ONNX files in onnxruntime, which with numpy is all that they need: neither torch nor onnx."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import ConfigError, reason_of
from classifier.inference.description import FLOAT, KEY, Description, read_description
from classifier.preprocessing import Pixels

_KEY = "ckpt_path"
_CUDA = "CUDAExecutionProvider"
_TYPES = {"uint8": "tensor(uint8)", "float": "tensor(float)"}
# What its messages say before they come to the point: a status, and C++ signatures.
_PREAMBLE = re.compile(r"^.*(?:\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/.*&[^()]*\) )")
# Errors come as exceptions; at lower levels onnxruntime writes them to stderr as well.
_FATAL = 4


class OnnxRoute:
    """A model in onnxruntime. Several threads may call it at the same time.

    Args:
        session: An onnxruntime.InferenceSession of one input and one output.
        description: What the file carries.
    """

    def __init__(self, session: Any, description: Description) -> None:
        self.description = description
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def probabilities(self, images: Pixels) -> NDArray[np.float32]:
        """What the model says of prepared images.

        Args:
            images: (N, height, width, 3) uint8, as `Preprocessing.prepare` gives them, N >= 1.

        Returns:
            (N, num_classes) float32.
        """
        given: NDArray[Any] = images
        if self.description.input == FLOAT:
            given = images.transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
        found: NDArray[np.float32] = self._session.run([self._output], {self._input: given})[0]
        return found


def open_onnx(file: Path) -> OnnxRoute:
    """Open an ONNX file that this program wrote.

    It runs on CUDA where the installed onnxruntime has it, else on the CPU, with a thread for each
    core or as many as OMP_NUM_THREADS says.

    Args:
        file: model.onnx; what lies beside it as model.onnx.data belongs to it.

    Raises:
        ConfigError: no ONNX file, a damaged one, one of another program or of a later version of
            this one, or onnxruntime is not installed or too old.
    """
    session = _session(file)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise ConfigError(
            _KEY, "the ONNX file was not written by this program, and says nothing of its classes "
            "and its preprocessing", got=str(file), remedy="Give a file of --export onnx",
        )  # fmt: skip
    description = read_description(text, file)
    _check_fits(file, session, description)
    return OnnxRoute(session, description)


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            _KEY, "onnxruntime, which runs ONNX files, is not installed", got=str(file),
            remedy="Run: pip install onnxruntime",
        ) from error  # fmt: skip
    if not file.is_file():
        raise ConfigError(_KEY, "there is no such file", got=str(file))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = _num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    if _CUDA in onnxruntime.get_available_providers():
        # TF32 would cost the agreement with the checkpoint to 1e-4; fp16 is the faster way.
        providers.insert(0, (_CUDA, {"use_tf32": "0"}))
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # its errors have no class in common
        raise _unusable(file, error, onnxruntime.__version__) from error


def _unusable(file: Path, error: Exception, version: str) -> ConfigError:
    reason = _PREAMBLE.sub("", reason_of(error, 2000))[:300]
    if type(error).__name__ == "InvalidProtobuf" or "No graph was found" in reason:
        return ConfigError(
            _KEY, "the file is damaged, or no ONNX file", got=str(file),
            remedy="Copy it again from where it was exported, or export the checkpoint anew",
        )  # fmt: skip
    return ConfigError(
        _KEY, f"onnxruntime {version} cannot open the file ({reason})", got=str(file),
        remedy="Copy it again with all files beside it, install a newer onnxruntime, or export the "
        "checkpoint anew",
    )  # fmt: skip


def _check_fits(file: Path, session: Any, description: Description) -> None:
    """Refuse a file whose graph is not the one that it describes."""
    height, width = description.preprocessing.size
    of_image = [3, height, width] if description.input == FLOAT else [height, width, 3]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    fits = (
        len(inputs) == len(outputs) == 1
        and inputs[0].type == _TYPES.get(description.input)
        and inputs[0].shape[1:] == of_image
        and outputs[0].shape[1:] == [len(description.class_names)]
    )
    if not fits:
        raise ConfigError(
            _KEY, "the graph of the ONNX file is not the one that it describes", got=str(file),
            remedy="Export the checkpoint anew",
        )  # fmt: skip


def _num_threads() -> int:
    """As the environment limits them; 0 is onnxruntime's own choice, one for each core.

    onnxruntime does not look at OMP_NUM_THREADS itself, by which users and clusters limit numpy and
    torch.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(first) if first.isdecimal() else 0
