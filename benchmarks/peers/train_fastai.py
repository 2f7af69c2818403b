"""fastai's Learner over timm's resnet18.

python train_fastai.py IMAGES SIZE BATCH_SIZE EPOCHS
"""

import sys

import timm
import torch
from fastai.vision.all import (
    Adam,
    CrossEntropyLossFlat,
    Flip,
    ImageDataLoaders,
    Learner,
    Normalize,
    RandomResizedCrop,
    accuracy,
    imagenet_stats,
)

images, *numbers = sys.argv[1:]
size, batch, epochs = map(int, numbers)
data = ImageDataLoaders.from_folder(
    images, train="train", valid="val", item_tfms=RandomResizedCrop(size, min_scale=0.08),
    batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)], bs=batch, val_bs=batch,
    num_workers=1, device=torch.device("cpu"),
)  # fmt: skip
model = timm.create_model("resnet18", num_classes=data.c)
learner = Learner(
    data, model, loss_func=CrossEntropyLossFlat(), opt_func=Adam, lr=1e-3, metrics=accuracy,
    path=".", model_dir=".",
)  # fmt: skip
learner.fit(epochs)
learner.save("last")
