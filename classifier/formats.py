"""The formats of --export, and what its files are called. Imports nothing."""

from __future__ import annotations

# Format -> name of its file in the folder of an export; of huggingface the folder is the model.
FILES = {
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
    "torchscript": "model.torchscript",
    "huggingface": "",
    "safetensors": "model.safetensors",
}
# What is told of an export, beside its file.
RECORD = "export.json"
