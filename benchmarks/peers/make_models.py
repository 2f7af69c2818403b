"""A model with random weights for the peers: a transformers folder and a plain ONNX file.

    python make_models.py TRANSFORMERS_FOLDER ONNX_FILE [MODEL]

MODEL is resnet18, resnet50 or vit_base_patch16_224, as timm calls them.
"""

import sys

import timm
import torch
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

folder, file, *more = sys.argv[1:]
name = more[0] if more else "resnet18"
if name == "vit_base_patch16_224":
    theirs = ViTForImageClassification(ViTConfig(num_labels=4))
    processor = ViTImageProcessor()
else:
    small = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    shape = {"resnet18": small, "resnet50": {}}[name]
    theirs = ResNetForImageClassification(ResNetConfig(num_labels=4, **shape))
    processor = ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.95)
theirs.save_pretrained(folder)
processor.save_pretrained(folder)
model = timm.create_model(name, pretrained=False, num_classes=4).eval()
torch.onnx.export(
    model, (torch.zeros(2, 3, 224, 224),), file, input_names=["images"], verbose=False,
    dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
)  # fmt: skip
