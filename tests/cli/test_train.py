from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from classifier import main
from classifier.errors import ConfigError
from tests.conftest import write_classes


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_training_fills_the_run_folder(train: Any) -> None:
    result = train()
    folder = Path(result.output_dir)
    assert sorted(item.name for item in folder.iterdir()) == [
        "checkpoints", "config.yaml", "environment.json", "log.txt", "metrics.csv", "result.json",
    ]  # fmt: skip
    assert sorted(item.name for item in (folder / "checkpoints").iterdir()) == [
        "best.ckpt", "last.ckpt",
    ]  # fmt: skip
    saved = json.loads((folder / "result.json").read_text())
    assert saved["status"] == "completed"
    assert saved["metrics"] == result.metrics
    assert saved["num_epochs"] == 2
    assert saved["best_checkpoint"] == "checkpoints/best.ckpt"
    assert result.monitor == "validation_f1_score"


def test_training_logs_every_metric_of_the_contract(train: Any) -> None:
    names = set(train().metrics)
    for stage in ("train", "validation"):
        for metric in ("loss", "accuracy", "f1_score", "precision", "recall"):
            assert f"{stage}_{metric}" in names


def test_output_folder_is_first_and_last_line_of_stdout(train: Any, capfd: Any) -> None:
    result = train()
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == result.output_dir
    assert any(line.startswith("validation_accuracy: ") for line in lines)


def test_saved_config_trains_again_to_the_same_numbers(train: Any) -> None:
    first = train()
    again = main(["--config", f"{first.output_dir}/config.yaml"])
    assert again is not None
    assert again.metrics == first.metrics
    assert again.output_dir != first.output_dir
    before, after = (
        torch.load(Path(r.output_dir, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for r in (first, again)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_workers_do_not_change_the_numbers(train: Any) -> None:
    alone = train("--trainer.max_epochs", "1")
    helped = train("--trainer.max_epochs", "1", "--data.init_args.num_workers", "2")
    assert helped.metrics == alone.metrics


def test_another_seed_is_another_training(train: Any) -> None:
    first = train("--trainer.max_epochs", "1")
    second = train("--trainer.max_epochs", "1", "--seed_everything", "8")
    assert first.metrics != second.metrics


def test_saved_config_holds_no_mode_flags_and_no_checkpoint(train: Any) -> None:
    saved = yaml.safe_load(Path(train().output_dir, "config.yaml").read_text())
    assert set(saved) == {
        "seed_everything", "trainer", "model", "data", "custom_folder_name", "ckpt_path",
        "only_weights_load",
        "evaluation",
    }  # fmt: skip
    assert saved["ckpt_path"] is None


def test_random_seed_is_drawn_and_kept(train: Any) -> None:
    result = train("--seed_everything", "true", "--trainer.max_epochs", "1")
    saved = yaml.safe_load(Path(result.output_dir, "config.yaml").read_text())
    assert type(saved["seed_everything"]) is int
    assert saved["seed_everything"] == result.seed


def test_command_line_wins_over_later_file_over_earlier_file(config: Any, save: Any) -> None:
    first = save(config, "first.yaml")
    second = save({"trainer": {"max_epochs": 5, "limit_train_batches": 1}}, "second.yaml")
    result = main(["--config", first, "--config", second, "--trainer.max_epochs=1"])
    assert result is not None
    assert (result.num_epochs, result.num_steps) == (1, 1)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    ("words", "epochs", "steps"),
    [
        (["--trainer.limit_train_batches", "2"], 2, 4),
        (["--trainer.accumulate_grad_batches", "3"], 2, 2),
        (["--trainer.max_steps", "3"], 1, 3),
        (["--trainer.val_check_interval", "1", "--trainer.gradient_clip_val", "0.5"], 2, 6),
        (["--trainer.precision", "bf16-mixed", "--trainer.limit_val_batches", "1"], 2, 6),
        (["--trainer.check_val_every_n_epoch", "2", "--trainer.num_sanity_val_steps", "0"], 2, 6),
        (["--trainer.overfit_batches", "1"], 2, 2),
    ],
)
def test_trainer_keys_work(train: Any, words: list[str], epochs: int, steps: int) -> None:
    result = train(*words)
    assert (result.status, result.num_steps) == ("completed", steps)


def test_precision_16_on_cpu_is_reported_as_what_it_is(train: Any) -> None:
    result = train("--trainer.precision", "16", "--trainer.max_epochs", "1")
    assert result.precision == "bf16-mixed"
    assert "precision bf16-mixed" in Path(result.output_dir, "log.txt").read_text()


def test_fast_dev_run_writes_no_checkpoint(train: Any) -> None:
    result = train("--trainer.fast_dev_run", "true")
    assert result.status == "completed"
    assert result.best_checkpoint is None


def test_own_callbacks_replace_the_defaults(train: Any, config: Any) -> None:
    config["trainer"]["callbacks"] = [
        {
            "class_path": "ModelCheckpoint",
            "init_args": {
                "monitor": "validation_loss", "mode": "min", "save_top_k": 2,
                "filename": "{epoch}-{validation_loss:.2f}",
            },
        },
        {"class_path": "EarlyStopping", "init_args": {"monitor": "validation_loss"}},
        {"class_path": "TQDMProgressBar", "init_args": {"refresh_rate": 5}},
        {
            "class_path": "classifier.MetricsLogger",
            "init_args": {"metrics": ["torchmetrics.Accuracy"]},
        },
    ]  # fmt: skip
    result = train()
    names = sorted(item.name for item in Path(result.output_dir, "checkpoints").iterdir())
    assert names[:2] == ["best.ckpt", next(n for n in names if n.startswith("epoch="))]
    assert "last.ckpt" in names
    assert len(names) == 4
    assert result.monitor == "validation_loss"
    assert set(result.metrics) == {
        "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
    }  # fmt: skip


def test_best_checkpoint_is_the_one_with_the_best_score(train: Any) -> None:
    result = train("--trainer.max_epochs", "4")
    scores = [
        float(row["validation_f1_score"])
        for row in rows(Path(result.output_dir, "metrics.csv"))
        if row["validation_f1_score"]
    ]
    assert result.best_score == pytest.approx(max(scores))
    checkpoint = torch.load(Path(result.output_dir, "checkpoints/best.ckpt"), weights_only=True)
    assert checkpoint["epoch"] == scores.index(max(scores))


def test_training_without_validation_keeps_the_last_as_best(train: Any) -> None:
    result = train("--data.init_args.val_fraction", "0")
    assert result.best_checkpoint == "checkpoints/best.ckpt"
    assert not any(name.startswith("validation") for name in result.metrics)


@pytest.mark.parametrize("per_class", [2, 3])
def test_fewer_images_than_a_batch_still_train(
    train: Any, config: Any, workplace: Path, per_class: int
) -> None:
    few = write_classes(workplace / "few", per_class)
    sets = config["data"]["init_args"]["dataset_classes"]
    sets["train"]["init_args"]["root"] = str(few)
    assert train().num_steps > 0


def test_four_runs_of_the_same_second_get_four_folders(workplace: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from classifier.runs import create_run

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: create_run("same", "train", 0.0).folder, range(4)))
    assert len(set(runs)) == 4


def test_check_trains_nothing(config: Any, save: Any, workplace: Path, capfd: Any) -> None:
    result = main(["--check", "--config", save(config)])
    assert result is not None
    assert (result.mode, result.status, result.num_steps) == ("check", "completed", None)
    assert "no findings" in capfd.readouterr().out
    assert not (workplace / result.output_dir / "checkpoints").exists()


def test_print_config_gives_a_config_that_trains(config: Any, save: Any, capfd: Any) -> None:
    main(["--print_config", "--config", save(config)])
    printed = yaml.safe_load(capfd.readouterr().out)
    assert printed["data"]["init_args"]["val_fraction"] == 0.2
    result = main(["fit", "--config", save(printed, "printed.yaml"), "--trainer.max_epochs", "1"])
    assert result is not None and result.status == "completed"


def test_experiment_name_cannot_leave_the_runs_folder(train: Any) -> None:
    result = train("--custom_folder_name", "../../out/x", "--trainer.max_epochs", "1")
    assert result.output_dir.startswith("runs/out/x/")


def test_loss_that_is_not_finite_stops_the_run(train: Any, workplace: Path) -> None:
    from classifier.errors import RunError

    with pytest.raises(RunError, match=r"the (validation )?loss became (nan|inf)") as caught:
        train("--model.init_args.optimizer_config.lr", "1e30", "--trainer.max_epochs", "50")
    folder = next((workplace / "runs/colours").iterdir())
    saved = json.loads((folder / "result.json").read_text())
    assert saved["status"] == "failed"
    assert saved["error"] == str(caught.value)


def test_loss_that_is_not_finite_names_step_rate_and_files(train: Any) -> None:
    from classifier.errors import RunError

    with pytest.raises(RunError) as caught:
        train(
            "--model.init_args.optimizer_config", "{name: SGD, lr: 1e30}",
            "--data.init_args.val_fraction", "0", "--data.init_args.batch_size", "4",
        )  # fmt: skip
    pattern = (
        r"the loss became (nan|inf) at step \d \(epoch 0, batch \d with \w+/\d+\.png, .*lr 1e\+30\)"
    )
    assert re.match(pattern, str(caught.value))


def test_broken_image_names_the_file(train: Any, images: Path) -> None:
    from classifier.errors import RunError

    bad = images / "train/red/03.png"
    bad.write_bytes(bad.read_bytes()[:200])
    for workers in ("0", "1"):
        with pytest.raises((RunError, ConfigError), match=r"red/03\.png: ") as caught:
            train("--data.init_args.num_workers", workers, "--data.init_args.val_fraction", "0")
        assert "Traceback" not in str(caught.value)


# cifar10_fast has files of its own: tests/cli/test_cifar10_fast.py
SHIPPED = [file for file in sorted(Path("configs").glob("*.yaml")) if file.stem != "cifar10_fast"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_shipped_config_trains(
    file: Path, workplace: Path, images: Path, request: pytest.FixtureRequest
) -> None:
    """Every shipped YAML through main(), on small images, with the smallest model of its kind."""
    source = Path(str(request.config.rootpath)) / file
    small = dict.fromkeys(("quickstart", "folder", "sweep"), "timm/test_resnet")
    sweep = ["--optuna.n_trials", "2", "--optuna.confirm", "null"]
    test = ["--data.init_args.dataset_classes.test.init_args.root", str(images / "test")]
    model = small.get(file.stem) or str(_small_vit(workplace, 224))
    result = main(
        [
            "--config", str(source), "--model.model_name", model, "--model.pretrained", "false",
            "--data.init_args.dataset_classes.train.init_args.root", str(images / "train"),
            "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2",
            "--data.init_args.num_workers", "0", "--data.init_args.batch_size", "8",
            *(sweep if file.stem == "sweep" else []),
            *(test if file.stem == "quickstart" else []),
        ]
    )  # fmt: skip
    assert result is not None and result.status == "completed"


def _small_vit(folder: Path, size: int) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": size, "patch_size": 32,
    }  # fmt: skip
    model = ViTForImageClassification(ViTConfig(**sizes))
    model.save_pretrained(folder / "vit")
    return folder / "vit"


def test_metrics_table_has_one_row_a_step(train: Any) -> None:
    result = train("--trainer.log_every_n_steps", "1")
    table = rows(Path(result.output_dir, "metrics.csv"))
    assert [row["step"] for row in table] == [str(step) for step in range(6)]
    assert list(table[0])[:2] == ["epoch", "step"]
    for row in (table[2], table[5]):
        assert row["train_loss_step"] and row["train_loss"] and row["validation_loss"]


def test_two_checkpoint_callbacks_do_not_share_a_file(train: Any, config: Any) -> None:
    config["trainer"]["callbacks"] = [
        {"class_path": "ModelCheckpoint", "init_args": {"monitor": "validation_loss"}},
        {
            "class_path": "ModelCheckpoint",
            "init_args": {"monitor": "validation_f1_score", "mode": "max"},
        },
    ]
    result = train("--trainer.max_epochs", "3")
    checked = main(["--val", "--ckpt_path", result.output_dir])
    assert checked is not None
    assert result.monitor == "validation_loss"
    assert checked.metrics["validation_loss"] == pytest.approx(result.best_score)


def test_periodic_checkpoints_leave_the_best_one_in_place(train: Any, config: Any) -> None:
    config["trainer"]["callbacks"] = {
        "class_path": "ModelCheckpoint",
        "init_args": {"every_n_train_steps": 2, "save_top_k": -1, "filename": "s{step}"},
    }
    result = train()
    assert result.monitor == "validation_f1_score"
    names = {item.name for item in Path(result.output_dir, "checkpoints").iterdir()}
    assert {"best.ckpt", "last.ckpt", "sstep=2.ckpt", "sstep=4.ckpt", "sstep=6.ckpt"} <= names


def test_early_stop_and_data_are_told_in_the_log(train: Any, config: Any) -> None:
    config["trainer"]["callbacks"] = [
        {
            "class_path": "EarlyStopping",
            "init_args": {"monitor": "validation_loss", "patience": 1, "min_delta": 100.0},
        }
    ]
    result = train("--trainer.max_epochs", "9")
    text = Path(result.output_dir, "log.txt").read_text()
    assert "30 images (train 24, val 6) in 3 classes: blue 10, green 10, red 10" in text
    assert "EarlyStopping: validation_loss has not improved for 1 epochs; best" in text


def test_one_batch_is_not_all_of_them_whatever_was_imported_before() -> None:
    """typing remembers Optional[Union[float, int]] for later ones; jsonargparse then tries float."""
    from typing import get_type_hints

    import lightning as L

    from classifier.cli import ClassifierCLI

    hints = get_type_hints(L.Trainer.__init__)
    assert hints["limit_train_batches"] == float | int | None
    cli = ClassifierCLI(
        {
            "model": {"class_path": "ImageClassifier", "init_args": {"model_name": "timm/x"}},
            "data": {"class_path": "ImageDataModule", "init_args": {"dataset_classes": {}}},
            "trainer": {"limit_train_batches": 1, "limit_val_batches": 1.0},
        }
    )
    assert type(cli.config["trainer"]["limit_train_batches"]) is int
    assert type(cli.config["trainer"]["limit_val_batches"]) is float


@pytest.mark.parametrize(
    "callback", ["LearningRateMonitor", "LearningRateFinder", "EMAWeightAveraging"]
)
def test_callbacks_of_lightning_work_by_name(train: Any, config: Any, callback: str) -> None:
    config["trainer"]["callbacks"] = [{"class_path": callback}]
    assert train().status == "completed"


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "plateau", "patience": 0},
        {"name": "one_cycle"},
        {"name": "step", "step_size": 1, "warmup_ratio": 0.2},
        {"name": "linear", "warmup_epochs": 1},
        {"name": "ExponentialLR", "gamma": 0.9},
        {
            "name": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
            "T_0": 3,
            "interval": "step",
        },
    ],
    ids=lambda schedule: schedule["name"],
)
def test_schedules_train_and_resume(train: Any, config: Any, schedule: dict[str, Any]) -> None:
    config["model"]["init_args"]["scheduler_config"] = schedule
    first = train()
    more = train(
        "--ckpt_path", f"{first.output_dir}/checkpoints/last.ckpt", "--trainer.max_epochs", "3"
    )
    assert (first.num_epochs, more.num_epochs) == (2, 3)


def test_logger_of_ones_own_writes_beside_the_table(
    train: Any, config: Any, workplace: Path
) -> None:
    config["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    result = train()
    assert Path(result.output_dir, "metrics.csv").is_file()
    assert list((workplace / "logs").rglob("metrics.csv"))


@pytest.mark.parametrize("freeze", ["true", "false", "0.5"])
@pytest.mark.parametrize(
    "optimizer", ["{name: lamb, lr: 1e-3}", "{name: SGD, lr: 0.1, momentum: 0.9}"]
)
def test_freezing_and_optimizers_from_the_command_line(
    train: Any, freeze: str, optimizer: str
) -> None:
    result = train(
        "--model.freeze_encoder", freeze, "--model.optimizer_config", optimizer,
        "--trainer.max_epochs", "1",
    )  # fmt: skip
    assert result.status == "completed"
