"""The module that files are made of says what the classifier says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.inference.graph import Graph
from tests.export.making import BATCHES, answers_of, model_of, order_of, pixels_of
from tests.model.test_families import write_config


def as_float(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def check(model: Any) -> None:
    by_input = {
        name: Graph(order_of(model).network, order_of(model, input=name).description)
        for name in ("uint8", "float")
    }
    for number in BATCHES:
        pixels = pixels_of(model, number)
        expected = answers_of(model, pixels)
        with torch.no_grad():
            whole = by_input["uint8"](torch.from_numpy(pixels)).numpy()
            scaled = by_input["float"](as_float(pixels)).numpy()
        assert whole.dtype == np.float32 and whole.shape == (number, 3)
        np.testing.assert_allclose(whole, expected, atol=1e-6)
        np.testing.assert_allclose(scaled, expected, atol=1e-4)  # 1 / 255 is rounded before
    assert expected.std(0).max() > 0.05, "all images are alike: nothing was compared"


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("temperature", [2.5, 1.0])
def test_graph_answers_as_the_classifier(task: str, temperature: float) -> None:
    model = model_of(task=task, temperature=temperature, head={"hidden": [8]})
    assert model.network is not None and model.network.channels_last
    check(model)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_graph_answers_as_the_classifier_when_the_network_is_of_transformers(
    tmp_path: Path, kind: str
) -> None:
    check(model_of(write_config(tmp_path / kind, kind)))


def test_graph_keeps_normalisation_and_softmax_in_float32_when_the_network_is_in_half() -> None:
    model = model_of()
    pixels = pixels_of(model, 7)
    expected = answers_of(model, pixels)
    order = order_of(model)
    seen: list[torch.dtype] = []
    order.network.half().register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.no_grad():
        found = Graph(order.network, order.description)(torch.from_numpy(pixels))
    assert seen == [torch.float16] and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=0.02)
    np.testing.assert_allclose(found.sum(1).numpy(), 1.0, atol=1e-6)


def test_example_is_as_the_graph_takes_it_when_the_size_is_no_square() -> None:
    model = model_of(image_size=None)
    order = order_of(model)
    wide = order.description.preprocessing.at_size((32, 64))
    for name, shape, dtype in [
        ("uint8", (2, 32, 64, 3), torch.uint8),
        ("float", (2, 3, 32, 64), torch.float32),
    ]:
        graph = Graph(order.network, replace(order.description, input=name, preprocessing=wide))
        assert graph.example().shape == shape and graph.example().dtype == dtype
        assert graph(graph.example()).shape == (2, 3)
