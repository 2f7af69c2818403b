"""ModelCost: parameters, operations and latency, without a trace in the training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from classifier.entry import main

COST = {"class_path": "classifier.ModelCost"}


def test_cost_is_that_of_the_model(config: dict[str, Any], save: Any) -> None:
    config["trainer"]["callbacks"] = [COST]
    result = main(["--config", save(config)])
    assert result is not None
    model = timm.create_model("test_resnet", num_classes=3).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert result.metrics["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert result.metrics["num_flops"] == counter.get_total_flops()
    assert result.metrics["latency_seconds"] > 0
    assert result.best_metrics["num_flops"] == result.metrics["num_flops"]


def test_cost_changes_no_number_of_the_training(
    config: dict[str, Any], save: Any, workplace: Path
) -> None:
    tables = []
    for callbacks in ([], [COST]):
        config["trainer"]["callbacks"] = callbacks
        result = main(["--config", save(config)])
        assert result is not None
        with Path(result.output_dir, "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([{k: r[k] for k in ("train_loss", "validation_loss")} for r in rows])
    assert tables[0] == tables[1]


def test_sweep_looks_for_good_and_cheap_models(
    config: dict[str, Any], save: Any, workplace: Path
) -> None:
    config["trainer"]["callbacks"] = [COST]
    key = "model.init_args.model_name"
    config["optuna"] = {
        "tune": True,
        "n_trials": 2,
        "metrics": ["validation_f1_score", "num_flops"],
        "directions": ["maximize", "minimize"],
        "search_spaces": {
            key: {"distribution": "categorical", "choices": ["timm/test_resnet", "timm/test_efficientnet"]}
        },
        "sampler": {"class_path": "BruteForceSampler"},
    }  # fmt: skip
    main(["--config", save(config)])
    folder = workplace / "runs/colours"
    result = json.loads((folder / "result.json").read_text())
    assert result["num_complete"] == 2
    assert result["pareto_trials"]
    assert all((folder / name).is_file() for name in result["best_configs"])
