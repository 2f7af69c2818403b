"""Several labels per image, through the program: every mode, errors, a sweep."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from classifier import main
from classifier.errors import ConfigError
from classifier.terminal import print_result
from tests.scenes import CLASSES

THRESHOLDS = {"cat": 0.4, "=fox": 0.3}
OWN = ["--allow_module", "tests"]


def configuration(**model: Any) -> dict[str, Any]:
    return {
        "seed_everything": 7,
        "custom_folder_name": "scenes",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": "timm/test_resnet",
                "pretrained": False,
                "optimizer_config": {"name": "AdamW", "lr": 0.003},
                **model,
            },
        },
        "data": {"class_path": "tests.scenes.Scenes", "init_args": {}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1},
    }


def metric(name: str) -> dict[str, Any]:
    return {"class_path": "classifier.MetricsLogger", "init_args": {"metrics": [name]}}


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished training with a threshold per class and class weights."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        content = configuration(thresholds=THRESHOLDS, class_weights="auto")
        content["trainer"]["max_epochs"] = 6
        (folder / "cfg.yaml").write_text(yaml.safe_dump(content))
        result = main(["--config", "cfg.yaml"])
        assert result is not None
        yield folder / result.output_dir


def test_several_labels_are_learned(scenes: Path, workplace: Path) -> None:
    result = main(["--test", "--ckpt_path", str(scenes), *OWN])
    assert result is not None
    assert result.metrics["test_f1_score"] > 0.8
    assert set(result.metrics) == {
        "test_loss", "test_accuracy", "test_f1_score", "test_precision", "test_recall",
    }  # fmt: skip
    log = (scenes / "log.txt").read_text()
    assert log.count("class weights: cat 0.") == 1


def test_validation_repeats_the_numbers_of_the_training(scenes: Path, workplace: Path) -> None:
    saved = json.loads((scenes / "result.json").read_text())
    result = main(["--val", "--ckpt_path", str(scenes / "checkpoints/last.ckpt"), *OWN])
    assert result is not None
    for name, value in result.metrics.items():
        assert value == pytest.approx(saved["metrics"][name], abs=1e-6)


def test_predictions_hold_the_contract(scenes: Path, workplace: Path) -> None:
    words = ["--model.thresholds.dog", "0.95"]  # some dogs are missed
    result = main(["--test", "--ckpt_path", str(scenes), *OWN, *words])
    assert result is not None
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert list(rows[0]) == [
        "path", "label", "index", "score", "prob_cat", "prob_dog", "prob_=fox", "error",
        "target", "correct",
    ]  # fmt: skip
    assert len(rows) == 24
    limits = [0.4, 0.95, 0.3]
    shown = ["cat", "dog", "'=fox"]
    for row in rows:
        chances = [float(row[f"prob_{name}"]) for name in CLASSES]
        chosen = [index for index, chance in enumerate(chances) if chance >= limits[index]]
        chosen.sort(key=lambda index: -chances[index])
        assert row["label"] == "|".join(shown[index] for index in chosen)
        assert row["index"] == "|".join(map(str, chosen))
        assert row["score"] == "|".join(row[f"prob_{CLASSES[index]}"] for index in chosen)
        assert row["correct"] == str("|".join(map(str, sorted(chosen))) == row["target"])
    assert {row["label"].count("|") + bool(row["label"]) for row in rows} >= {0, 1, 2}
    assert any("'=fox" in row["label"] for row in rows)
    assert "" in {row["target"] for row in rows}
    assert {row["correct"] for row in rows} == {"True", "False"}


def test_predicted_images_need_no_truth(scenes: Path, workplace: Path) -> None:
    result = main(["--predict", "--ckpt_path", str(scenes), *OWN])
    assert result is not None
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert list(rows[0])[-2:] == ["prob_=fox", "error"]
    assert len(rows) == 24


def test_thresholds_of_today_replace_those_of_the_training(scenes: Path, workplace: Path) -> None:
    results = [
        main(["--test", "--ckpt_path", str(scenes), *OWN, *words])
        for words in ([], ["--model.thresholds", "0.999"])
    ]
    tables = [read(Path(result.output_dir, "predictions.csv")) for result in results if result]
    counts = [sum(len(row["label"]) > 0 for row in rows) for rows in tables]
    assert counts[1] < counts[0]
    assert tables[0][0]["prob_cat"] == tables[1][0]["prob_cat"]


def test_few_predictions_are_printed(scenes: Path, workplace: Path, capfd: Any) -> None:
    result = main(
        ["--test", "--ckpt_path", str(scenes), *OWN, "--data.num_images", "16"]
    )  # fmt: skip
    assert result is not None
    lines = capfd.readouterr().out.splitlines()
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert len(rows) == 8
    for row in rows:
        (line,) = [line for line in lines if line.startswith(f"{row['path']}: ")]
        parts = zip(row["label"].split("|"), row["score"].split("|"), strict=True)
        expected = ", ".join(f"{label} {float(score):.4f}" for label, score in parts if label)
        assert line == f"{row['path']}: {expected or 'no label'}"
    assert any("no label" in line for line in lines)
    assert any(line.count(", ") for line in lines if ".png: " in line)


def test_label_with_a_bar_is_printed_whole(workplace: Path, capfd: Any) -> None:
    from classifier.runs import create_run

    run = create_run("x", "predict", 0.0)
    (run.folder / "p.csv").write_text("path,label,index,score,error\na.png,x|y,0,0.9,\n")
    run.result.predictions = "p.csv"
    print_result(run.result)
    assert "a.png: x|y 0.9000" in capfd.readouterr().out.splitlines()


def test_resumed_training_reaches_the_same_numbers(workplace: Path) -> None:
    content = configuration(class_weights="auto", thresholds=0.3)
    content["trainer"]["max_epochs"] = 2
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    whole = main(["--config", "cfg.yaml"])
    half = main(["--config", "cfg.yaml", "--trainer.max_epochs", "1"])
    assert whole is not None and half is not None
    path = str(Path(half.output_dir, "checkpoints/last.ckpt"))
    rest = main(["--config", "cfg.yaml", "--ckpt_path", path])
    assert rest is not None
    assert rest.metrics == pytest.approx(whole.metrics, abs=1e-6)


def test_checkpoint_of_another_task_is_not_resumed(scenes: Path, workplace: Path) -> None:
    Path("cfg.yaml").write_text(yaml.safe_dump(configuration()))
    words = ["--data.task", "multiclass", "--model.thresholds", "null", "--trainer.max_epochs", "9"]
    path = str(scenes / "checkpoints/last.ckpt")
    with pytest.raises(ConfigError) as caught:
        main(["--config", "cfg.yaml", "--ckpt_path", path, *words])
    assert str(caught.value) == (
        "ckpt_path: the checkpoint is multilabel, and the data is multiclass. "
        "Use the same data, or only_weights_load: true for a new training."
    )


def test_checkpoint_is_tested_in_its_own_task(scenes: Path, workplace: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["--test", "--ckpt_path", str(scenes), *OWN, "--model.task", "multiclass",
              "--model.thresholds", "null"])  # fmt: skip
    assert str(caught.value).startswith(
        "model.init_args.task: disagrees with the data, which is multilabel, got 'multiclass'."
    )


def test_models_task_is_told_to_the_data(workplace: Path) -> None:
    content = configuration(task="multilabel")
    content["data"]["init_args"]["task"] = "multiclass"
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    result = main(["--config", "cfg.yaml"])
    assert result is not None
    saved = torch.load(Path(result.output_dir, "checkpoints/last.ckpt"), weights_only=True)
    assert saved["image_classifier"]["task"] == "multilabel"
    assert saved["image_classifier"]["thresholds"] == [0.5, 0.5, 0.5]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"class_weights": {"catt": 2}}, "model.init_args.class_weights.catt: there is no such class. "
     "The classes are cat, dog, =fox. Did you mean 'cat'?"),
    ({"class_weights": [1, 2]}, "model.init_args.class_weights: has 2 numbers, and there are 3 classes "
     "(cat, dog, =fox), got [1.0, 2.0]. Write one number for each class in this order."),
    ({"class_weights": {"cat": -1}}, "model.init_args.class_weights.cat: must be a number from 0 on, "
     "got -1. Write for example 1.0."),
    ({"class_weights": "atuo"}, "model.init_args.class_weights: must be auto, weights by class name, or "
     "a list of weights, got 'atuo'. Write auto or null. Did you mean 'auto'?"),
    ({"thresholds": 1.5}, "model.init_args.thresholds: must be in (0, 1), got 1.5. Write for example 0.5."),
    ({"task": "multi"}, "model.init_args.task: must be multiclass, multilabel or null, got 'multi'. "
     "Write null to take it from the data. Did you mean 'multilabel'?"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_mistake_is_told_in_one_message(
    workplace: Path, arguments: dict[str, Any], message: str
) -> None:
    Path("cfg.yaml").write_text(yaml.safe_dump(configuration(**arguments)))
    with pytest.raises(ConfigError) as caught:
        main(["--config", "cfg.yaml"])
    assert str(caught.value) == message
    assert not (workplace / "runs").exists()


def test_thresholds_for_one_label_are_told(workplace: Path) -> None:
    content = configuration(thresholds=0.3)
    content["data"]["init_args"]["task"] = "multiclass"
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"^model\.init_args\.thresholds: has no effect: "):
        main(["--config", "cfg.yaml"])
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("CohenKappa", "multilabel", "torchmetrics has no CohenKappa for several labels per image. "
         "Choose another metric."),
        ("MultilabelF1Score", "multiclass", "MultilabelF1Score is for several labels per image, and the "
         "data is multiclass. Write F1Score, without a task."),
    ],
)  # fmt: skip
def test_metric_of_the_other_task_is_told_before_the_training(
    workplace: Path, name: str, task: str, message: str
) -> None:
    content = configuration()
    content["data"]["init_args"]["task"] = task
    content["trainer"]["callbacks"] = [{"class_path": "classifier.ModelCost"}, metric(name)]
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        main(["--config", "cfg.yaml"])
    assert str(caught.value) == f"trainer.callbacks.1.init_args.metrics.0: {message}"
    assert not (workplace / "runs").exists()


def test_single_class_goes_all_the_way(workplace: Path) -> None:
    content = configuration()
    content["data"]["init_args"]["num_classes"] = 1
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    trained = main(["--config", "cfg.yaml"])
    assert trained is not None
    result = main(["--test", "--ckpt_path", trained.output_dir, *OWN])
    assert result is not None
    rows = read(Path(result.output_dir, "predictions.csv"))
    assert {row["label"] for row in rows} <= {"", "cat"}
    right = sum(row["correct"] == "True" for row in rows) / len(rows)
    assert result.metrics["test_accuracy"] == pytest.approx(right)


def with_sweep(choices: list[Any]) -> None:
    content = configuration()
    content["optuna"] = {
        "tune": True, "n_trials": len(choices), "metric": "validation_f1_score", "direction": "maximize",
        "sampler": {"class_path": "BruteForceSampler"},
        "search_spaces": {
            "model.init_args.class_weights": {"distribution": "categorical", "choices": choices}
        },
    }  # fmt: skip
    Path("cfg.yaml").write_text(yaml.safe_dump(content))


def test_class_weights_are_swept_like_any_key(workplace: Path) -> None:
    with_sweep([None, "auto", {"cat": 0.5, "=fox": 2.0}])
    main(["--config", "cfg.yaml"])
    result = json.loads((workplace / "runs/scenes/result.json").read_text())
    assert result["num_complete"] == 3
    configs = sorted((workplace / "runs/scenes/trials").glob("*/config.yaml"))
    found = [
        yaml.safe_load(file.read_text())["model"]["init_args"]["class_weights"] for file in configs
    ]
    assert len(found) == 3
    assert all(choice in found for choice in (None, "auto", {"cat": 0.5, "=fox": 2.0}))


def test_wrong_choice_of_a_sweep_is_told_before_trial_0(workplace: Path) -> None:
    with_sweep([None, {"catt": 2.0}])
    with pytest.raises(ConfigError) as caught:
        main(["--config", "cfg.yaml"])
    assert str(caught.value) == (
        "optuna.search_spaces.model.init_args.class_weights: there is no such class. "
        "The classes are cat, dog, =fox. Did you mean 'cat'?"
    )
