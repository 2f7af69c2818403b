"""Every mistake gives one message that names the key and the remedy, code 2, and no run folder."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from classifier import entry, main
from classifier.entry import console
from classifier.errors import ConfigError
from classifier.trees import override

MODEL = "model.init_args"
DATA = "data.init_args"
TRAIN = f"{DATA}.dataset_classes.train.init_args"
AUGMENT = f"{DATA}.augmentations.train"

# (key, value put there, the whole message)
TABLE: list[tuple[str, Any, str]] = [
    (
        f"{MODEL}.model_name", "timm/test_resnett",
        "model.init_args.model_name: timm has no such model, got 'timm/test_resnett'. "
        "See timm.list_models() for all names. Did you mean 'timm/test_resnet'?",
    ),
    (
        f"{MODEL}.model_name", "./nowhere",
        "model.init_args.model_name: no such model or folder, got './nowhere'. "
        "Write timm/<name>, torchvision/<name>, <org>/<name> on the Hugging Face Hub, an existing folder, or the import path of a module.",
    ),
    (
        f"{MODEL}.num_classes", 5,
        "model.init_args.num_classes: disagrees with the data, which has 3 classes "
        "(blue, green, red), got 5. Write null to take it from the data.",
    ),
    (
        f"{MODEL}.freeze_encoder", 1.5,
        "model.init_args.freeze_encoder: must be false, true or a fraction in [0, 1], got 1.5. "
        "Write for example 0.5.",
    ),
    (
        f"{MODEL}.freeze_encoder", "half",
        "model.init_args.freeze_encoder: must be true or false or a number, got 'half'.",
    ),
    (
        f"{MODEL}.optimizer_config", {"name": "AdamWW"},
        "model.init_args.optimizer_config.name: unknown optimizer, got 'AdamWW'. Write a class of "
        "torch.optim, a name of timm.optim, or an import path. Did you mean 'AdamW'?",
    ),
    (
        f"{MODEL}.optimizer_config", {"name": "SGD", "momentun": 0.9},
        "model.init_args.optimizer_config.momentun: SGD takes no 'momentun'. It takes lr, "
        "momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused, "
        "lr_backbone, lr_head, layer_decay, decay_norms_and_biases. Did you mean 'momentum'?",
    ),
    (
        f"{MODEL}.loss_config", {"name": "focl"},
        "model.init_args.loss_config.name: unknown loss, got 'focl'. Write cross_entropy, bce, "
        "focal, or the import path of a class. Did you mean 'focal'?",
    ),
    (
        f"{MODEL}.mixup_config", {"mixup_alfa": 0.2},
        "model.init_args.mixup_config.mixup_alfa: Mixing takes no 'mixup_alfa'. It takes "
        "mixup_alpha, cutmix_alpha, prob, switch_prob, mixup_off_epoch. "
        "Did you mean 'mixup_alpha'?",
    ),
    (
        f"{MODEL}.optimizer_config.lr", "fast",
        "model.init_args.optimizer_config.lr: must be a number, got 'fast'.",
    ),
    (
        f"{MODEL}.optimizer_config", {"layer_decay": 2},
        "model.init_args.optimizer_config.layer_decay: must be a number in (0, 1], got 2. "
        "Write for example 0.75.",
    ),
    (
        f"{MODEL}.unfreeze_schedule", {2: "all"},
        "model.init_args.unfreeze_schedule: must say what is trained from epoch 0 on, and in no "
        "epoch before, got {2: 'all'}. Write for example {0: head, 2: 0.25, 4: all}.",
    ),
    (
        f"{MODEL}.unfreeze_schedule", {0: "head", 3: "everything"},
        "model.init_args.unfreeze_schedule.3: must be head, all or a fraction in [0, 1], got "
        "'everything'. Write for example 0.25.",
    ),
    (
        f"{MODEL}.unfreeze_schedule", {0: 0.5, 3: 0.25},
        "model.init_args.unfreeze_schedule.3: trains less than epoch 0 does; what is trained once "
        "is not frozen again, got 0.25. Let the fractions grow.",
    ),
    (
        f"{MODEL}.scheduler_config", {"name": "cosin"},
        "model.init_args.scheduler_config.name: unknown schedule, got 'cosin'. Write constant, "
        "cosine, linear, one_cycle, plateau, step, a class of torch.optim.lr_scheduler, or an "
        "import path. Did you mean 'cosine'?",
    ),
    (
        f"{MODEL}.scheduler_config", {"name": "cosine", "warmup": 1},
        "model.init_args.scheduler_config.warmup: cosine takes no 'warmup'. It takes "
        "warmup_epochs, warmup_ratio, min_lr. Did you mean 'warmup_ratio'?",
    ),
    (
        f"{MODEL}.scheduler_config", {"name": "plateau", "monitor": "val_loss"},
        "model.init_args.scheduler_config.monitor: this metric will not be logged, got 'val_loss'. "
        "The names are train_loss, train_accuracy, train_f1_score, train_precision, train_recall, "
        "validation_loss, validation_accuracy, validation_f1_score, validation_precision, "
        "validation_recall. Did you mean 'validation_loss'?",
    ),
    (
        f"{MODEL}.optimzer_config", {},
        "model.init_args.optimzer_config: ImageClassifier takes no 'optimzer_config'. It takes "
        "model_name, pretrained, num_classes, freeze_encoder, optimizer_config, scheduler_config, "
        "task, class_weights, thresholds, model_args, drop_rate, drop_path_rate and 8 more. Did you mean 'optimizer_config'?",
    ),
    (
        "model.class_path", "classifier.ImageClasifier",
        "model.class_path: classifier has no 'ImageClasifier', got 'classifier.ImageClasifier'. "
        "Correct the name. Did you mean 'ImageClassifier'?",
    ),
    (
        f"{DATA}.batch_size", 0,
        "data.init_args.batch_size: must be at least 1, got 0. Write a whole number from 1 on.",
    ),
    (
        f"{DATA}.dataset_classes", "photos",
        "data.init_args.dataset_classes: must be a mapping, got 'photos'. Write "
        "{train: {class_path: FolderImageDataset, init_args: {root: FOLDER}}}.",
    ),
    (
        "trainer.precision", "bf16_mixed",
        "trainer.precision: must be a whole number or one of 'transformer-engine', "
        "'transformer-engine-float16', '16-true', '16-mixed', 'bf16-true', 'bf16-mixed', "
        "'32-true', '64-true' or one of '64', '32', '16', 'bf16' or null, got 'bf16_mixed'. "
        "Write auto, 32-true, bf16-mixed or 16-mixed. Did you mean 'bf16-mixed'?",
    ),
    (f"{DATA}.batch_size", 2.5, "data.init_args.batch_size: must be a whole number, got 2.5."),
    (
        f"{DATA}.val_fraction", 1.0,
        "data.init_args.val_fraction: must be in [0, 1), got 1.0. Write for example 0.2.",
    ),
    (
        f"{DATA}.dataset_classes.vall", None,
        "data.init_args.dataset_classes.vall: unknown stage. The stages are train, val, test, "
        "predict. Did you mean 'val'?",
    ),
    (
        f"{TRAIN}.rot", "x",
        "data.init_args.dataset_classes.train.init_args.rot: FolderImageDataset takes no 'rot'. "
        "It takes root, augmentations. Did you mean 'root'?",
    ),
    (
        f"{TRAIN}.root", 3,
        "data.init_args.dataset_classes.train.init_args.root: must be text, got 3.",
    ),
    (
        f"{AUGMENT}.0.init_args.hight", 3,
        "data.init_args.augmentations.train.0.init_args.hight: Resize takes no 'hight'. It takes "
        "height, width, interpolation, mask_interpolation, area_for_downscale, p. "
        "Did you mean 'height'?",
    ),
    (
        f"{AUGMENT}.1.class_path", "albumentations.HorizontalFlp",
        "data.init_args.augmentations.train.1.class_path: albumentations has no 'HorizontalFlp', "
        "got 'albumentations.HorizontalFlp'. Correct the name. Did you mean 'HorizontalFlip'?",
    ),
    (
        "trainer.max_epoch", 3,
        "trainer.max_epoch: Trainer takes no 'max_epoch'. It takes accelerator, strategy, devices, "
        "num_nodes, precision, logger, callbacks, fast_dev_run, max_epochs, min_epochs, max_steps, "
        "min_steps and 29 more. Did you mean 'max_epochs'?",
    ),
    (
        "trainer.max_epochs", "many",
        "trainer.max_epochs: must be a whole number or null, got 'many'.",
    ),
    (
        "trainer.callbacks", [{"class_path": "ModelCheckpont"}],
        "trainer.callbacks.0.class_path: no such class, got 'ModelCheckpont'. "
        "Write its whole import path. Did you mean 'ModelCheckpoint'?",
    ),
    (
        "trainer.callbacks",
        [{"class_path": "EarlyStopping", "init_args": {"monitor": "validation_f1"}}],
        "trainer.callbacks.0.init_args.monitor: this metric will not be logged, got "
        "'validation_f1'. The names are train_loss, train_accuracy, train_f1_score, "
        "train_precision, train_recall, validation_loss, validation_accuracy, "
        "validation_f1_score, validation_precision, validation_recall. "
        "Did you mean 'validation_f1_score'?",
    ),
    (
        "trainer.callbacks",
        [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "validation_f1_score"}}],
        "trainer.callbacks.0.init_args.mode: min would look for the worst validation_f1_score, "
        "got 'min'. Write mode: max.",
    ),
    (
        "trainer.callbacks",
        [{"class_path": "classifier.MetricsLogger", "init_args": {"metrics": ["F1Scor"]}}],
        "trainer.callbacks.0.init_args.metrics.0.class_path: torchmetrics has no such metric, got "
        "'F1Scor'. Write a class of torchmetrics or an import path. Did you mean 'F1Score'?",
    ),
    (
        f"{DATA}.dataset_classes.test", "photos",
        "data.init_args.dataset_classes.test: needs a class_path beside init_args, got 'photos'. "
        "Write {class_path: FolderImageDataset, init_args: {root: FOLDER}}.",
    ),
    (
        f"{DATA}.dataset_classes.val", {"init_args": {"root": "photos"}},
        "data.init_args.dataset_classes.val: needs a class_path beside init_args, got "
        "{'init_args': {'root': 'photos'}}. "
        "Write {class_path: FolderImageDataset, init_args: {root: FOLDER}}.",
    ),
    (
        "only_weights_load", True,
        "only_weights_load: there is no checkpoint to take the weights from, got True. "
        "Add ckpt_path, or write false.",
    ),
    (
        f"{MODEL}.scheduler_config", {"name": "step", "step_size": 0},
        "model.init_args.scheduler_config: step refuses its arguments: float division by zero, "
        "got {'name': 'step', 'step_size': 0}.",
    ),
    (
        "trainer.callbacks",
        [{"class_path": "classifier.MetricsLogger", "init_args": {"metrics": ["ConfusionMatrix"]}}],
        "trainer.callbacks.0.init_args.metrics.0: ConfusionMatrix gives more than one number, "
        "which cannot be logged. Choose an average such as macro, or another metric.",
    ),
    ("seed_everything", "x", "seed_everything: must be true or false or a whole number, got 'x'."),
    ("trainer.max_epochs", 0, "trainer.max_epochs: trains nothing, got 0. Write 1 or more."),
    ("trainer.max_steps", 0,
     "trainer.max_steps: trains nothing, got 0. Write 1 or more, or leave it out for no limit."),
    ("trainer.limit_train_batches", 0, "trainer.limit_train_batches: trains nothing, got 0. "
     "Write a number of batches or a fraction of them, or leave it out."),
    ("trainer.limit_train_batches", 0.0, "trainer.limit_train_batches: trains nothing, got 0.0. "
     "Write a number of batches or a fraction of them, or leave it out."),
    ("trainer", {"max_epochs": 1, "devices": [0, 1], "accelerator": "cpu"},
     "trainer: `devices` selected with `CPUAccelerator` should be an int > 0."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"), TABLE, ids=[f"{row[0]}={row[1]}"[:60] for row in TABLE]
)
def test_mistake_is_told_in_one_message(
    config: Any, save: Any, workplace: Path, key: str, value: Any, message: str
) -> None:
    override(config, key, value)
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config)])
    assert str(caught.value) == message
    assert not (workplace / "runs").exists()


FILES: list[tuple[str, str]] = [
    ("model: {}\nlr: 1\n", "bad.yaml: lr: unknown key. The top-level keys are seed_everything, "
     "ckpt_path, custom_folder_name, only_weights_load, model, data, trainer, evaluation, optuna."),
    ("trainer:\n  lr: 1\n  lr: 2\n", "bad.yaml: line 3: the key 'lr' stands twice, first in line 2."),
    ("a: [1,\nb: 2\n", "bad.yaml line 3, column 1: not valid YAML: expected ',' or ']', but got '<stream end>'."),
    ("choices: [on, off, no]\n", "bad.yaml: line 1: 'on' may mean a word or a truth value; quote it "
     "('on') or write true or false."),
    ("- 1\n", "bad.yaml: must hold keys such as model, data and trainer, got [1]. "
     "See configs/folder.yaml for a complete file."),
    ("trainer: 3\n", "bad.yaml: trainer: must be a mapping of keys, got 3. "
     "Write the keys of trainer indented below it."),
    ("data: {class_path: ImageDataModule}\n", "data.init_args.dataset_classes: is missing; "
     "ImageDataModule needs it. Add dataset_classes."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FILES, ids=[row[0][:20] for row in FILES])
def test_bad_file_is_told_in_one_message(workplace: Path, text: str, message: str) -> None:
    (workplace / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        main(["--config", "bad.yaml"])
    assert str(caught.value) == message
    assert not (workplace / "runs").exists()


WORDS: list[tuple[list[str], str]] = [
    (["--config", "nope.yaml"], "--config: no such file, got 'nope.yaml'. Give the path of a YAML file."),
    (["--config", "cgf.yaml"], "--config: no such file, got 'cgf.yaml'. Give the path of a YAML file. "
     "Did you mean 'cfg.yaml'?"),
    ([], "--config: is missing. Write --config FILE, or see --help."),
    (["--test"], "--test: needs a checkpoint. Add --ckpt_path with a .ckpt file or a run folder."),
    (["validate"], "validate: needs a checkpoint. Add --ckpt_path with a .ckpt file or a run folder."),
    (["--val", "--test", "--ckpt_path", "x"],
     "--test: stands beside --val; a command does one thing. Keep one of the two."),
    (["--trainr.max_epochs", "3"], "--trainr.max_epochs: unknown option. See --help. Did you mean '--trainer'?"),
    (["--config"], "--config: needs a value. Write --config VALUE."),
    (["trian"], "trian: unexpected word. Options begin with two dashes; see --help. Did you mean 'train'?"),
    (["--test", "--ckpt_path", "nope.ckpt"],
     "ckpt_path: no such file or folder, got 'nope.ckpt'. Give a .ckpt file or a run folder."),
    (["--test", "--ckpt_path", "https://example.org/x.ckpt"],
     "ckpt_path: remote checkpoints are not opened, got 'https://example.org/x.ckpt'. "
     "Download the file first."),
    (["--test", "--ckpt_path", "."], "ckpt_path: the folder holds no checkpoints/best.ckpt or last.ckpt, "
     "got '.'. Give the folder of a training run, or a .ckpt file."),
    (["--config", "cfg.yaml", "--data.init_args.augmentations.train.7.p", "1"],
     "data.init_args.augmentations.train.7: the list has 2 items, got '7'. Write an index from 0 to 1."),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WORDS, ids=[" ".join(row[0])[:40] for row in WORDS])
def test_wrong_usage_is_told_in_one_message(
    config: Any, save: Any, workplace: Path, words: list[str], message: str
) -> None:
    save(config)
    with pytest.raises(ConfigError) as caught:
        main(words)
    assert str(caught.value) == message
    assert not (workplace / "runs").exists()


ROOTS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda root: root.rmdir(), "no such folder, got 'r'."),
    (lambda root: None, "no images in this folder; it holds 0 folders and 0 files, got 'r'."),
    (lambda root: (root / "x.txt").write_text(""),
     "no images in this folder; it holds 0 folders and 1 files (.txt), got 'r'."),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ROOTS)
def test_root_without_images_says_what_was_found(
    config: Any, save: Any, workplace: Path, make: Any, message: str
) -> None:
    (workplace / "r").mkdir()
    make(workplace / "r")
    override(config, f"{TRAIN}.root", "r")
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config)])
    assert str(caught.value).startswith(f"{TRAIN}.root: {message}")


def test_one_class_is_refused(config: Any, save: Any, workplace: Path) -> None:
    from tests.conftest import write_classes

    write_classes(workplace / "r", 3, ["red"])
    override(config, f"{TRAIN}.root", "r")
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config)])
    assert str(caught.value) == (
        "data.init_args.dataset_classes.train: needs at least two classes, got ['red']. "
        "Put the images into one sub-folder per class."
    )


@pytest.mark.parametrize("words", [[], ["--check"]])
def test_empty_class_folder_is_refused(
    config: Any, save: Any, images: Path, workplace: Path, words: list[str]
) -> None:
    for name in ("void", "words"):
        (images / "train" / name).mkdir()
    (images / "train" / "words" / "x.txt").write_text("")
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config), *words])
    assert str(caught.value) == (
        "data.init_args.dataset_classes.train: has class folders without an image: void holds "
        "0 folders and 0 files; words holds 0 folders and 1 files (.txt). Put images into each or "
        "take it away; or list the classes that there are in data.init_args.class_names."
    )
    assert not (workplace / "runs").exists()


def test_image_size_that_the_encoder_refuses_names_the_right_one(config: Any, save: Any) -> None:
    override(config, f"{MODEL}.model_name", "timm/vit_tiny_patch16_224")
    with pytest.raises(ConfigError) as caught:
        main(["--config", save(config)])
    text = str(caught.value)
    assert text.startswith("data.init_args.augmentations.train: gives images of 32 x 32 pixels")
    assert text.endswith(
        "write null, or give model.init_args.image_size: 32 if the encoder can take it."
    )


def test_program_ends_with_code_2_and_no_traceback(
    workplace: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py", "--config", "nope.yaml"])
    assert console() == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "--config: no such file, got 'nope.yaml'. Give the path of a YAML file."
    ]


def test_yaml_numbers_mean_numbers_by_every_path(config: Any, save: Any, workplace: Path) -> None:
    text = Path(save(config)).read_text().replace("lr: 0.003", "lr: 1e-5")
    (workplace / "small.yaml").write_text(text)
    for words in (
        ["--config", "small.yaml"],
        ["--config", "cfg.yaml", f"--{MODEL}.optimizer_config.lr", "1e-5"],
    ):
        import io
        from contextlib import redirect_stdout

        from classifier.config import parse_yaml

        printed = io.StringIO()
        with redirect_stdout(printed):
            main(["--print_config", *words])
        resolved = parse_yaml(printed.getvalue())
        assert resolved["model"]["init_args"]["optimizer_config"]["lr"] == 1e-5


def test_full_disk_is_told_in_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/config.yaml")

    monkeypatch.setattr(entry, "main", full)
    assert entry.console([]) == 1
    assert capsys.readouterr().err == (
        "runs/x/config.yaml: No space left on device. Free disk space; what was written before is "
        "whole\n"
    )
