"""A resnet18 with random weights for the peers: a transformers folder and a plain ONNX file.

python make_models.py TRANSFORMERS_FOLDER ONNX_FILE
"""

import sys

import timm
import torch
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

folder, file = sys.argv[1:]
config = ResNetConfig(
    embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
    num_labels=4,
)  # fmt: skip
ResNetForImageClassification(config).save_pretrained(folder)
ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.95).save_pretrained(folder)
model = timm.create_model("resnet18", pretrained=False, num_classes=4).eval()
torch.onnx.export(
    model, (torch.zeros(2, 3, 224, 224),), file, input_names=["images"], verbose=False,
    dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
)  # fmt: skip
