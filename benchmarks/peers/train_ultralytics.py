"""ultralytics' trainer of classifiers, a subject of measurement, over a ResNet of torchvision.

    python train_ultralytics.py IMAGES SIZE BATCH_SIZE EPOCHS [options of asked.py]

What it would do beyond the work of the others (colours, erasing, plots) is turned off. Its head has
a convolution more than the others'.
"""

import os
from pathlib import Path

os.environ["YOLO_CONFIG_DIR"] = os.getcwd()  # its settings stay where the benchmark is

from asked import arguments
from ultralytics.models.yolo.classify import ClassificationTrainer

CHANNELS = {"resnet18": 512, "resnet50": 2048}  # that the last layer gives

given = arguments(__doc__)
model = Path(f"{given.model}-cls.yaml")
model.write_text(f"""
nc: 1000
backbone: [[-1, 1, TorchVision, [{CHANNELS[given.model]}, {given.model}, null, True, 2]]]
head: [[-1, 1, Classify, [nc]]]
""")
trainer = ClassificationTrainer(
    overrides={
        "model": str(model), "pretrained": False, "data": given.images, "imgsz": given.size,
        "batch": given.batch, "nbs": given.batch, "epochs": given.epochs,
        "device": 0 if given.device == "cuda" else "cpu", "workers": given.workers,
        "optimizer": "AdamW", "lr0": 1e-3, "amp": "bf16" if given.bf16 else False, "plots": False,
        "erasing": 0.0, "auto_augment": None,
        "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "scale": 0.92, "project": "trained",
    }
)  # fmt: skip
trainer.train()
