"""--compare: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from classifier import main
from classifier.errors import ConfigError
from tests.cli.test_startup import run as run_alone

NAMES = ("cat", "dog")
EVIL = "<script>alert(1)</script>"


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_table(
    file: Path, wrong: int, num_images: int = 60, names: Any = NAMES, offset: int = 0
) -> Path:
    """A predictions.csv as --test writes it, with its first images wrong."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        probabilities = [f"prob_{name}" for name in names]
        ranks = ["label", "index", "score", "label_2", "score_2"]
        writer.writerow(["path", *ranks, *probabilities, "error", "target", "correct"])
        for row in range(num_images):
            target = row % 2
            index = 1 - target if row < wrong else target
            shares = [0.9, 0.1] if index == 0 else [0.1, 0.9]
            answer = [names[index], index, 0.9, names[1 - index], 0.1, *shares, ""]
            writer.writerow([f"{row + offset:03d}.png", *answer, target, index == target])
        writer.writerow(["broken.png", *[""] * 7, "the file is empty", 0, ""])
    return file


@pytest.fixture
def make_run(workplace: Path) -> Callable[..., Path]:
    """A finished training, with or without predictions of the given stages."""

    def make(
        name: str, wrong: int = 0, stages: Any = ("test",), lr: float = 0.1, **more: Any
    ) -> Path:
        folder = workplace / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/best.ckpt").write_bytes(b"")
        facts = {
            "mode": "train", "status": "completed", "seed": 1, "num_epochs": 3,
            "wall_seconds": 12.5, "monitor": "validation_f1_score", "best_score": 0.8,
            "best_metrics": {"num_parameters": 12345.0}, **more,
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(facts))
        config = {
            "seed_everything": 1, "custom_folder_name": Path(name).parts[0],
            "model": {"init_args": {"optimizer_config": {"lr": lr}, "note": EVIL if lr > 1 else "x"}},
            "data": {"init_args": {"sizes": [8, 8]}}, "trainer": {"max_epochs": 3},
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        rows = ["epoch,step,train_loss,validation_f1_score", "0,9,1.0,0.5", "1,19,0.5,0.80000001"]
        (folder / "metrics.csv").write_text("\n".join([*rows, "2,29,0.4,0.7"]))
        for number, stage in enumerate(reversed(stages)):
            inside = folder / "report" / stage if number else folder
            report = inside if number else folder / "report"
            write_table(inside / "predictions.csv", wrong)
            report.mkdir(exist_ok=True)
            facts = {"stage": stage, "task": "multiclass"}
            (report / "metrics.json").write_text(json.dumps(facts))
        return folder.relative_to(workplace)

    return make


def evaluate(run: Path, when: str, wrong: int, mode: str = "test", **more: Any) -> Path:
    """A run of --test with the checkpoint of a training."""
    folder = run.parent / when
    write_table(folder / "predictions.csv", wrong)
    facts = {"mode": mode, "checkpoint": str(run / "checkpoints/best.ckpt"), **more}
    (folder / "result.json").write_text(json.dumps(facts))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = None
    config["evaluation"] = {"tta": "flips"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def refusal(*words: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        main(["--compare", *map(str, words)])
    return str(caught.value)


def test_runs_are_compared(make_run: Any, workplace: Path, capfd: Any) -> None:
    make_run("good/a", wrong=2)
    make_run("bad/a", wrong=20, lr=2.0)
    result = main(["--compare", "runs/good/a", "runs/bad/a"])
    assert result is not None and (result.mode, result.status) == ("compare", "completed")
    folder = Path(result.output_dir)
    assert folder.parent == Path("runs/compare")
    printed = capfd.readouterr().out.splitlines()
    assert printed[:2] == [folder.as_posix(), "60 images of the test set"]
    assert printed[2].split() == ["run", "accuracy", "f1_score", "balanced_accuracy", "log_loss"]
    assert printed[3].startswith("good  0.9667 (0.8")
    (line,) = [line for line in printed if "beats" in line]
    found = re.fullmatch(
        r"good beats bad on accuracy by 0\.300 \(95 % interval (0\.1\d\d) to (0\.4\d\d), "
        r"60 images\), and on f1_score, balanced_accuracy and log_loss",
        line,
    )
    assert found and float(found[1]) + float(found[2]) == pytest.approx(0.6, abs=0.002)
    assert printed[-1] == folder.as_posix()
    good, bad = read(folder / "comparison.csv")
    assert good["run"] == "good" and float(good["accuracy"]) == pytest.approx(58 / 60)
    assert float(bad["accuracy_low"]) < 40 / 60 < float(bad["accuracy_high"])
    assert (good["best_epoch"], good["num_parameters"], good["seed"]) == ("2", "12345", "1")
    pairs = read(folder / "pairs.csv")
    assert [row["better"] for row in pairs] == ["good"] * 4
    assert read(folder / "config_differences.csv") == [
        {"key": "model.init_args.optimizer_config.lr", "good": "0.1", "bad": "2.0"},
        {"key": "model.init_args.note", "good": "x", "bad": EVIL},
    ]


def test_no_secret_stands_among_the_differences(make_run: Any, workplace: Path) -> None:
    for name, wrong in (("good", 1), ("bad", 9)):
        file = make_run(name, wrong) / "config.yaml"
        content = yaml.safe_load(file.read_text())
        content["data"] = {"root": f"/home/{name}/x", "api_key": f"hunter2, {name}", "n": wrong}
        file.write_text(yaml.safe_dump(content))
    result = main(["--compare", "runs/good", "runs/bad"])
    assert result is not None
    folder = Path(result.output_dir)
    told = {row["key"]: row["good"] for row in read(folder / "config_differences.csv")}
    assert told["data.root"] == "/home/good/x" and "data.api_key" not in told
    assert "hunter2" not in (folder / "report" / "index.html").read_text()


def test_page_carries_all_that_it_shows(make_run: Any, workplace: Path) -> None:
    make_run("good/a", wrong=2)
    make_run("bad/a", wrong=20, lr=2.0)
    result = main(["--compare", "runs/good/a", "runs/bad/a", "--output", "out"])
    assert result is not None and result.output_dir == "out"
    page = Path("out/report/index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") == 3
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    for text in ("good beats bad", "model.init_args.optimizer_config.lr", "Learning curves"):
        assert text in page
    for name in ("figures", "differences", "learning_curves"):
        with Image.open(f"out/report/{name}.png") as picture:
            picture.verify()
            assert min(picture.size) > 100


def test_many_runs_are_told_apart_and_all_pairs_judged(make_run: Any, workplace: Path) -> None:
    for number in range(7):
        make_run(f"$x/{number}", wrong=3 * number)
    result = main(["--compare", *[f"runs/$x/{number}" for number in range(7)]])
    assert result is not None
    pairs = read(Path(result.output_dir, "pairs.csv"))
    assert len(pairs) == 21 * 4
    alone = main(["--compare", "runs/$x/0", "runs/$x/2"])
    assert alone is not None
    first = read(Path(alone.output_dir, "pairs.csv"))[0]
    among = next(row for row in pairs if (row["run_a"], row["run_b"]) == ("0", "2"))
    assert float(among["difference_low"]) < float(first["difference_low"])
    assert "all 21 pairs" in Path(result.output_dir, "report/index.html").read_text()


def test_no_difference_is_said_when_there_may_be_none(
    make_run: Any, workplace: Path, capfd: Any
) -> None:
    make_run("one/a", wrong=3)
    make_run("two/a", wrong=4)
    main(["--compare", "runs/one/a", "runs/two/a"])
    assert re.search(
        r"^no difference shown: one minus two on accuracy is 0\.017 \(95 % interval -0\.0\d\d to "
        r"0\.0\d\d, 60 images\)$",
        capfd.readouterr().out,
        flags=re.MULTILINE,
    )


def test_validation_is_compared_when_not_all_have_a_test_set(
    make_run: Any, workplace: Path, capfd: Any
) -> None:
    make_run("one/a", wrong=3, stages=("validation", "test"))
    make_run("two/a", wrong=4, stages=("validation",))
    result = main(["--compare", "runs/one/a", "runs/two/a"])
    assert result is not None
    assert "60 images of the validation set" in capfd.readouterr().out
    rows = read(Path(result.output_dir, "comparison.csv"))
    assert [row["predictions"] for row in rows] == [
        "runs/one/a/report/validation/predictions.csv", "runs/two/a/predictions.csv",
    ]  # fmt: skip


def test_different_stages_are_refused(make_run: Any, workplace: Path) -> None:
    make_run("one/a", stages=("test",))
    make_run("two/a", stages=("validation",))
    assert refusal("runs/one/a", "runs/two/a") == (
        "--compare: the runs have predictions of different images: one: test; two: validation. "
        "Write: python main.py --test --ckpt_path runs/two/a, and the same command again."
    )
    assert not Path("runs/compare").exists()
    evaluate(Path("runs/two/a"), "b", wrong=5)
    result = main(["--compare", "runs/one/a", "runs/two/a"])
    assert result is not None
    row = read(Path(result.output_dir, "comparison.csv"))[1]
    assert (row["stage"], row["predictions"]) == ("test", "runs/two/b/predictions.csv")


def test_run_without_predictions_is_refused_until_it_is_tested(
    make_run: Any, workplace: Path, capfd: Any
) -> None:
    make_run("one/a")
    run = make_run("two/a", stages=())
    assert refusal("runs/one/a", "runs/two/a") == (
        "--compare: the run has no predictions, got 'runs/two/a'. Write: python main.py --test "
        "--ckpt_path runs/two/a (--val for the validation images), and the same command again."
    )
    evaluate(run, "b", wrong=9)
    evaluate(run, "c", wrong=1)  # the newest
    shutil.copytree(run, workplace / "runs/two/z")
    evaluate(Path("runs/two/z"), "d", wrong=30)  # of another checkpoint
    result = main(["--compare", "runs/one/a", "runs/two/a"])
    assert result is not None
    assert "two: predictions of runs/two/c\n" in capfd.readouterr().out
    row = read(Path(result.output_dir, "comparison.csv"))[1]
    assert (row["training"], row["wall_seconds"]) == ("runs/two/a", "12.5")
    assert float(row["accuracy"]) == pytest.approx(59 / 60)


def test_evaluations_have_the_training_that_they_are_of(make_run: Any, workplace: Path) -> None:
    make_run("one/a")
    tested = evaluate(make_run("two/a", stages=(), lr=0.5), "b", wrong=1)
    result = main(["--compare", "runs/one/a", str(tested)])
    assert result is not None
    # max_epochs is the training's, tta the evaluation's.
    differences = read(Path(result.output_dir, "config_differences.csv"))
    assert [row["key"] for row in differences] == [
        "model.init_args.optimizer_config.lr", "evaluation.tta",
    ]  # fmt: skip
    assert read(Path(result.output_dir, "comparison.csv"))[1]["best_epoch"] == "2"


def test_sweep_stands_for_its_best_trial(make_run: Any, workplace: Path) -> None:
    make_run("one/a")
    make_run("study/trials/0003", wrong=9, lr=0.7)
    sweep = {
        "mode": "sweep",
        "best_trial": 3,
        "best_checkpoint": "trials/0003/checkpoints/best.ckpt",
    }
    Path("runs/study/result.json").write_text(json.dumps(sweep))
    result = main(["--compare", "runs/one/a", "runs/study"])
    assert result is not None
    row = read(Path(result.output_dir, "comparison.csv"))[1]
    assert (row["run"], row["training"]) == ("study (best trial 3)", "runs/study/trials/0003")
    sweep |= {"best_trial": None, "pareto_trials": [1, 4]}
    Path("runs/study/result.json").write_text(json.dumps(sweep))
    assert refusal("runs/one/a", "runs/study") == (
        "--compare: the sweep has no single best trial, got 'runs/study'. Give one of the Pareto "
        "front: runs/study/trials/0001, runs/study/trials/0004."
    )


def test_tables_alone_are_compared_on_the_images_they_share(workplace: Path, capfd: Any) -> None:
    write_table(workplace / "one.csv", wrong=0)
    write_table(workplace / "two.csv", wrong=30, offset=20)
    result = main(["--compare", "one.csv", "two.csv"])
    assert result is not None and result.num_images == 40
    printed = capfd.readouterr().out
    assert (
        "40 images, which are those that all runs have; left out: one.csv 20, two.csv 20" in printed
    )
    assert read(Path(result.output_dir, "config_differences.csv")) == []


def as_parquet(file: Path, table: Any) -> None:
    """The table of a run as `evaluation.format: parquet` has it."""
    table.to_parquet(file.with_suffix(".parquet"), index=False)
    file.unlink()


def test_runs_with_parquet_tables_come_to_the_same(make_run: Any, workplace: Path) -> None:
    for name, wrong in (("good", 2), ("bad", 20), ("good_too", 2), ("bad_too", 20)):
        make_run(f"{name}/a", wrong=wrong)
    for name in ("good_too", "bad_too"):
        file = Path(f"runs/{name}/a/predictions.csv")
        table = pd.read_csv(file)
        table["index"] = table["index"].astype("Int64")
        as_parquet(file, table)
    expected, found, mixed = (
        main(["--compare", f"runs/{first}", f"runs/{second}"])
        for first, second in (
            ("good/a", "bad/a"),
            ("good_too/a", "bad_too/a"),
            ("good/a", "bad_too/a/predictions.parquet"),
        )
    )
    assert expected is not None and found is not None and mixed is not None
    rows = [read(Path(run.output_dir, "comparison.csv")) for run in (expected, found, mixed)]
    for figure in ("stage", "num_images", "accuracy", "accuracy_low", "log_loss"):
        assert len({tuple(row[figure] for row in two) for two in rows}) == 1, figure
    assert rows[1][0]["predictions"] == "runs/good_too/a/predictions.parquet"
    twice = "runs/bad_too/a", "runs/bad_too/a/predictions.parquet"
    assert "the same run stands twice" in refusal(*twice)


def test_names_that_are_no_unicode_meet_in_both_formats(workplace: Path) -> None:
    file = write_table(workplace / "one.csv", wrong=3)
    table = pd.read_csv(file).replace({"path": {"007.png": "caf\\xe9.png"}})
    table["index"] = table["index"].astype("Int64")
    table.to_parquet("two.parquet", index=False)
    file.write_bytes(file.read_bytes().replace(b"007.png", b"caf\xe9.png"))
    result = main(["--compare", "one.csv", "two.parquet"])
    assert result is not None and result.num_images == 60


def test_several_labels_are_seen_in_a_parquet_table(workplace: Path) -> None:
    for name, chosen in (("one", [0, 1]), ("two", [0])):
        table = {
            "path": [f"{k}.png" for k in range(30)], "index": [chosen] * 30, "prob_a": 0.5,
            "prob_b": 0.5, "error": None, "target": [[0, 1]] * 30, "correct": name == "one",
        }  # fmt: skip
        as_parquet(write_table(workplace / f"{name}.csv", 0), pd.DataFrame(table))
    result = main(["--compare", "one.parquet", "two.parquet"])
    assert result is not None
    pairs = read(Path(result.output_dir, "pairs.csv"))
    assert [row["metric"] for row in pairs] == ["f1_score", "exact_match", "log_loss"]
    assert pairs[1]["better"] == "one.parquet"


def test_several_labels_are_seen_in_a_table(workplace: Path) -> None:
    header = "path,label,index,score,prob_a,prob_b,error,target,correct\r\n"
    for name, shares in (("one", "0.9,0.8"), ("two", "0.9,0.2")):
        rows = [f"{k}.png,x,{'0|1' if name == 'one' else 0},x,{shares},,0|1,x" for k in range(30)]
        Path(f"{name}.csv").write_text(header + "\r\n".join(rows))
    result = main(["--compare", "one.csv", "two.csv"])
    assert result is not None
    pairs = read(Path(result.output_dir, "pairs.csv"))
    assert [row["metric"] for row in pairs] == ["f1_score", "exact_match", "log_loss"]
    assert pairs[1]["better"] == "one.csv"


def test_repeat_of_a_training_has_the_predictions_of_its_test(
    make_run: Any, workplace: Path
) -> None:
    make_run("one/a")
    repeat = make_run("two/repeats/seed_2", stages=())
    test = make_run("two/repeats/seed_2/test", mode="test", checkpoint=str(repeat))
    assert test.parent == repeat
    result = main(["--compare", "runs/one/a", "runs/two/repeats/seed_2"])
    assert result is not None and result.mode == "compare"


def test_mistakes_are_named(make_run: Any, workplace: Path) -> None:
    make_run("one/a")
    make_run("two/a", stages=(), mode="predict")
    make_run("two/b", stages=(), mode="repeat")
    Path("notes.csv").write_text("path,label\n")
    expected = {
        (): "needs at least two runs, and has none. Write --compare RUN RUN, each a run folder, a "
        "sweep or a table of predictions.",
        ("runs/one/a",): "needs at least two runs, and has 1. Write --compare RUN RUN, each a run "
        "folder, a sweep or a table of predictions.",
        ("runs/one/a", "runs/one/a/"): "the same run stands twice, got 'runs/one/a/'. Name it once.",
        ("runs/one/a", "runs/one/b"): "no such run, got 'runs/one/b'. Give a run folder, a sweep "
        "folder or a table of predictions.",
        ("runs/one/a", "runs/one"): "is no run folder, got 'runs/one'. Give one of the runs in it: "
        "runs/one/a.",
        ("runs/one/a", "runs/one/a/checkpoints/best.ckpt"): "is no run folder and no "
        "table of predictions, got 'runs/one/a/checkpoints/best.ckpt'. Give the run folder of a "
        "checkpoint, not its file.",
        ("runs/one/a", "runs/two/a"): "is a run of --predict, which predicts no images whose truth is known, got "
        "'runs/two/a'. Give a training, or a run of --test or --val.",
        ("runs/one/a", "runs/two/b"): "is a repetition over seeds, of several trainings, got "
        "'runs/two/b'. Give some of them, as runs/two/b/repeats/*.",
    }  # fmt: skip
    for words, message in expected.items():
        assert refusal(*words) == f"--compare: {message}"
    assert refusal("runs/one/a", "notes.csv") == (
        "notes.csv: has no column index and no error and no target. Give the predictions of --test "
        "or --val; --predict knows no truth."
    )
    for option in ("--config", "--ckpt_path", "--trainer.max_epochs"):
        assert refusal("a", "b", option, "x") == (
            f"{option}: does not go with --compare, which needs nothing but the runs. Leave it out."
        )
    make_run("three/a")
    assert refusal("runs/one/a", "runs/three/a", "--output", "runs") == (
        "--output: is there already, and not empty, got 'runs'. Name a new folder, or leave it out "
        "for one below runs/compare/."
    )
    with pytest.raises(ConfigError, match=r"^--output: goes with --compare and --export only"):
        main(["--test", "--ckpt_path", "x", "--output", "y"])


def test_damaged_files_of_a_run_are_named(make_run: Any, workplace: Path) -> None:
    make_run("one/a")
    make_run("three/a")
    table = Path("runs/three/a/predictions.csv")
    written = table.read_text()
    table.write_text(written.replace("005.png,dog,1", "005.png,dog,99"))
    assert refusal("runs/one/a", "runs/three/a") == (
        "runs/three/a/predictions.csv row 7: index must be a class from 0 to 1, got '99'. Have it "
        "written anew: python main.py --test --ckpt_path RUN, or --val."
    )
    table.write_text(written)
    kept = Path("runs/three/a/config.yaml").read_text()
    Path("runs/three/a/config.yaml").write_text("model: !!python/object/apply:os.getcwd []\n")
    assert refusal("runs/one/a", "runs/three/a").startswith(
        "runs/three/a/config.yaml line 1, column 8: not valid YAML: could not determine"
    )
    Path("runs/three/a/config.yaml").write_text(kept)
    history = Path("runs/three/a/metrics.csv")
    for content, problem in (
        (b"epoch,step,train_loss\n0,9,1.0\n1,19,low\n", " row 3: train_loss must be a number, got"),
        (b"epoch,step\n\xff,9\n", ": is damaged: 'utf-8' codec can't decode"),
    ):
        history.write_bytes(content)
        assert refusal("runs/one/a", "runs/three/a").startswith(f"{history.as_posix()}{problem}")


SCRIPT = """
import sys
sys.argv = ["main.py", *sys.argv[1:]]
from classifier.entry import console
code = console()
print(code, sorted({"torch", "lightning", "sklearn"} & set(sys.modules)), file=sys.stderr)
"""


def test_torch_is_not_imported(make_run: Any, workplace: Path) -> None:
    make_run("one/a")
    make_run("two/a", wrong=3)
    finished = run_alone(["--compare", "runs/one/a", "runs/two/a"], workplace, SCRIPT)
    assert finished.stderr.splitlines()[-1] == "0 []"


def test_what_the_program_has_written_is_compared(trained: Path, workplace: Path) -> None:
    tested = main(["--test", "--ckpt_path", str(trained)])
    assert tested is not None
    file = Path(tested.output_dir, "predictions.csv")
    rows = read(file)
    for row in rows:
        row |= {
            "label": "blue",
            "index": "0",
            "prob_blue": "0.8",
            "prob_green": "0.1",
            "prob_red": "0.1",
        }
    with open("worse.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    result = main(["compare", tested.output_dir, "worse.csv"])
    assert result is not None
    first, second = read(Path(result.output_dir, "comparison.csv"))
    assert float(first["accuracy"]) == pytest.approx(tested.metrics["test_accuracy"])
    assert float(first["f1_score"]) == pytest.approx(tested.metrics["test_f1_score"])
    assert float(first["log_loss"]) == pytest.approx(tested.metrics["test_loss"], rel=1e-4)
    assert float(second["accuracy"]) == pytest.approx(1 / 3)
    assert np.isclose(float(second["balanced_accuracy"]), 1 / 3)
