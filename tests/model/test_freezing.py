from __future__ import annotations

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from classifier import ImageClassifier
from classifier.errors import ConfigError
from classifier.model.freezing import num_frozen_groups

NAMES = [
    "resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "mobilenetv3_small_100",
    "convnext_atto", "swin_tiny_patch4_window7_224", "vgg11_bn", "inception_v3",
    "deit_tiny_distilled_patch16_224", "mobilenetv2_100",
]  # fmt: skip


def built(name: str, freeze: bool | float = False, num_classes: int = 3) -> ImageClassifier:
    model = ImageClassifier(
        f"timm/{name}", pretrained=False, num_classes=num_classes, freeze_encoder=freeze
    )
    model.build()
    return model


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 200))
def test_fraction_is_monotone_and_bounded(a: float, b: float, groups: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= num_frozen_groups(low, groups) <= num_frozen_groups(high, groups) <= groups
    assert num_frozen_groups(False, groups) == 0
    assert num_frozen_groups(True, groups) == groups


@pytest.mark.parametrize("fraction", [-0.1, 1.01, 2])
def test_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"a fraction in \[0, 1\]"):
        num_frozen_groups(fraction, 3)


@pytest.mark.parametrize("name", NAMES)
def test_groups_and_head_are_a_partition_of_the_parameters(name: str) -> None:
    network = built(name).network
    assert network is not None
    groups = network.layer_groups()
    grouped = [parameter for group in groups for parameter in group.parameters]
    assert len(grouped) == len(set(grouped))
    head = {n for n, _ in network.named_parameters()} - set(grouped)
    assert head
    assert all("head" in n or "fc" in n or "classifier" in n for n in head)
    assert len(groups) >= 5


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_first_groups_are_frozen_and_the_head_never(fraction: float) -> None:
    model = built("resnet18", fraction)
    assert model.network is not None
    groups = model.network.layer_groups()
    trainable = {n for n, p in model.network.named_parameters() if p.requires_grad}
    frozen = num_frozen_groups(fraction, len(groups))
    for index, group in enumerate(groups):
        assert all((name in trainable) == (index >= frozen) for name in group.parameters)
    assert "model.fc.weight" in trainable


def test_receipt_names_groups_and_parameters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    built("resnet18", 0.5)
    assert (
        "froze 5 of 9 layer groups: conv1 ... layer2.1; trainable 10.5 M of 11.2 M" in caplog.text
    )


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*in eval mode at the start"
)
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.parametrize("freeze", [True, 0.5])
def test_frozen_batchnorm_is_bit_equal_after_training_and_validation(
    freeze: bool | float, tmp_path: object
) -> None:
    torch.manual_seed(0)
    model = built("test_resnet", freeze)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    targets = torch.arange(8) % 3
    batches = DataLoader(TensorDataset(images, targets), batch_size=4)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, batches, batches)
    assert model.network is not None
    groups = model.network.layer_groups()
    frozen = {
        f"network.{name}"
        for group in groups[: num_frozen_groups(freeze, len(groups))]
        for name in group.parameters
    }
    prefixes = {name.rpartition(".")[0] for name in frozen}
    checked = 0
    for name, value in model.state_dict().items():
        if name in frozen or name.rpartition(".")[0] in prefixes:
            assert torch.equal(value, before[name]), name
            checked += "running_mean" in name
    assert checked > 0
    changed = [
        n
        for n in before
        if "running_mean" in n and not torch.equal(before[n], model.state_dict()[n])
    ]
    assert bool(changed) == (freeze is not True)


def test_train_keeps_frozen_modules_in_eval() -> None:
    model = built("resnet18", 0.5)
    model.eval()
    model.train()
    assert model.network is not None
    assert not model.network.model.bn1.training
    assert not model.network.model.layer1.training
    assert model.network.model.layer4.training
