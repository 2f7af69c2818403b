"""--verify_repro: does a training come to the same bits again, and after an interruption?"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from classifier.callbacks.tracing import TRACE, StepTrace
from classifier.commands.job import Job
from classifier.commands.prepare import prepare
from classifier.commands.speed import settle_speed
from classifier.commands.traces import Finding, compare, joined, read_trace
from classifier.commands.trainer import as_list
from classifier.data.datamodule import ImageDataModule
from classifier.errors import ConfigError, RunError
from classifier.files import write_text
from classifier.runs import CHECKPOINTS, ERROR, LAST, Result, Run
from classifier.signals import end_at_once, handling_signals
from classifier.terminal import show
from classifier.tuning.launching import OUTPUT, Subprocess, kill, write_config

log = logging.getLogger(__name__)

FLAG = "--verify_repro"
_POLL_SECONDS = 0.1
_VALIDATION_BATCHES = 2  # of a validation that comes within the steps
_ENDED = (0, 128 + signal.SIGTERM)


def verify_repro(job: Job) -> Result:
    """Train a few steps twice, and once with an interruption, and compare every bit.

    Each training is a process of its own, started anew: what a process carries over from one
    training to the next, and what differs between two processes, would not be seen otherwise.
    The frozen part of a model is computed in every step, whatever cache_features says. What is left
    open of precision, memory format and workers is settled here, once for all, without measuring.

    Args:
        job: Of the mode verify_repro.

    Raises:
        ConfigError: something is wrong with the configuration; no folder was made.
        RunError: two trainings differ; names the first difference.
    """
    _check(job)
    found = prepare(job)
    settle_speed(job, found, may_measure=False)
    data, on_gpu = found.data, found.trainer.strategy.root_device.type != "cpu"
    run = job.create_run(trainer=found.trainer, data=data)
    steps = job.command.num_steps
    return job.carry_out(run, data, lambda: _verify(job.cli.plain(), data, run, steps, on_gpu))


def _check(job: Job) -> None:
    if job.resumed is not None:
        raise ConfigError(
            "ckpt_path", f"{FLAG} tries the beginning of a training, not one that goes on",
            remedy="Leave it out, or add only_weights_load: true",
        )  # fmt: skip
    few = job.cli.config["trainer"]["fast_dev_run"]
    if few:
        raise ConfigError(
            "trainer.fast_dev_run", f"{FLAG} needs checkpoints", got=few, remedy="Write false"
        )


def _verify(tree: dict[str, Any], data: Any, run: Run, num_steps: int, on_gpu: bool) -> None:
    passes = run.folder / "passes"
    passes.mkdir()
    with handling_signals(end_at_once):
        first = _train(passes / "first", tree, num_steps)
        made = read_trace(first / TRACE.format(0))[-1]["step"]
        if made < 2:
            raise RunError(
                f"the training makes {made} optimizer step, and an interruption needs one before "
                "and one after it. Use more images, or a smaller data.init_args.batch_size"
            )
        if made < num_steps:
            log.info("the training has %d optimizer steps, all of which are compared", made)
        middle = made // 2
        repeated = _train(passes / "repeated", tree, num_steps)
        interrupted = _train(passes / "interrupted", tree, num_steps, interrupt_after=middle)
        last = interrupted / CHECKPOINTS / LAST
        resumed = _train(passes / "resumed", tree, num_steps, resume=last)
    findings = _compare(first, repeated, interrupted, resumed, data)
    _write(run, findings, num_steps=made, interrupted_after=middle)
    for folder in (first, repeated, interrupted, resumed):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    show(f"{made} steps: trained twice, and resumed after an interruption behind step {middle}")
    _tell(findings, hint=on_gpu and not tree["trainer"].get("deterministic"))


def _train(
    folder: Path,
    tree: dict[str, Any],
    num_steps: int,
    interrupt_after: int | None = None,
    resume: Path | None = None,
) -> Path:
    """One training in a fresh process; gives its folder.

    Raises:
        RunError: it failed; in its words.
    """
    log.info("training %s", folder.name)
    folder.mkdir()
    write_config(
        folder / "given.yaml", traced(tree, folder, num_steps, interrupt_after, resume is not None)
    )
    words = ["--config", str(folder / "given.yaml")]
    code = run_program(words + ([] if resume is None else ["--ckpt_path", str(resume)]), folder)
    if code not in _ENDED or not (folder / TRACE.format(0)).is_file():
        raise RunError(
            f"the training {folder.name} failed: {_reason(folder, code)}. See {folder / OUTPUT}"
        )
    return folder


def _reason(folder: Path, code: int) -> str:
    """What a training that failed said, as far as it came."""
    if (folder / ERROR).is_file():
        return (folder / ERROR).read_text(encoding="utf-8").rstrip(".")
    result = folder / "result.json"
    content = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    return str(content.get("error") or f"it ended with code {code}")


def run_program(words: Sequence[str], folder: Path) -> int:
    """Run a command of the program in a process of its own, and give its exit code.

    Args:
        words: Of the command line.
        folder: Existing: its run folder.
    """
    child = Subprocess().start(words, folder, {})
    try:
        while (code := child.poll()) is None:
            time.sleep(_POLL_SECONDS)
    finally:
        kill(child)
    return code


def traced(
    tree: dict[str, Any],
    folder: Path,
    num_steps: int,
    interrupt_after: int | None,
    resumes: bool,
) -> dict[str, Any]:
    """The configuration of a training that leaves a trace, and no more than that.

    Args:
        tree: Resolved.
        folder: For the trace.
        num_steps: Optimizer steps after which the training ends; its schedule is that of the whole.
        interrupt_after: Optimizer steps after which it is interrupted; None for never.
        resumes: It goes on with a checkpoint of the training before.
    """
    tree = copy.deepcopy(tree)
    trainer, data = tree["trainer"], tree["data"].get("init_args", {})
    arguments = {"folder": str(folder), "num_steps": num_steps, "interrupt_after": interrupt_after}
    trace = {"class_path": f"{StepTrace.__module__}.StepTrace", "init_args": arguments}
    callbacks = as_list(trainer.get("callbacks"))
    for given in callbacks:
        if (given.get("init_args") or {}).get("dirpath"):
            given["init_args"]["dirpath"] = None  # the user's own folder is for real checkpoints
    trainer["callbacks"] = [*callbacks, trace]
    trainer["logger"] = False
    if trainer.get("limit_val_batches") in (None, 1.0):
        trainer["limit_val_batches"] = _VALIDATION_BATCHES
    if "cache_features" in data:
        data |= {"cache_features": False, "feature_views": None}
    if resumes:
        tree |= {"only_weights_load": False, "ckpt_path": None}
    return tree


def _compare(
    first: Path, repeated: Path, interrupted: Path, resumed: Path, data: Any
) -> list[Finding]:
    """Of every process of the training, what its traces say."""
    findings: list[Finding] = []
    known = isinstance(data, ImageDataModule)
    stage = data.stage("train") if known else None
    for file in sorted(item.name for item in first.glob(TRACE.format("*"))):
        trace = read_trace(first / file)
        pairs = {
            "repeated": read_trace(repeated / file),
            "resumed": joined(read_trace(interrupted / file), read_trace(resumed / file)),
        }
        # The weights of a further process are the first one's; what BatchNorm measured there is not
        # kept, and taken from the first in every step.
        alone = file == TRACE.format(0)
        for name, other in pairs.items():
            called = name if alone else f"{name}, {Path(file).stem.replace('trace_', 'process ')}"
            found = compare(called, trace, other, None if stage is None else stage.path)
            findings += [item for item in found if alone or "weights" not in item.quantity]
    return findings


def _write(run: Run, findings: Sequence[Finding], **facts: int) -> None:
    identical = all(finding.step is None for finding in findings)
    content = {**facts, "identical": identical, "findings": [asdict(item) for item in findings]}
    write_text(run.folder / "repro.json", json.dumps(content, indent=2) + "\n")


def _tell(findings: Sequence[Finding], *, hint: bool) -> None:
    """Print a line for each quantity.

    Raises:
        RunError: names the first difference.
    """
    for finding in findings:
        show(str(finding))
    differing = [finding for finding in findings if finding.step is not None]
    if not differing:
        show("the training is reproducible")
        return
    # In the order in which they come about: what differs first is the cause of the others.
    first = min(differing, key=lambda item: ("resumed" in item.training, item.step))
    remedy = first.remedy
    if hint and first.quantity in ("losses", "weights", "averaged weights"):
        remedy = "On a GPU, write trainer.deterministic: true"
    raise RunError(f"the training is not reproducible: {first}. {remedy}")
