"""--verify_repro: equal trainings are told from unequal ones, and the first difference is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier import main
from classifier.commands import verify_repro
from classifier.entry import console
from classifier.errors import ConfigError, RunError
from classifier.runs import RUN_DIR_VARIABLE, TRIAL_DIR_VARIABLE, Result

QUANTITIES = ["initial weights", "batch order", "augmented pixels", "losses", "weights"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainings in this process: a fresh one each takes most of the time of this command."""

    def run_program(words: Sequence[str], folder: Path) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TRIAL_DIR_VARIABLE, str(folder.resolve()))
            patch.delenv(RUN_DIR_VARIABLE, raising=False)
            return console(words)

    monkeypatch.setattr(verify_repro, "run_program", run_program)


@pytest.fixture
def verify(config: dict[str, Any], save: Any) -> Any:
    def run(*words: str) -> Result:
        result = main(["--verify_repro", *words, "--config", save(config)])
        assert result is not None
        return result

    return run


def found(workplace: Path) -> dict[str, Any]:
    (file,) = workplace.glob("runs/colours/*/repro.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def differing(workplace: Path) -> list[tuple[str, str, int, str | None]]:
    return [
        (item["training"], item["quantity"], item["step"], item["name"])
        for item in found(workplace)["findings"]
        if item["step"] is not None
    ]


@pytest.mark.usefixtures("in_process")
def test_training_is_reproducible_over_several_epochs(
    config: dict[str, Any], verify: Any, workplace: Path, capfd: Any
) -> None:
    config["model"]["init_args"] |= {
        "mixup_config": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}, "drop_rate": 0.3,
    }  # fmt: skip
    config["trainer"]["callbacks"] = [
        {
            "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
            "init_args": {"decay": 0.9},
        }
    ]
    result = verify("5")
    assert (result.status, result.mode) == ("completed", "verify_repro")
    names = [*QUANTITIES, "averaged weights"]
    told = [(item["training"], item["quantity"]) for item in found(workplace)["findings"]]
    assert told == [(training, name) for training in ("repeated", "resumed") for name in names]
    assert differing(workplace) == []
    content = found(workplace)
    # 24 images in batches of 8: the interruption is in the first epoch, the end in the second.
    assert (content["num_steps"], content["interrupted_after"], content["identical"]) == (
        5,
        2,
        True,
    )
    lines = capfd.readouterr().out.splitlines()
    assert "repeated: weights identical over 5 steps" in lines
    assert "resumed: averaged weights identical over 5 steps" in lines
    assert not list(workplace.rglob("*.ckpt"))


@pytest.mark.usefixtures("in_process")
def test_nothing_is_measured_for_a_few_steps(
    config: dict[str, Any], verify: Any, workplace: Path, measured: list[Any]
) -> None:
    config["data"]["init_args"]["num_workers"] = "auto"
    verify("2")
    assert measured == []
    trees = [yaml.safe_load(file.read_text()) for file in workplace.rglob("given.yaml")]
    open_ = {tree["model"]["init_args"]["channels_last"] for tree in trees}
    assert len(trees) == 4 and open_ == {True}


@pytest.mark.usefixtures("in_process")
def test_interruption_behind_an_epoch_is_no_difference(
    config: dict[str, Any], verify: Any, workplace: Path
) -> None:
    arguments = {"dirpath": str(workplace / "own"), "monitor": "validation_loss"}
    config["trainer"]["callbacks"] = [{"class_path": "ModelCheckpoint", "init_args": arguments}]
    verify("6")  # both epochs have three steps
    assert not (workplace / "own").exists()
    assert found(workplace)["interrupted_after"] == 3
    assert found(workplace)["identical"]


@pytest.mark.usefixtures("in_process")
def test_every_batch_is_compared_when_gradients_are_accumulated(
    verify: Any, workplace: Path
) -> None:
    verify("2", "--trainer.accumulate_grad_batches", "2", "--data.init_args.batch_size", "4")
    (trace,) = workplace.glob("runs/colours/*/passes/first/trace_0.jsonl")
    steps = [json.loads(line)["step"] for line in trace.read_text().splitlines()]
    assert steps == [0, 0, 1, 1, 2]
    assert found(workplace)["identical"]


@pytest.mark.usefixtures("in_process")
def test_short_training_is_compared_whole(verify: Any, workplace: Path) -> None:
    verify("--trainer.max_epochs", "1")
    assert (found(workplace)["num_steps"], found(workplace)["identical"]) == (3, True)


@pytest.mark.usefixtures("in_process")
def test_frozen_part_is_computed_in_every_step(verify: Any, workplace: Path) -> None:
    verify(
        "3", "--model.init_args.freeze_encoder", "true", "--data.init_args.augmentations", "null"
    )
    assert found(workplace)["identical"]
    assert not list(workplace.rglob("features"))
    names = [item["quantity"] for item in found(workplace)["findings"]]
    assert "augmented pixels" in names


@pytest.mark.usefixtures("in_process")
def test_image_is_named_when_an_augmentation_is_not_seeded(
    config: dict[str, Any], verify: Any, workplace: Path, images: Path
) -> None:
    noise = {"class_path": "tests.cli.unsteady.UnseededNoise"}
    config["data"]["init_args"]["augmentations"]["train"].append(noise)
    with pytest.raises(RunError, match=r"repeated: augmented pixels differ, first in ") as error:
        verify("3")
    training, quantity, step, name = differing(workplace)[0]
    assert (training, quantity, step) == ("repeated", "augmented pixels", 1)
    assert name is not None and (images / "train" / name).is_file()
    assert f"{name} from step 1 on. An augmentation or a data set draws" in str(error.value)
    assert not any(item[1] in ("initial weights", "batch order") for item in differing(workplace))


@pytest.mark.usefixtures("in_process")
def test_parameter_is_named_when_the_first_weights_are_not_seeded(
    verify: Any, workplace: Path
) -> None:
    with pytest.raises(RunError, match=r"repeated: initial weights differ, first in .*head\.bias"):
        verify("3", "--model.init_args.model_name", "tests.cli.unsteady.UnseededStart")
    assert differing(workplace)[0][:3] == ("repeated", "initial weights", 0)


@pytest.mark.usefixtures("in_process")
def test_step_is_named_when_weights_part_later(
    config: dict[str, Any], verify: Any, workplace: Path
) -> None:
    config["trainer"]["callbacks"] = [{"class_path": "tests.cli.unsteady.UnseededNudge"}]
    with pytest.raises(RunError, match=r"repeated: weights differ, first in .*bias from step 3 on"):
        verify("4")
    assert {item[:3] for item in differing(workplace)} >= {("repeated", "weights", 3)}


@pytest.mark.usefixtures("in_process")
def test_resume_is_named_when_a_state_is_not_in_the_checkpoint(
    config: dict[str, Any], verify: Any, workplace: Path
) -> None:
    config["trainer"]["callbacks"] = [{"class_path": "tests.cli.unsteady.ForgetfulNudge"}]
    with pytest.raises(RunError, match=r"resumed: weights differ.* step 3 .*not in the checkpoint"):
        verify("4")
    assert {item[0] for item in differing(workplace)} == {"resumed"}


@pytest.mark.usefixtures("in_process")
def test_reason_is_told_when_a_training_fails(
    config: dict[str, Any], verify: Any, workplace: Path
) -> None:
    config["trainer"]["callbacks"] = [
        {
            "class_path": "tests.cli.interrupting.BreakLoss",
            "init_args": {"rank": 0},
        }
    ]
    with pytest.raises(
        RunError, match=r"the training first failed: .*See runs/colours/.*/output\.txt"
    ):
        verify("3")
    (result,) = workplace.glob("runs/colours/*/result.json")
    assert json.loads(result.read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1"], "--verify_repro: needs a whole number, at least 2, got '1'"),
        (["many"], "--verify_repro: needs a whole number, at least 2, got 'many'"),
        (
            ["--trainer.fast_dev_run", "true"],
            "trainer.fast_dev_run: --verify_repro needs checkpoints",
        ),
        (["--test"], "--test: stands beside --verify_repro"),
    ],
)
def test_mistake_is_found_before_any_training(
    verify: Any, workplace: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        verify(*words)
    assert str(error.value).startswith(message)
    assert not (workplace / "runs").exists()


@pytest.mark.usefixtures("in_process")
def test_training_of_one_step_cannot_be_interrupted(verify: Any) -> None:
    with pytest.raises(RunError, match="makes 1 optimizer step"):
        verify("--data.init_args.batch_size", "24", "--trainer.max_epochs", "1")


@pytest.mark.long
def test_fresh_processes_with_workers_come_to_the_same(verify: Any, workplace: Path) -> None:
    verify("4", "--data.init_args.num_workers", "2")
    assert found(workplace)["identical"]
    traces = list(workplace.glob("runs/colours/*/passes/*/trace_0.jsonl"))
    assert {len(trace.read_text().splitlines()) for trace in traces} == {3, 5}
