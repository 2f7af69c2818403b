"""transformers.Trainer with torchvision's transforms, as its image-classification example has it.

python train_transformers.py IMAGES SIZE BATCH_SIZE EPOCHS
"""

import sys

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

images, *numbers = sys.argv[1:]
size, batch, epochs = map(int, numbers)
ending = [
    v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
    v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]  # fmt: skip
transforms = {
    "train": v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *ending]),
    "val": v2.Compose([v2.Resize(round(size / 0.875)), v2.CenterCrop(size), *ending]),
}
data = {stage: ImageFolder(f"{images}/{stage}", transforms[stage]) for stage in transforms}


def collate(samples):
    """A batch as the model takes it."""
    pixels, targets = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(pixels), "labels": torch.tensor(targets)}


def accuracy(answer):
    """Of the validation images."""
    return {"accuracy": float((answer.predictions.argmax(1) == answer.label_ids).mean())}


config = ResNetConfig(
    embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
    num_labels=len(data["train"].classes),
)  # fmt: skip
arguments = TrainingArguments(
    "trained", num_train_epochs=epochs, per_device_train_batch_size=batch,
    per_device_eval_batch_size=batch, learning_rate=1e-3, optim="adamw_torch", use_cpu=True,
    eval_strategy="epoch", save_strategy="no", logging_strategy="epoch", report_to="none",
    dataloader_num_workers=1, dataloader_persistent_workers=True, remove_unused_columns=False,
)  # fmt: skip
trainer = Trainer(
    ResNetForImageClassification(config), arguments, train_dataset=data["train"],
    eval_dataset=data["val"], data_collator=collate, compute_metrics=accuracy,
)  # fmt: skip
trainer.train()
trainer.save_model("last")
