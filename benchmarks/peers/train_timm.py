"""A plain PyTorch loop over timm's model, data set, transforms and loader.

python train_timm.py IMAGES SIZE BATCH_SIZE EPOCHS
"""

import sys
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_loader
from torch.nn.functional import cross_entropy

images, *numbers = sys.argv[1:]
size, batch, epochs = map(int, numbers)
shared = {"num_workers": 1, "use_prefetcher": False, "device": torch.device("cpu")}
loader, validation = (
    create_loader(
        create_dataset("", root=f"{images}/{stage}"), (3, size, size), batch,
        is_training=stage == "train", interpolation="bilinear", color_jitter=None, **shared,
    )
    for stage in ("train", "val")
)  # fmt: skip
classes = len(list(Path(images, "train").iterdir()))
model = timm.create_model("resnet18", num_classes=classes).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(epochs):
    model.train()
    for inputs, targets in loader:
        loss = cross_entropy(model(inputs.contiguous(memory_format=torch.channels_last)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    right = 0
    with torch.inference_mode():
        for inputs, targets in validation:
            logits = model(inputs.contiguous(memory_format=torch.channels_last))
            right += int((logits.argmax(1) == targets).sum())
    print(right / len(validation.dataset), flush=True)
torch.save(model.state_dict(), "last.pt")
