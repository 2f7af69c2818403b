"""Calibration and thresholds through the program: what is fitted, kept, used, and refused."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml

from classifier import ImageClassifier, main
from classifier.checkpoints import load_checkpoint
from classifier.commands.calibrate import calibrate, check_calibration
from classifier.errors import ConfigError, RunError
from classifier.evaluation.calibration import at_temperature
from classifier.evaluation.results import Predictions
from classifier.evaluation.settings import EvaluationSettings
from classifier.model.answers import Calibration
from classifier.model.deferred import CHECKPOINT_KEY
from classifier.runs import TRIAL_DIR_VARIABLE
from tests.scenes import CLASSES, Scenes

OWN = ["--allow_module", "tests"]
# As the configuration of a training that fitted both.
USED = [*OWN, "--evaluation.calibrate", "temperature", "--evaluation.tune_thresholds", "f1_score"]


def configuration(task: str, num_classes: int) -> dict[str, Any]:
    return {
        "seed_everything": 7,
        "custom_folder_name": "scenes",
        "model": {
            "class_path": "classifier.ImageClassifier",
            "init_args": {
                "model_name": "timm/test_resnet",
                "pretrained": False,
                "optimizer_config": {"name": "AdamW", "lr": 0.003},
            },
        },
        "data": {
            "class_path": "tests.scenes.Scenes",
            "init_args": {"num_classes": num_classes, "task": task},
        },
        "trainer": {
            "max_epochs": 1 if task == "multiclass" else 2, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0,
            "callbacks": [{
                "class_path": "classifier.MetricsLogger",
                "init_args": {"metrics": ["Accuracy", "F1Score", "AUROC"]},
            }],
        },
        "evaluation": {"report": False},
    }  # fmt: skip


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """Checkpoints of both tasks, trained once and calibrated by no one."""
    folder = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = {}
        for task, num_classes in (("multiclass", 2), ("multilabel", 3)):
            (folder / "cfg.yaml").write_text(yaml.safe_dump(configuration(task, num_classes)))
            result = main(["--config", "cfg.yaml"])
            assert result is not None
            found[task] = Path(result.output_dir, "checkpoints/best.ckpt").read_bytes()
        yield found


@pytest.fixture
def checkpoint(trainings: dict[str, bytes], workplace: Path) -> Any:
    def write(task: str) -> Path:
        (workplace / "best.ckpt").write_bytes(trainings[task])
        return workplace / "best.ckpt"

    return write


def data_of(task: str) -> Scenes:
    return Scenes(num_classes=2 if task == "multiclass" else 3, task=task)


def predicted(file: Path, task: str) -> Predictions:
    """What a validation with a checkpoint gives, as predictions.csv would hold it."""
    model = ImageClassifier.load_from_checkpoint(file).eval()
    images = data_of(task).stage("val")
    with torch.no_grad():
        chances = model.predict_step((images.images,), 0)
    decided = model.decisions(chances)
    several = task == "multilabel"
    return Predictions(
        class_names=tuple(model.class_names or ()), task=task,
        paths=[images.path(place) for place in range(len(images))],
        probabilities=np.array([[float(f"{v:.8g}") for v in row] for row in chances.tolist()]),
        targets=images.targets.bool().numpy() if several else images.targets.numpy(),
        predicted=decided.numpy() if several else decided.int().argmax(1).numpy(),
    )  # fmt: skip


def kept(file: Path) -> Calibration:
    return Calibration.read(load_checkpoint(file)[CHECKPOINT_KEY]["calibration"])


BOTH = EvaluationSettings(calibrate="temperature", tune_thresholds="f1_score")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_temperature_is_kept_and_used_everywhere(checkpoint: Any, task: str) -> None:
    file = checkpoint(task)
    before, state = predicted(file, task), load_checkpoint(file)
    facts = calibrate(file, before, EvaluationSettings(calibrate="temperature"))
    assert list(facts) == [
        "num_images", "temperature", "ece_before", "ece_after", "log_loss_before", "log_loss_after",
    ]  # fmt: skip
    assert facts["num_images"] == 24
    temperature = facts["temperature"]
    assert kept(file) == Calibration(temperature)
    assert facts["log_loss_after"] < facts["log_loss_before"]
    assert abs(temperature - 1) > 0.01
    after = predicted(file, task)
    expected = at_temperature(before.probabilities, temperature, task)
    assert after.probabilities == pytest.approx(expected, abs=1e-6)
    assert (after.predicted == before.predicted).all()
    now = load_checkpoint(file)
    assert set(now) == set(state)
    assert all(torch.equal(now["state_dict"][n], v) for n, v in state["state_dict"].items())
    result = main(["--test", "--ckpt_path", str(file), *USED])
    assert result is not None
    assert result.metrics["test_loss"] == pytest.approx(_loss(Path(result.output_dir)), abs=1e-5)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _loss(folder: Path) -> float:
    """The mean loss of a test, by its own predictions."""
    losses = []
    for row in _rows(folder):
        chances = [float(value) for name, value in row.items() if name.startswith("prob_")]
        if len(chances) == 2:
            losses.append(-np.log(chances[int(row["target"])]))
        else:
            has = [str(index) in row["target"].split("|") for index in range(3)]
            terms = [p if found else 1 - p for p, found in zip(chances, has, strict=True)]
            losses.append(-np.log(terms).mean())
    return float(np.mean(losses))


def test_threshold_of_two_classes_decides_everywhere(checkpoint: Any) -> None:
    file = checkpoint("multiclass")
    plain = main(["--test", "--ckpt_path", str(file), *OWN])
    assert plain is not None
    # Such that it must show: as many images are on both sides of it, and not on those of one half.
    threshold = float(np.median([float(row["prob_dog"]) for row in _rows(Path(plain.output_dir))]))
    content = load_checkpoint(file)
    content[CHECKPOINT_KEY]["calibration"] = Calibration(1.0, [threshold], 1).plain()
    torch.save(content, file)
    result = main(["--test", "--ckpt_path", str(file), *USED])
    assert result is not None
    rows = _rows(Path(result.output_dir))
    assert list(rows[0])[:5] == ["path", "label", "index", "score", "label_2"]
    for row in rows:
        chosen = int(float(row["prob_dog"]) >= threshold)
        assert (row["index"], row["label"]) == (str(chosen), CLASSES[chosen])
        assert row["score"] == row[f"prob_{CLASSES[chosen]}"]
        other = CLASSES[1 - chosen]
        assert (row["label_2"], row["score_2"]) == (other, row[f"prob_{other}"])
        assert row["correct"] == str(row["index"] == row["target"])
    assert {float(row["score"]) < 0.5 for row in rows} == {True, False}
    right = sum(row["correct"] == "True" for row in rows) / len(rows)
    assert result.metrics["test_accuracy"] == pytest.approx(right)
    assert result.metrics["test_accuracy"] != plain.metrics["test_accuracy"]
    for name in ("test_auroc", "test_loss"):
        assert result.metrics[name] == pytest.approx(plain.metrics[name], abs=1e-6)


def test_both_are_fitted_one_on_the_other(checkpoint: Any) -> None:
    file = checkpoint("multilabel")
    facts = calibrate(file, predicted(file, "multilabel"), BOTH)
    assert list(facts["thresholds"]) == CLASSES
    assert facts["tuned_for"] == "f1_score"
    assert kept(file) == Calibration(facts["temperature"], list(facts["thresholds"].values()))
    assert facts["score_after"] >= facts["score_before"]
    result = main(["--val", "--ckpt_path", str(file), *USED])
    assert result is not None
    assert result.metrics["validation_f1_score"] == pytest.approx(facts["score_after"], abs=1e-5)
    log = Path(result.output_dir, "log.txt").read_text()
    words = f"by the validation images of the training: temperature {facts['temperature']:.4g};"
    assert f"{words} thresholds cat " in log


def test_score_of_two_classes_is_what_a_validation_logs(checkpoint: Any) -> None:
    file = checkpoint("multiclass")
    plain = main(["--val", "--ckpt_path", str(file), *OWN])
    facts = calibrate(file, predicted(file, "multiclass"), BOTH)
    assert list(facts["thresholds"]) == ["dog"]
    result = main(["--val", "--ckpt_path", str(file), *USED])
    assert result is not None and plain is not None
    for score, run in (("score_before", plain), ("score_after", result)):
        assert run.metrics["validation_f1_score"] == pytest.approx(facts[score], abs=1e-5)


def test_calibration_of_a_calibrated_checkpoint_begins_anew(checkpoint: Any) -> None:
    file = checkpoint("multiclass")
    found = predicted(file, "multiclass")
    first = calibrate(file, found, BOTH)
    assert calibrate(file, found, BOTH) == first
    calibrate(file, found, EvaluationSettings(tune_thresholds="accuracy"))
    assert kept(file).temperature == 1.0


def test_other_name_of_the_file_stays_what_it_was(checkpoint: Any, workplace: Path) -> None:
    file = checkpoint("multiclass")
    own = workplace / "epoch=1.ckpt"
    os.link(file, own)
    before = own.read_bytes()
    calibrate(file, predicted(file, "multiclass"), BOTH)
    assert own.read_bytes() == before != file.read_bytes()
    assert sorted(path.name for path in workplace.iterdir()) == ["best.ckpt", "epoch=1.ckpt"]


def test_nothing_is_written_when_nothing_is_asked_or_found(checkpoint: Any) -> None:
    file = checkpoint("multiclass")
    before, found = file.read_bytes(), predicted(file, "multiclass")
    assert calibrate(file, found, EvaluationSettings()) == {}
    nothing = Predictions(
        found.class_names, found.task, [], found.probabilities[:0], found.targets[:0],
        found.predicted[:0],
    )  # fmt: skip
    with pytest.raises(RunError, match="none could be decoded"):
        calibrate(file, nothing, BOTH)
    found.probabilities[3, 1] = np.nan
    with pytest.raises(RunError, match="a probability is no number"):
        calibrate(file, found, BOTH)
    assert file.read_bytes() == before


@pytest.mark.parametrize("how", ["resume", "weights"])
def test_training_from_a_calibrated_checkpoint_begins_uncalibrated(
    checkpoint: Any, workplace: Path, how: str
) -> None:
    file = checkpoint("multiclass")
    calibrate(file, predicted(file, "multiclass"), BOTH)
    (workplace / "cfg.yaml").write_text(yaml.safe_dump(configuration("multiclass", 2)))
    words = ["--trainer.max_epochs", "3"] if how == "resume" else ["--only_weights_load", "true"]
    result = main(["--config", "cfg.yaml", "--ckpt_path", str(file), *words])
    assert result is not None
    last = Path(result.output_dir, "checkpoints/last.ckpt")
    assert kept(last) == Calibration()
    log = Path(result.output_dir, "log.txt").read_text()
    assert "temperature" not in log
    # The validation of the training was not calibrated either.
    again = main(["--val", "--ckpt_path", str(last), *OWN])
    assert again is not None
    assert again.metrics["validation_loss"] == pytest.approx(
        result.metrics["validation_loss"], abs=1e-6
    )


def test_checkpoint_that_is_not_calibrated_says_so_when_one_asks(checkpoint: Any) -> None:
    words = ["--evaluation.calibrate", "temperature", *OWN]
    result = main(["--val", "--ckpt_path", str(checkpoint("multiclass")), *words])
    assert result is not None
    log = Path(result.output_dir, "log.txt").read_text()
    assert "this checkpoint has no temperature and no thresholds" in log


@pytest.mark.parametrize("mode", [[], ["--check"]])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluation.calibrate", "temperature", "--data.init_args.val_fraction", "0"],
         "evaluation.calibrate: there are no validation images to fit it on, got 'temperature'. "
         "Write null, or add validation images."),
        (["--evaluation.calibrate", "temperature", "--trainer.limit_val_batches", "0"],
         "evaluation.calibrate: there are no validation images to fit it on, got 'temperature'. "
         "Write null, or add validation images."),
        (["--evaluation.calibrate", "temperature", "--trainer.enable_checkpointing", "false"],
         "evaluation.calibrate: there is no checkpoint to keep it in, got 'temperature'. Write null, "
         "or trainer.enable_checkpointing: true."),
        (["--evaluation.tune_thresholds", "f1_score"],
         "evaluation.tune_thresholds: has no effect: with one label per image and 3 classes the "
         "likeliest class wins, got 'f1_score'. Write null."),
        (["--evaluation.tune_thresholds", "f1score"],
         "evaluation.tune_thresholds: thresholds are not chosen for this metric, got 'f1score'. "
         "Write f1_score, balanced_accuracy, accuracy, matthews_corr_coef or null. "
         "Did you mean 'f1_score'?"),
        (["--evaluation.tune_thresholds", "recall"],
         "evaluation.tune_thresholds: thresholds are not chosen for this metric, got 'recall'. "
         "Write f1_score, balanced_accuracy, accuracy, matthews_corr_coef or null."),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused_before_the_training(
    config: Any, save: Any, workplace: Path, mode: list[str], words: list[str], message: str
) -> None:
    config["data"]["init_args"]["dataset_classes"].pop("test")
    with pytest.raises(ConfigError) as caught:
        main([*mode, "--config", save(config), *words])
    assert str(caught.value) == message
    assert not list(workplace.glob("runs/*/*"))


def test_positive_class_that_there_is_not_is_told_before_the_training(workplace: Path) -> None:
    content = configuration("multiclass", 2)
    content["evaluation"] |= {"tune_thresholds": "accuracy", "positive_class": "dogs"}
    (workplace / "cfg.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        main(["--config", "cfg.yaml"])
    assert str(caught.value) == (
        "evaluation.positive_class: there is no such class, got 'dogs'. The classes are cat, dog. "
        "Did you mean 'dog'?"
    )


class OwnModel(L.LightningModule):
    """Stands for a model of the user's own."""


def test_model_of_ones_own_is_refused() -> None:
    settings = EvaluationSettings(calibrate="temperature")
    with pytest.raises(ConfigError) as caught:
        check_calibration(settings, Scenes(), OwnModel(), {})
    assert str(caught.value) == (
        "evaluation.calibrate: is for classifier.ImageClassifier, and the model is a OwnModel, "
        "got 'temperature'. Write null."
    )


def test_training_calibrates_the_checkpoint_that_it_stands_for(workplace: Path) -> None:
    content = configuration("multilabel", 3)
    content["evaluation"] |= {"calibrate": "temperature", "tune_thresholds": "f1_score"}
    (workplace / "cfg.yaml").write_text(yaml.safe_dump(content))
    result = main(["--config", "cfg.yaml"])
    assert result is not None
    folder = Path(result.output_dir)
    facts = result.calibration
    best = Calibration(facts["temperature"], list(facts["thresholds"].values()))
    assert kept(folder / "checkpoints/best.ckpt") == best
    assert kept(folder / "checkpoints/last.ckpt") == Calibration()
    assert json.loads((folder / "result.json").read_text())["calibration"] == facts
    assert not list(folder.glob("**/*.csv.*")) and not list(folder.glob("**/.*"))
    # Before it is what the training logged, after it what the checkpoint comes to.
    logged = result.best_metrics
    assert facts["score_before"] != facts["score_after"]
    again = main(["--val", "--ckpt_path", str(folder), *OWN])
    assert again is not None
    assert again.metrics["validation_f1_score"] == pytest.approx(facts["score_after"], abs=1e-5)
    assert logged["validation_loss"] == pytest.approx(facts["log_loss_before"], abs=1e-5)
    assert again.metrics["validation_loss"] == pytest.approx(facts["log_loss_after"], abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*samples in targets")
def test_report_is_that_of_the_calibrated_checkpoint(train: Any) -> None:
    own = "{class_path: ModelCheckpoint, init_args: {monitor: validation_loss, filename: own}}"
    words = ["--evaluation.calibrate", "temperature", "--evaluation.report", "true"]
    result = train(*words, "--trainer.max_epochs", "1", "--trainer.callbacks", f"[{own}]")
    folder = Path(result.output_dir)
    facts = result.calibration
    assert facts["temperature"] != 1.0
    assert kept(folder / "checkpoints/best.ckpt") == Calibration(facts["temperature"])
    assert kept(folder / "checkpoints/own.ckpt") == Calibration()
    report = json.loads((folder / "report/validation/metrics.json").read_text())
    assert report["calibration"] == facts
    assert report["figures"]["calibration_error"] == pytest.approx(facts["ece_after"], abs=1e-5)
    assert report["estimates"]["log_loss"]["value"] == pytest.approx(
        facts["log_loss_after"], abs=1e-5
    )
    again = main(["--test", "--ckpt_path", str(folder), "--evaluation.report", "false"])
    assert again is not None
    assert _rows(Path(again.output_dir)) == _rows(folder)


def test_null_leaves_the_calibration_out(checkpoint: Any) -> None:
    file = checkpoint("multilabel")
    plain = main(["--test", "--ckpt_path", str(file), *OWN])
    calibrate(file, predicted(file, "multilabel"), BOTH)
    used = main(["--test", "--ckpt_path", str(file), *USED])
    left_out = main(["--test", "--ckpt_path", str(file), *OWN])
    assert plain is not None and used is not None and left_out is not None
    assert left_out.metrics == plain.metrics != used.metrics


def test_resumed_training_leaves_an_old_calibration_out(workplace: Path) -> None:
    content = configuration("multiclass", 2)
    content["evaluation"]["calibrate"] = "temperature"
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    first = main(["--config", "cfg.yaml"])
    assert first is not None and first.calibration["temperature"] != 1.0
    last = str(Path(first.output_dir, "checkpoints/last.ckpt"))
    words = ["--trainer.max_epochs", "2", "--model.init_args.optimizer_config.lr", "0.0"]
    again = main(["--ckpt_path", last, *words, "--evaluation.calibrate", "null", *OWN])
    assert again is not None and again.calibration == {}
    best = Path(again.output_dir, "checkpoints/best.ckpt")
    assert kept(best) == Calibration()
    assert kept(Path(first.output_dir, "checkpoints/best.ckpt")) != Calibration()


def test_trial_and_fold_are_calibrated_as_any_training(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = configuration("multiclass", 2)
    content["evaluation"]["calibrate"] = "temperature"
    Path("cfg.yaml").write_text(yaml.safe_dump(content))
    (workplace / "0").mkdir()
    monkeypatch.setenv(TRIAL_DIR_VARIABLE, str(workplace / "0"))
    result = main(["--config", "cfg.yaml"])
    assert result is not None and result.calibration["temperature"] != 1.0
    assert kept(workplace / "0/checkpoints/best.ckpt") != Calibration()


@pytest.mark.parametrize("mode", ["train", "--check", "--test"])
@pytest.mark.parametrize("name, num_classes", [("dgo", 2), ("dog", 3)])
def test_positive_class_without_effect_is_told_before_any_work(
    checkpoint: Any, mode: str, name: str, num_classes: int
) -> None:
    Path("cfg.yaml").write_text(yaml.safe_dump(configuration("multiclass", num_classes)))
    words = ["--config", "cfg.yaml", *([mode] if mode == "--check" else [])]
    if mode == "--test":
        task = "multiclass" if num_classes == 2 else "multilabel"
        words = ["--test", "--ckpt_path", str(checkpoint(task)), *OWN]
    with pytest.raises(
        ConfigError, match=r"evaluation\.positive_class: (there is no|has no effect)"
    ):
        main([*words, "--evaluation.positive_class", name])
    assert not Path("runs").exists()
