"""A plain PyTorch loop over timm's model, data set, transforms and loader.

    python train_timm.py IMAGES SIZE BATCH_SIZE EPOCHS [options of asked.py]

On a GPU timm's loader copies pinned batches ahead, and normalises them there.
"""

from pathlib import Path

import timm
import torch
from asked import arguments
from timm.data import create_dataset, create_loader
from torch.nn.functional import cross_entropy

given = arguments(__doc__)
device, on_gpu = torch.device(given.device), given.device == "cuda"
memory = torch.channels_last if given.tuned else torch.contiguous_format
shared = {
    "num_workers": given.workers, "use_prefetcher": on_gpu, "pin_memory": on_gpu, "device": device,
}  # fmt: skip
loader, validation = (
    create_loader(
        create_dataset("", root=f"{given.images}/{stage}"), (3, given.size, given.size),
        given.batch, is_training=stage == "train", interpolation="bilinear", color_jitter=None,
        **shared,
    )
    for stage in ("train", "val")
)  # fmt: skip
classes = len(list(Path(given.images, "train").iterdir()))
model = timm.create_model(given.model, num_classes=classes).to(device, memory_format=memory)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=given.tuned or None)


def logits_of(images: torch.Tensor) -> torch.Tensor:
    """Of a batch, which is on the device already where timm's loader copies it."""
    with torch.autocast(device.type, torch.bfloat16, enabled=given.bf16):
        return model(images.contiguous(memory_format=memory)).float()


for _ in range(given.epochs):
    model.train()
    for inputs, targets in loader:
        loss = cross_entropy(logits_of(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    right = torch.zeros((), device=device)
    with torch.inference_mode():
        for inputs, targets in validation:
            right += (logits_of(inputs).argmax(1) == targets).sum()
    print(float(right) / len(validation.dataset), flush=True)
torch.save(model.state_dict(), "last.pt")
