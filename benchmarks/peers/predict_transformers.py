"""A folder of images to a CSV file by transformers.pipeline.

python predict_transformers.py FOLDER CSV MODEL_FOLDER [BATCH_SIZE] [--bf16] [--device cuda]
"""

import argparse
import csv
from pathlib import Path

import torch
from transformers import pipeline

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("csv")
parser.add_argument("model")
parser.add_argument("batch", type=int, nargs="?", default=1)
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--device", default="cpu")
given = parser.parse_args()

files = sorted(map(str, Path(given.folder).iterdir()))
classify = pipeline(
    "image-classification", model=given.model, device=given.device,
    dtype=torch.bfloat16 if given.bf16 else torch.float32,
)  # fmt: skip
found = classify(files, batch_size=given.batch, top_k=4)
with open(given.csv, "w", newline="") as stream:
    writer = csv.writer(stream)
    for file, answers in zip(files, found, strict=True):
        cells = [cell for answer in answers for cell in (answer["label"], answer["score"])]
        writer.writerow([Path(file).name, *cells])
