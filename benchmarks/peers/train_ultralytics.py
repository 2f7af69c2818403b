"""ultralytics' trainer of classifiers, a subject of measurement, over torchvision's resnet18.

    python train_ultralytics.py IMAGES SIZE BATCH_SIZE EPOCHS

What it would do beyond the work of the others (colours, erasing, plots) is turned off. Its head has
a convolution more than the others'.
"""

import os
import sys
from pathlib import Path

os.environ["YOLO_CONFIG_DIR"] = os.getcwd()  # its settings stay where the benchmark is

from ultralytics.models.yolo.classify import ClassificationTrainer

images, *numbers = sys.argv[1:]
size, batch, epochs = map(int, numbers)
model = Path("resnet18-cls.yaml")
model.write_text("""
nc: 1000
backbone: [[-1, 1, TorchVision, [512, resnet18, null, True, 2]]]
head: [[-1, 1, Classify, [nc]]]
""")
trainer = ClassificationTrainer(
    overrides={
        "model": str(model), "pretrained": False, "data": images, "imgsz": size, "batch": batch,
        "nbs": batch, "epochs": epochs, "device": "cpu", "workers": 1, "optimizer": "AdamW",
        "lr0": 1e-3, "amp": False, "plots": False, "erasing": 0.0, "auto_augment": None,
        "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "scale": 0.92, "project": "trained",
    }
)  # fmt: skip
trainer.train()
