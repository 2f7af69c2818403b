from __future__ import annotations

import os
import pickle
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import ImageClassifier, main
from classifier.checkpoint_writing import WholeFileIO
from classifier.checkpoints import (
    load_checkpoint,
    random_state,
    restore_random_state,
)
from classifier.config import check_trusted
from classifier.errors import ConfigError, RunError


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch marker",))


@pytest.mark.parametrize("shape", [{"x": Evil()}, {"state_dict": {}, "config": Evil()}])
def test_code_in_a_checkpoint_is_never_run(workplace: Path, shape: Any) -> None:
    torch.save(shape, workplace / "evil.ckpt")
    (workplace / "plain.ckpt").write_bytes(pickle.dumps(shape))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(ConfigError, match="holds code, which is never run"):
            main(["--test", "--ckpt_path", name])
    assert not (workplace / "marker").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ckpt_path: the file is empty, got 'x.ckpt'."),
        (b"PK\x03\x04 cut short", "ckpt_path: the file is damaged, got 'x.ckpt'."),
        (b"hello, I am a text", "ckpt_path: the file is no checkpoint, or holds code"),
    ],
)
def test_unreadable_checkpoint_is_told_in_words(
    workplace: Path, content: bytes, message: str
) -> None:
    (workplace / "x.ckpt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        main(["--test", "--ckpt_path", "x.ckpt"])
    assert str(caught.value).startswith(message)


def test_truncated_checkpoint_is_told_in_words(trained: Path, workplace: Path) -> None:
    whole = (trained / "checkpoints/best.ckpt").read_bytes()
    (workplace / "x.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="the file is damaged"):
        main(["--test", "--ckpt_path", "x.ckpt"])


def test_checkpoint_of_another_program_is_told_in_words(workplace: Path) -> None:
    torch.save({"model": {}}, workplace / "x.ckpt")
    with pytest.raises(ConfigError, match="a checkpoint of another program"):
        main(["--test", "--ckpt_path", "x.ckpt"])


def _with_callback(trained: Path, class_path: str) -> Path:
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    checkpoint["config"]["trainer"]["callbacks"] = [{"class_path": class_path}]
    torch.save(checkpoint, "x.ckpt")
    return Path("x.ckpt")


def test_checkpoint_cannot_name_code_outside_the_trusted_packages(
    trained: Path, workplace: Path, monkeypatch: Any
) -> None:
    (workplace / "side_effect.py").write_text(
        "from pathlib import Path\nPath('marker').touch()\nfrom lightning.pytorch.callbacks import Callback\n"
        "class Watch(Callback): pass\n"
    )
    monkeypatch.syspath_prepend(str(workplace))
    file = _with_callback(trained, "side_effect.Watch")
    with pytest.raises(ConfigError) as caught:
        main(["--test", "--ckpt_path", str(file)])
    assert str(caught.value).startswith("trainer.callbacks.0.class_path: the checkpoint")
    assert str(caught.value).endswith(
        "If you trust this checkpoint, add --allow_module side_effect."
    )
    assert not (workplace / "marker").exists()
    assert main(["--test", "--ckpt_path", str(file), "--allow_module", "side_effect"]) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer_config", {"name": "os.system"}),
        ("scheduler_config", {"name": "subprocess.run"}),
        ("loss_config", {"name": "os.system"}),
    ],
)
def test_checkpoint_cannot_name_code_by_name(
    trained: Path, workplace: Path, key: str, value: Any
) -> None:
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    checkpoint["config"]["model"]["init_args"][key] = value
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(ConfigError, match="outside the trusted packages"):
        main(["--test", "--ckpt_path", "x.ckpt"])


def test_checkpoint_cannot_name_a_metric_of_foreign_code(trained: Path, workplace: Path) -> None:
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    checkpoint["config"]["trainer"]["callbacks"] = [
        {"class_path": "classifier.MetricsLogger", "init_args": {"metrics": ["evil.Metric"]}}
    ]
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(ConfigError, match="outside the trusted packages"):
        main(["--test", "--ckpt_path", "x.ckpt"])


def test_load_from_checkpoint_needs_no_arguments(trained: Path) -> None:
    model = ImageClassifier.load_from_checkpoint(
        trained / "checkpoints/best.ckpt", map_location="cpu", weights_only=True
    )
    assert model.class_names == ["blue", "green", "red"]
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 3)


def _fork(work: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_kill_during_a_save_leaves_a_checkpoint_that_loads(workplace: Path) -> None:
    target = workplace / "last.ckpt"
    content = {"state_dict": {"w": torch.randn(300, 300)}}
    WholeFileIO().save_checkpoint(content, target)

    def save_for_ever() -> None:
        while True:
            WholeFileIO().save_checkpoint(content, target)

    for kill in range(20):
        child = _fork(save_for_ever)
        time.sleep(0.005 + kill * 0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded = torch.load(target, weights_only=True)
        assert torch.equal(loaded["state_dict"]["w"], content["state_dict"]["w"])


def test_full_disk_keeps_the_checkpoint_before(workplace: Path) -> None:
    target = workplace / "last.ckpt"
    WholeFileIO().save_checkpoint({"x": torch.ones(3)}, target)
    large = torch.ones(100_000)  # made here: a forked child must not compute with torch

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            WholeFileIO().save_checkpoint({"x": large}, target)
        except RunError as error:
            (workplace / "said").write_text(str(error))

    os.waitpid(_fork(fill), 0)
    assert "could not be written" in (workplace / "said").read_text()
    assert torch.equal(torch.load(target, weights_only=True)["x"], torch.ones(3))
    assert sorted(item.name for item in workplace.iterdir()) == ["last.ckpt", "said"]


def test_random_state_comes_back(workplace: Path) -> None:
    import random

    import numpy as np

    torch.save(random_state(), "state.pt")
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    restore_random_state(torch.load("state.pt", weights_only=True))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


@pytest.mark.parametrize(
    "trainer",
    [
        {"callbacks": ["evilmod.CB"]},
        {"callbacks": "evilmod.CB"},
        {"callbacks": "{class_path: evilmod.CB}"},
        {"callbacks": ["[{class_path: evilmod.CB}]"]},
        {
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                    "init_args": {"on_predict_start": "evilmod.f"},
                }
            ]
        },
    ],
)
def test_code_hides_in_no_other_form_of_the_configuration(
    trained: Path, workplace: Path, monkeypatch: Any, trainer: Any
) -> None:
    (workplace / "evilmod.py").write_text("from pathlib import Path\nPath('marker').touch()\n")
    monkeypatch.syspath_prepend(str(workplace))
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    checkpoint["config"]["trainer"] = trainer
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(ConfigError, match="outside the trusted packages"):
        main(["--test", "--ckpt_path", "x.ckpt"])
    assert not (workplace / "marker").exists()


@pytest.mark.parametrize(
    "path", ["torch.os.system", "torch.hub.os.system", "classifier.main", "torch.hub.load"]
)
def test_functions_behind_a_trusted_name_are_not_trusted(
    trained: Path, workplace: Path, path: str
) -> None:
    folder = workplace / "evil" / "cat"
    folder.mkdir(parents=True)
    (folder / "a; touch marker;.png").write_bytes(b"")
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    checkpoint["config"]["data"]["init_args"]["dataset_classes"]["test"] = {
        "class_path": "torchvision.datasets.ImageFolder",
        "init_args": {"root": "evil", "is_valid_file": path},
    }
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(ConfigError, match="names what is no class of a trusted package"):
        main(["--test", "--ckpt_path", "x.ckpt"])
    assert not (workplace / "marker").exists()


@pytest.mark.parametrize("damage", ["class_names", "network", "weights"])
def test_checkpoint_whose_parts_do_not_fit_is_told_in_words(
    trained: Path, workplace: Path, damage: str
) -> None:
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    if damage == "class_names":
        checkpoint["image_classifier"]["class_names"].pop()
    elif damage == "network":
        checkpoint["image_classifier"]["network"] = {"source": "zzz"}
    else:
        checkpoint["state_dict"].pop("network.model.fc.bias")
    torch.save(checkpoint, "x.ckpt")
    with pytest.raises(ConfigError, match="the checkpoint's parts do not fit each other"):
        main(["--test", "--ckpt_path", "x.ckpt"])


def test_checkpoint_of_several_own_modules_names_them_all() -> None:
    config = {"model": {"class_path": "one.X"}, "trainer": {"callbacks": ["two.sub.Y", "torch.Z"]}}
    with pytest.raises(ConfigError, match="add --allow_module one --allow_module two"):
        check_trusted(config, frozenset(), "last.ckpt")
