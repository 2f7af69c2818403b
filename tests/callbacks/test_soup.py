from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from classifier import GreedySoup, ImageClassifier, MetricsLogger
from classifier.callbacks.soup import check_soup
from classifier.errors import ConfigError, RunError
from tests.scenes import Scenes, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def fitted(
    workplace: Path, name: str, monitor: str = "validation_loss", mode: str = "min", lr: float = 0.1
) -> tuple[L.Trainer, ImageClassifier, Scenes, ModelCheckpoint]:
    L.seed_everything(1, verbose=False)
    model = ImageClassifier(name, pretrained=False, optimizer_config={"name": "SGD", "lr": lr})
    data = Scenes(task="multiclass", num_images=24)
    saver = ModelCheckpoint(workplace / "kept", monitor=monitor, mode=mode, save_top_k=4)
    run = trainer(
        max_epochs=5, callbacks=[MetricsLogger(), saver], enable_checkpointing=True,
        num_sanity_val_steps=0,
    )  # fmt: skip
    run.fit(model, datamodule=data)
    return run, model, data, saver


def loss_by_hand(model: ImageClassifier, weights: dict[str, Tensor], data: Scenes) -> float:
    model.load_state_dict(weights)
    model.eval()
    stage = data.stage("val")
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(stage.images), stage.targets))


@pytest.mark.parametrize("lr", [0.02, 0.3, 1.0])
def test_soup_is_that_of_the_recipe(workplace: Path, lr: float) -> None:
    run, model, data, saver = fitted(workplace, "timm/test_vit", lr=lr)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = GreedySoup().cook(run, model, data, workplace, Callback())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    ranked = sorted(saver.best_k_models, key=lambda file: float(saver.best_k_models[file]))
    states = {file: torch.load(file, weights_only=True)["state_dict"] for file in ranked}
    chosen: list[str] = []
    lowest = float("inf")
    for file in ranked:
        tried = [states[name] for name in [*chosen, file]]
        mean = {
            name: torch.stack([state[name] for state in tried]).mean(dim=0) for name in tried[0]
        }
        loss = loss_by_hand(model, mean, data)
        if loss <= lowest:
            chosen, lowest, best = [*chosen, file], loss, mean
    assert facts is not None
    assert facts["ingredients"] == [Path(file).name for file in chosen]
    assert facts["score"] == pytest.approx(lowest, rel=1e-4)
    assert facts["best_score"] == pytest.approx(float(saver.best_k_models[ranked[0]]), rel=1e-5)
    assert (workplace / "soup.ckpt").is_file() == (len(chosen) > 1)
    if len(chosen) > 1:
        soup = torch.load(workplace / "soup.ckpt", weights_only=True)
        for name, value in soup["state_dict"].items():
            torch.testing.assert_close(value, best[name])
        assert set(soup) == set(torch.load(ranked[0], weights_only=True))


def test_batch_norm_of_the_soup_fits_its_weights(workplace: Path) -> None:
    run, model, data, _ = fitted(workplace, "timm/test_resnet")
    facts = GreedySoup(batch_norm_batches=None).cook(run, model, data, workplace, Callback())
    assert facts is not None and facts["checkpoint"] == f"{workplace.name}/soup.ckpt"
    soup = torch.load(workplace / "soup.ckpt", weights_only=True)["state_dict"]
    assert loss_by_hand(model, soup, data) == pytest.approx(facts["score"], rel=1e-4)
    loader: Any = data.train_dataloader()
    torch.optim.swa_utils.update_bn(loader, model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(soup[name], value)


def test_soup_that_is_no_better_is_not_written(workplace: Path, caplog: Any) -> None:
    run, model, data, saver = fitted(workplace, "timm/test_vit", lr=1e-9)
    with caplog.at_level("INFO"):
        facts = GreedySoup().cook(run, model, data, workplace, Callback())
    assert facts is not None and facts["checkpoint"] is None
    assert not (workplace / "soup.ckpt").exists()
    assert "no average of 4 checkpoints is better than the best one" in caplog.text
    saver.best_k_models = dict(list(saver.best_k_models.items())[:1])
    assert GreedySoup().cook(run, model, data, workplace, Callback()) is None


def test_metric_that_a_validation_does_not_log_is_told(workplace: Path) -> None:
    run, model, data, saver = fitted(workplace, "timm/test_vit")
    saver.monitor = "validation_mine"
    with pytest.raises(RunError, match="does not log validation_mine; the training is complete"):
        GreedySoup().cook(run, model, data, workplace, Callback())


@pytest.mark.parametrize(
    ("saver", "message"),
    [
        (None, "trainer.callbacks.0: GreedySoup averages what a ModelCheckpoint with a monitor keeps, and there "
         "is none. Add {class_path: ModelCheckpoint, init_args: {monitor: validation_f1_score, mode: max, "
         "save_top_k: 5}}."),
        ({"monitor": "validation_loss", "save_top_k": 1}, "trainer.callbacks.1.init_args.save_top_k: GreedySoup "
         "averages at least two checkpoints, got 1. Write for example 5."),
        ({"monitor": "train_loss", "save_top_k": 3}, "trainer.callbacks.1.init_args.monitor: GreedySoup compares "
         "on the validation images, got 'train_loss'. Write a validation metric."),
    ],
)  # fmt: skip
def test_soup_without_ingredients_is_refused(saver: Any, message: str) -> None:
    callbacks = [GreedySoup(), *([] if saver is None else [ModelCheckpoint(**saver)])]
    with pytest.raises(ConfigError) as caught:
        check_soup(callbacks)
    assert str(caught.value) == message


@pytest.mark.parametrize("save_top_k", [2, -1])
def test_soup_with_ingredients_is_in_order(save_top_k: int) -> None:
    callbacks = [GreedySoup(), ModelCheckpoint(monitor="validation_loss", save_top_k=save_top_k)]
    check_soup(callbacks)


def test_several_devices_are_refused() -> None:
    several: Any = SimpleNamespace(world_size=2)
    with pytest.raises(ConfigError, match=r"trainer\.devices: GreedySoup compares .*, got 2"):
        GreedySoup().setup(several, ImageClassifier("timm/test_resnet", False), "fit")
