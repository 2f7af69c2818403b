"""A training here takes the same steps as a plain PyTorch loop over the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F

from classifier import FolderImageDataset, ImageClassifier, ImageDataModule
from tests.conftest import resize


def test_same_weights_as_a_plain_loop(images: Path, config: Any, save: Any) -> None:
    from classifier import main

    config["data"]["init_args"]["augmentations"] = {"train": resize(), "val": resize()}
    config["data"]["init_args"]["val_fraction"] = 0.0
    config["model"]["init_args"]["optimizer_config"] = {"name": "SGD", "lr": 0.1}
    result = main(["--config", save(config)])
    assert result is not None
    file = Path(result.output_dir, "checkpoints/last.ckpt")
    ours = torch.load(file, weights_only=True)["state_dict"]

    L.seed_everything(7, verbose=False)
    model = ImageClassifier("timm/test_resnet", pretrained=False, num_classes=3)
    import albumentations as A

    data = ImageDataModule(
        {"train": FolderImageDataset(str(images / "train"))}, batch_size=8, num_workers=0,
        val_fraction=0.0, augmentations={"train": [A.Resize(32, 32)]}, seed=7,
    )  # fmt: skip
    data.setup("fit")
    model.build(data.class_names)
    data.preprocessing = model.preprocessing
    loader = data.train_dataloader()
    assert model.network is not None
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1)
    model.train()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            optimizer.zero_grad()
            loss: Any = F.cross_entropy(model(batch.images), batch.targets)
            loss.backward()
            optimizer.step()
    theirs = model.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
