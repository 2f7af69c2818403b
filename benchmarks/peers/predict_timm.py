"""A folder of images to a CSV file by timm, as its own inference.py does it.

    python predict_timm.py FOLDER CSV [--amp] [--batch_size 256] [--workers 2] [--model resnet18]
    [--size 224] [--device cpu]

The defaults are those of inference.py, but for the device; `--amp` is bfloat16.
"""

import argparse
import contextlib

import numpy as np
import pandas as pd
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("csv")
parser.add_argument("--amp", action="store_true")
parser.add_argument("--batch_size", type=int, default=256)
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--model", default="resnet18")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--device", default="cpu")
given = parser.parse_args()

device = torch.device(given.device)
model = create_model(given.model, pretrained=False, num_classes=4).eval().to(device)
config = resolve_data_config({"input_size": (3, given.size, given.size)}, model=model)
loader = create_loader(
    create_dataset("", root=given.folder), batch_size=given.batch_size, num_workers=given.workers,
    device=device, use_prefetcher=True, pin_memory=device.type == "cuda", **config,
)  # fmt: skip
amp = torch.autocast(device.type, torch.bfloat16) if given.amp else contextlib.nullcontext()
found = []
with torch.inference_mode():
    for images, _ in loader:
        with amp:
            logits = model(images)
        found.append(logits.float().softmax(-1).topk(4))
probabilities = np.concatenate([values.cpu().numpy() for values, _ in found])
indices = np.concatenate([order.cpu().numpy() for _, order in found])
names = loader.dataset.filenames(basename=True)
table = {"filename": names, "index": list(indices), "prob": list(probabilities)}
pd.DataFrame(table).to_csv(given.csv, index=False)
