"""A folder of images to a CSV file by transformers.pipeline.

python predict_transformers.py FOLDER CSV MODEL_FOLDER [BATCH_SIZE]        (default: 1)
"""

import csv
import sys
from pathlib import Path

from transformers import pipeline

folder, table, model, *more = sys.argv[1:]
files = sorted(map(str, Path(folder).iterdir()))
classify = pipeline("image-classification", model=model, device="cpu")
found = classify(files, batch_size=int(more[0]) if more else 1, top_k=4)
with open(table, "w", newline="") as stream:
    writer = csv.writer(stream)
    for file, answers in zip(files, found, strict=True):
        cells = [cell for answer in answers for cell in (answer["label"], answer["score"])]
        writer.writerow([Path(file).name, *cells])
