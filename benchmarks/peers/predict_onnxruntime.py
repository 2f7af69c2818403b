"""A folder of images to a CSV file by onnxruntime and Pillow, as it is written by hand.

python predict_onnxruntime.py FOLDER CSV MODEL [BATCH_SIZE]        (default: 16)
"""

import csv
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def read(file: Path) -> np.ndarray:
    """Shorter side to 236 pixels, the 224 in its middle, normalised, (3, 224, 224) float32."""
    with Image.open(file) as image:
        factor = 236 / min(image.size)
        size = round(image.width * factor), round(image.height * factor)
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)


folder, table, model, *more = sys.argv[1:]
batch = int(more[0]) if more else 16
files = sorted(Path(folder).iterdir())
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
with open(table, "w", newline="") as stream:
    writer = csv.writer(stream)
    for start in range(0, len(files), batch):
        some = files[start : start + batch]
        (logits,) = session.run(None, {name: np.stack([read(file) for file in some])})
        odds = np.exp(logits - logits.max(1, keepdims=True))
        for file, row in zip(some, odds / odds.sum(1, keepdims=True), strict=True):
            order = row.argsort()[::-1]
            writer.writerow([file.name, *(cell for i in order for cell in (i, row[i]))])
