"""transformers.Trainer with torchvision's transforms, as its image-classification example has it.

python train_transformers.py IMAGES SIZE BATCH_SIZE EPOCHS [options of asked.py]
"""

import torch
from asked import arguments
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
)

given = arguments(__doc__)
size = given.size
ending = [
    v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
    v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]  # fmt: skip
transforms = {
    "train": v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *ending]),
    "val": v2.Compose([v2.Resize(round(size / 0.875)), v2.CenterCrop(size), *ending]),
}
data = {stage: ImageFolder(f"{given.images}/{stage}", transforms[stage]) for stage in transforms}


def collate(samples):
    """A batch as the model takes it."""
    pixels, targets = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(pixels), "labels": torch.tensor(targets)}


def accuracy(answer):
    """Of the validation images."""
    return {"accuracy": float((answer.predictions.argmax(1) == answer.label_ids).mean())}


config = TimmWrapperConfig(architecture=given.model, num_labels=len(data["train"].classes))
settings = TrainingArguments(
    "trained", num_train_epochs=given.epochs, per_device_train_batch_size=given.batch,
    per_device_eval_batch_size=given.batch, learning_rate=1e-3, optim="adamw_torch",
    use_cpu=given.device == "cpu", bf16=given.bf16, eval_strategy="epoch", save_strategy="no",
    logging_strategy="epoch", report_to="none", dataloader_num_workers=given.workers,
    dataloader_persistent_workers=given.workers > 0, remove_unused_columns=False,
    dataloader_pin_memory=given.device == "cuda",
)  # fmt: skip
trainer = Trainer(
    TimmWrapperForImageClassification(config), settings, train_dataset=data["train"],
    eval_dataset=data["val"], data_collator=collate, compute_metrics=accuracy,
)  # fmt: skip
trainer.train()
trainer.save_model("last")
