"""torch.compile with its real compiler, on a network of a few weights."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from classifier import ImageClassifier, main
from classifier.errors import ConfigError
from classifier.model.compiling import Compiling, release
from tests.scenes import Scenes, trainer

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


class Tiny(nn.Module):
    """Compiled in a second."""

    image_size = 32

    def __init__(self, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        # No bias: behind it a normalisation leaves nothing of its gradient but rounding.
        self.stem = nn.Conv2d(3, 4, 8, stride=8, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.stem(images)).relu().mean((2, 3))
        logits: torch.Tensor = self.head(self.drop(hidden))
        return logits


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing compiled before is found again."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def classifier(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    options = {"optimizer_config": {"name": "SGD", "lr": 0.1}, **options}
    return ImageClassifier(
        "tests.model.test_compiling.Tiny", pretrained=False, num_classes=3, **options
    )


def fit(model: ImageClassifier, **arguments: Any) -> dict[str, float]:
    torch.manual_seed(1)
    data = Scenes(num_images=20, task="multiclass")  # batches of 8, 8, 4; 8, 2
    plain = trainer(**{"max_epochs": 3, **arguments})
    plain.fit(model, datamodule=data)
    return {name: float(value) for name, value in plain.callback_metrics.items()}


@pytest.mark.long
@needs_compiler
def test_compiled_training_comes_to_the_same_model_without_endless_compiling() -> None:
    eager, compiled = classifier(), classifier(compile=True)
    expected = fit(eager)
    frames = torch._dynamo.utils.counters
    frames.clear()
    found = fit(compiled)
    # Of 15 batches of four sizes; a size that was not seen before is any size from then on.
    assert 2 <= frames["stats"]["unique_graphs"] <= 4, frames["stats"]
    assert found == pytest.approx(expected, abs=1e-4)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    for name, value in eager.state_dict().items():
        assert torch.allclose(compiled.state_dict()[name], value, atol=1e-4), name
    images = torch.randn(5, 3, 32, 32)
    network: Any = compiled.network
    network.eval()
    expected_logits = network(images)
    network.compile()
    assert torch.allclose(network(images), expected_logits, atol=1e-4)
    assert copy.deepcopy(network)._compiled_call_impl is None
    release(network)
    seen: list[Any] = []
    network.model.head.register_forward_hook(lambda *_: seen.append(1))
    network(images)
    assert seen  # hooks work again after the training


@pytest.mark.long
@needs_compiler
def test_command_line_compiles_for_the_training_and_not_for_evaluation(
    train: Any, config: dict[str, Any]
) -> None:
    config["model"]["init_args"] |= {"model_name": "tests.model.test_compiling.Tiny"}
    config["trainer"]["callbacks"] = [
        {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}},
        {"class_path": "classifier.ModelCost"},
    ]
    eager = train()
    compiled = train("--model.compile", "true")
    quick = {name: value for name, value in compiled.metrics.items() if "latency" not in name}
    assert quick == pytest.approx({name: eager.metrics[name] for name in quick}, abs=1e-4)
    assert (
        "compile (default): the network was compiled in"
        in Path(compiled.output_dir, "log.txt").read_text()
    )
    validated = main(
        [
            "--val",
            "--ckpt_path",
            f"{compiled.output_dir}/checkpoints/last.ckpt",
            "--allow_module",
            "tests",
        ]
    )
    assert validated is not None
    assert validated.metrics["validation_loss"] == pytest.approx(
        eager.metrics["validation_loss"], abs=1e-4
    )
    assert "was compiled in" not in Path(validated.output_dir, "log.txt").read_text()


@needs_compiler
def test_missing_compiler_is_one_message_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("/nowhere/g++",))
    model = classifier(compile=True)
    with pytest.raises(ConfigError) as caught:
        fit(model)
    message = str(caught.value)
    assert message.startswith("model.init_args.compile: the network cannot be compiled here (")
    assert "Write compile: false" in message and "\n" not in message
    assert model.network is not None and model.network._compiled_call_impl is None


def test_nothing_is_compiled_beside_a_frozen_part_that_runs_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = classifier(compile=True)
    model.build()
    model.prefix = object()  # type: ignore[assignment]
    caplog.set_level("INFO")
    Compiling("default").on_fit_start(trainer(), model)
    assert "what is left is not compiled" in caplog.text
    assert model.network is not None and model.network._compiled_call_impl is None


def test_mode_that_torch_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ConfigError) as caught:
        classifier(compile="max-autotun")
    assert str(caught.value).startswith(
        "model.init_args.compile: must be true, false or a mode of torch.compile, got 'max-autotun'. The modes are default, "
    )
    assert str(caught.value).endswith("Did you mean 'max-autotune'?")
    assert classifier(compile="max-autotune").compile_mode == "max-autotune"
    assert not classifier().configure_callbacks()
