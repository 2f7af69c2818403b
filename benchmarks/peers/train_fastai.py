"""fastai's Learner over a model of timm.

python train_fastai.py IMAGES SIZE BATCH_SIZE EPOCHS [options of asked.py]
"""

import timm
import torch
from asked import arguments
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

given = arguments(__doc__)
data = ImageDataLoaders.from_folder(
    given.images, train="train", valid="val",
    item_tfms=RandomResizedCrop(given.size, min_scale=0.08),
    batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)], bs=given.batch, val_bs=given.batch,
    num_workers=given.workers, device=torch.device(given.device), pin_memory=given.device == "cuda",
)  # fmt: skip
model = timm.create_model(given.model, num_classes=data.c)
learner = Learner(
    data, model, loss_func=CrossEntropyLossFlat(), opt_func=Adam, lr=1e-3, metrics=accuracy,
    path=".", model_dir=".",
)  # fmt: skip
if given.bf16:
    learner.to_bf16()
learner.fit(given.epochs)
learner.save("last")
