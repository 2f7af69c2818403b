from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from classifier import EpochWeightAveraging, ImageClassifier
from classifier.callbacks.averaging import measure_batch_norm
from classifier.errors import ConfigError
from tests.scenes import Scenes, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*WeightAveraging callback with a model that overrides"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
]


class Watch(Callback):
    """Keeps the raw weights after each step, and those of each validation."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps.append(weights_of(pl_module))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(weights_of(pl_module))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.clone() for name, value in module.state_dict().items() if "loss" not in name
    }


def mean(states: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.stack([state[name] for state in states]).double().mean(dim=0).float()


def train(
    averaging: Callback, workplace: Any, name: str = "timm/test_resnet", epochs: int = 4
) -> tuple[ImageClassifier, Watch, dict[str, Any], L.Trainer]:
    """Three steps an epoch; the first layers are frozen."""
    L.seed_everything(3, verbose=False)
    model = ImageClassifier(
        name, pretrained=False, freeze_encoder=0.4, optimizer_config={"name": "SGD", "lr": 0.05}
    )
    data = Scenes(task="multiclass", num_images=24)
    model.build(data.class_names)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.fill_(0.25)
    watch = Watch()
    run = trainer(max_epochs=epochs, callbacks=[averaging, watch])
    run.fit(model, datamodule=data)
    run.save_checkpoint(workplace / "x.ckpt")
    return model, watch, torch.load(workplace / "x.ckpt", weights_only=True), run


def test_ema_is_the_moving_average_of_all_steps(workplace: Any) -> None:
    _, watch, checkpoint, _ = train(EMAWeightAveraging(decay=0.8), workplace, epochs=2)
    parameters = [name for name in watch.steps[0] if "running" not in name and "num" not in name]
    for name in parameters:
        expected = watch.steps[0][name].double()
        for step in watch.steps[1:]:
            expected = 0.8 * expected + 0.2 * step[name].double()
        for found in (checkpoint["state_dict"][name], watch.validated[-1][name]):
            torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_epoch_average_is_the_mean_of_the_last_epochs(workplace: Any) -> None:
    model, watch, checkpoint, _ = train(EpochWeightAveraging(start_epoch=2), workplace)
    ends = watch.steps[2::3]
    assert len(ends) == 4
    for name, parameter in model.named_parameters():
        expected = mean(ends[2:], name)
        found = [parameter.data, checkpoint["state_dict"][name], watch.validated[-1][name]]
        for value in found:
            torch.testing.assert_close(value, expected)
    # Before the first epoch of the mean, and while it has only one, these are the weights.
    per_epoch = watch.validated[1::2]
    for name in ends[0]:
        assert torch.equal(per_epoch[0][name], ends[0][name])
        assert torch.equal(per_epoch[2][name], ends[2][name])


def test_batch_norm_of_the_average_is_that_of_torch(workplace: Any) -> None:
    model, _, checkpoint, run = train(EpochWeightAveraging(start_epoch=2), workplace)
    data: Any = Scenes(task="multiclass", num_images=24)
    again, reference = (ImageClassifier("timm/test_resnet", pretrained=False) for _ in range(2))
    for each in (again, reference):
        each.build(data.class_names)
        each.load_state_dict(checkpoint["state_dict"])
    update_bn(data.train_dataloader(), reference)
    measure_batch_norm(again, run, data, None)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name])
    assert all(m.momentum == 0.1 for m in again.modules() if isinstance(m, nn.BatchNorm2d))
    # The average has what is measured on it: measuring it once more changes nothing.
    before = weights_of(model)
    measure_batch_norm(model, run, data, 100)
    for name, value in weights_of(model).items():
        torch.testing.assert_close(value, before[name])


def test_frozen_batch_norm_of_the_average_stays_as_it_was(workplace: Any) -> None:
    _, _, checkpoint, _ = train(EpochWeightAveraging(start_epoch=1), workplace)
    statistics = [name for name in checkpoint["state_dict"] if "running_mean" in name]
    kept = [name for name in statistics if (checkpoint["state_dict"][name] == 0.25).all()]
    assert 0 < len(kept) < len(statistics)
    frozen = ("network.model.conv1.", "network.model.bn1.", "network.model.layer1.")
    assert kept == [name for name in statistics if name.startswith(frozen)]


def test_measuring_leaves_mode_and_random_numbers_alone(workplace: Any) -> None:
    _, _, _, run = train(EpochWeightAveraging(start_epoch=3), workplace)
    model = ImageClassifier("timm/test_efficientnet", pretrained=False, freeze_encoder=0.4)
    data: Any = Scenes(task="multiclass", num_images=24)
    model.build(data.class_names)
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    before = weights_of(model)
    measure_batch_norm(model, run, data, 1)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    changed = {
        name for name, value in weights_of(model).items() if not torch.equal(value, before[name])
    }
    assert changed and all("running" in name or "num_batches" in name for name in changed)


def test_average_of_a_network_without_batch_norm_sees_no_images(workplace: Any) -> None:
    class Counted(Scenes):
        loaders = 0

        def train_dataloader(self) -> Any:
            Counted.loaders += 1
            return super().train_dataloader()

    model = ImageClassifier("timm/test_vit", pretrained=False)
    run = trainer(max_epochs=3, callbacks=[EpochWeightAveraging(start_epoch=0)])
    run.fit(model, datamodule=Counted(task="multiclass", num_images=16))
    assert Counted.loaders == 1


@pytest.mark.parametrize(
    ("start", "epochs", "message"),
    [
        (1.5, 4, "start_epoch: must be an epoch from 0 on or a fraction in (0, 1), got 1.5. "
         "Write for example 0.75."),
        (4, 4, "trainer.max_epochs: EpochWeightAveraging would begin at epoch 4, after the last one, "
         "got 4. Train for longer, or write a smaller start_epoch."),
        (0.5, -1, "trainer.max_epochs: EpochWeightAveraging.start_epoch is a fraction of it, got -1. "
         "Write a number of epochs."),
    ],
)  # fmt: skip
def test_wrong_start_is_told(start: float, epochs: int, message: str) -> None:
    model = ImageClassifier("timm/test_resnet", pretrained=False)
    with pytest.raises(ConfigError) as caught:
        run = trainer(max_epochs=epochs, callbacks=[EpochWeightAveraging(start_epoch=start)])
        run.fit(model, datamodule=Scenes(task="multiclass"))
    assert str(caught.value) == message


def test_wrong_number_of_batches_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^batch_norm_batches: must be at least 1, got 0\. "):
        EpochWeightAveraging(batch_norm_batches=0)
