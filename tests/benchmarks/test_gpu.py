"""What is measured on a GPU, as far as it can be looked at without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from math import isnan
from pathlib import Path

import pytest

from benchmarks import gpu, limits, results, run, train
from benchmarks.limits import Limits
from benchmarks.measuring import Measured, table
from benchmarks.subject import BF16, FLOAT32, Subject
from tests.conftest import write_classes

# nvidia-smi --query-gpu=timestamp,utilization.gpu --format=csv,noheader,nounits -lms 200
RECORDED = """\
2026/11/22 01:33:03.123, 0
2026/11/22 01:33:03.324, 12
2026/11/22 01:33:03.525, 97
2026/11/22 01:33:03.726, [N/A]
2026/11/22 01:33:03.927, 100
2026/11/22 01:33:04.128, 88
2026/11/22 01:33:04.3"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-22T01:33:{text}")


def test_lines_without_a_number_are_left_out_when_nvidia_smi_was_cut_off() -> None:
    found = gpu.samples(RECORDED)
    assert [sample.busy for sample in found] == [0, 12, 97, 100, 88]
    assert found[1].when == at("03.324000")


def test_busy_is_the_median_of_a_time_when_others_were_seen_too() -> None:
    found = gpu.samples(RECORDED)
    assert gpu.busy_between(found, at("03.400000"), at("05.000000")) == 97
    assert isnan(gpu.busy_between(found, at("06.000000"), at("07.000000")))


def test_gpu_is_looked_at_while_a_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = []
    real = subprocess.Popen

    def started(asked: list[str], **more: object) -> subprocess.Popen[bytes]:
        words.append(asked)
        line = "echo \"$(date '+%Y/%m/%d %H:%M:%S.%3N'), 42\"; sleep 0.05"
        return real(["bash", "-c", f"while true; do {line}; done"], **more)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("benchmarks.gpu.subprocess.Popen", started)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    with gpu.watching(tmp_path / "busy.csv") as watch:
        while (tmp_path / "busy.csv").stat().st_size < 60:
            pass
    assert watch.busy() == 42 and isnan(watch.busy(after=3600))
    assert words[0][:2] == ["nvidia-smi", "--id=3"]


def test_loader_is_named_with_what_lifts_it_best_first_when_it_is_slower() -> None:
    lifts = {"32 workers": 900.0, "create_dataset: true": 2100.0, "fewer transforms": 820.0}
    assert Limits(800.0, 2400.0, lifts).told(41.0) == (
        "The GPU is busy 41 % of the time: the loader alone gives 800 images/s, the model alone "
        "takes 2400. The loader limits; it is lifted by create_dataset: true (2100), 32 workers (900)."
    )


def test_model_is_named_when_the_loader_is_faster_and_nothing_lifts_it() -> None:
    told = Limits(3000.0, 1000.0, {"a batch of 64": 1050.0}).told(70.0)
    assert told.endswith("The model limits, and none of these lifts it: a batch of 64.")


@pytest.mark.parametrize("model_rate", [1e9, 0.0])
def test_halves_are_measured_alone_when_the_gpu_waits(
    model_rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_classes(tmp_path / "images", 16)
    monkeypatch.setattr(limits, "_model_rate", lambda subject, batch: model_rate)
    subject = Subject("timm/test_resnet", 32)
    found = limits.measured(subject, images, batch=4, workers=0, seconds=0.01)
    assert found.loader > 0 and all(rate >= 0 for rate in found.lifts.values())
    expected = {"2 workers", "create_dataset: true", "fewer transforms (a resize alone)"}
    assert set(found.lifts) == (expected if model_rate else {"a batch of 8"})


def test_rate_of_the_model_is_that_of_steps_on_one_batch() -> None:
    assert limits._model_rate(Subject("timm/test_resnet", 32, BF16), 4) > 0


def test_remark_stands_below_the_table_when_there_is_one() -> None:
    figures = {"ours": [1.0]}
    one = Measured("key", "work", "seconds", False, ["ours"], ["ours"], figures, "It waits.")
    assert table(one).endswith("|\n\nIt waits.")


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        (Subject(), "train"),
        (Subject(precision=BF16), "train.bf16"),
        (Subject("timm/test_resnet"), "train.test_resnet"),
        (Subject("timm/resnet50", 224, BF16, "gpu"), "train.gpu.resnet50"),
    ],
)
def test_key_of_a_gpu_is_another_than_that_of_a_cpu(subject: Subject, key: str) -> None:
    assert subject.key("train") == key


def work(subject: Subject, place: Path) -> train.Work:
    return train.Work(subject, place, batch=8, epochs=2, workers=3)


@pytest.fixture
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.peer_environment.command", lambda *words: [str(word) for word in words]
    )


def test_all_programs_are_asked_for_the_same_model_precision_and_device(
    without_environment: None, tmp_path: Path
) -> None:
    on_gpu = train.peers(work(Subject("timm/resnet50", 224, BF16, "gpu"), tmp_path))
    assert list(on_gpu) == [train.TUNED, "Hugging Face Trainer", "fastai", "ultralytics"]
    for training in on_gpu.values():
        words = " ".join(training.words(5))
        assert words.split()[1:5] == [str(tmp_path), "224", "8", "5"]
        assert "--model resnet50 --device cuda --workers 3" in words and "--bf16" in words


def test_programs_are_left_out_when_they_have_not_got_the_model_or_the_precision(
    without_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = train.peers(work(Subject("timm/vit_base_patch16_224", 224, BF16, "gpu"), tmp_path))
    assert "fastai" in vit and "ultralytics" not in vit
    half = train.peers(work(Subject(precision=BF16), tmp_path))
    assert list(half) == [train.TUNED, "Hugging Face Trainer"]
    usual = train.peers(work(Subject(), tmp_path))
    assert list(usual)[:2] == [train.PLAIN, train.TUNED] and len(usual) == 5
    monkeypatch.setattr("benchmarks.peer_environment.find_spec", lambda name: "there")
    installed = train.peers(work(Subject(), tmp_path), installed=True)
    assert list(installed) == list(usual)[:3]
    monkeypatch.setattr("benchmarks.peer_environment.find_spec", lambda name: None)
    assert list(train.peers(work(Subject(), tmp_path), installed=True)) == list(usual)[:2]
    assert [name for name, training in usual.items() if "--bf16" in training.words(1)] == [
        train.TUNED
    ]


def test_everything_is_left_open_when_ours_is_to_choose(tmp_path: Path) -> None:
    usual = work(Subject(), tmp_path)
    open_, fixed = (train.configuration(usual, 2, precision) for precision in (None, FLOAT32))
    for config, expected in ((open_, (None, None, "auto")), (fixed, (FLOAT32, True, 3))):
        assert expected == (
            config["trainer"]["precision"], config["model"]["init_args"]["channels_last"],
            config["data"]["init_args"]["num_workers"],
        )  # fmt: skip


def test_each_training_has_a_folder_of_its_own_and_is_watched_on_a_gpu(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, seconds = [], iter([10.0, 30.0])

    @contextmanager
    def watching(file: Path) -> Iterator[gpu.Watch]:
        yield Seen()

    class Seen(gpu.Watch):
        def busy(self, after: float = 0.0) -> float:
            return after

    def seconds_of(words: list[str], cwd: Path) -> float:
        assert not list(cwd.iterdir())
        places.append(cwd)
        return next(seconds)

    monkeypatch.setattr(train, "seconds_of", seconds_of)
    monkeypatch.setattr(gpu, "watching", watching)
    write_classes(workplace / "train", 10)
    subject = Subject("timm/resnet50", 224, BF16, "gpu")
    training = train.Training(work(subject, workplace), lambda epochs: [str(epochs)])
    assert training.once() == (30.0, 1.5, 10.0)  # 30 images in 20 s; 10 s are not looked at
    assert len(set(places)) == 2 and training.place == places[1]


def test_suite_refuses_a_gpu_when_there_is_none_or_nothing_runs_on_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for words, told in (
        (["train", "--gpu"], "--gpu: needs an NVIDIA GPU, and"),
        (["report", "--gpu"], "--gpu: report uses none; there are train, predict, frozen"),
    ):
        monkeypatch.setattr("sys.argv", ["run.py", *words])
        with pytest.raises(SystemExit) as error:
            run.main()
        assert error.value.code == 2
        assert told in capsys.readouterr().err


def test_suite_asks_for_large_models_and_writes_tables_of_their_own_when_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def figures_of(name: str, given: object, more: list[str]) -> list[Measured]:
        asked.append((name, more))
        return [Measured(f"{name}.gpu", more[1], "seconds", False, ["a"], ["a"], {"a": [1.0]})]

    written = tmp_path / "RESULTS.md"
    before = results.RESULTS.read_text()
    written.write_text(before)
    monkeypatch.setattr(run, "RESULTS", written)
    monkeypatch.setattr(run, "no_gpu", lambda: None)
    monkeypatch.setattr(run, "prepare", lambda *_: None)
    monkeypatch.setattr(run, "figures_of", figures_of)
    monkeypatch.setattr(run, "machine", lambda *_, **__: "Some GPU.")
    monkeypatch.setattr("sys.argv", ["run.py", "--gpu"])
    assert run.main() == 0
    assert [name for name, _ in asked] == ["train"] * 2 + ["predict"] * 2 + ["frozen"] * 2
    assert asked[0][1] == ["--model", "timm/resnet50", "--size", "224", "--precision", BF16,
                           "--accelerator", "gpu"]  # fmt: skip
    text = written.read_text()
    for name in run.ON_GPU:
        begin, end = results.marks(f"{name} on a GPU")
        assert "| timm/vit_base_patch16_224 (n = 1) |" in text[text.index(begin) : text.index(end)]
        own, its_end = results.marks(name)
        section = slice(text.index(own), text.index(its_end))
        assert text[section] == before[before.index(own) : before.index(its_end)]


@pytest.mark.long
@pytest.mark.parametrize("name", run.ON_GPU)
def test_script_runs_with_any_model_on_a_cpu(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(run.ROOT / f"benchmarks/{name}.py"), "--smallest"]
    words += ["--model", "timm/test_resnet", "--size", "64", "--precision", BF16]
    words += ["--accelerator", "cpu", "--without_peers"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "test_resnet" in ended.stdout
