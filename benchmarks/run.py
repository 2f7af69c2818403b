"""The suite: every benchmark beside its peers, its tables in RESULTS.md, its ratios guarded.

    python benchmarks/run.py [NAME ...] [--rounds N]     measure, print, write the tables
    python benchmarks/run.py [NAME ...] --keep           and keep the ratios as the baseline
    python benchmarks/run.py [NAME ...] --compare        name what got worse, write nothing
    python benchmarks/run.py [NAME ...] --smallest       only show that all of it runs
    python benchmarks/run.py [NAME ...] --gpu            train, predict, frozen with large models
    python benchmarks/run.py NAME -- --size 96           the words behind -- are the script's own

Rounds of one process resemble each other more than those of two. So what is kept comes from two
runs of a benchmark, where its cases are no processes of their own, and what looks worse is measured
once more and judged by both runs.
Without a name all of: startup, sweep, data, step, frozen, train, predict, report; each runs in a
process of its own. Peers come from the package index (benchmarks/peers.txt) into an environment of
their own below the user's cache folder. A machine with other work on it gives wide spreads:
measure on a quiet one; OMP_NUM_THREADS says with how many threads. Without --photos and --images
photographs are generated. `--gpu` measures resnet50 and vit_base at 224 pixels in bfloat16, into
tables of their own; it needs a CUDA device. Exit code 1: something got worse, or a benchmark
failed; 2: the command line asks for what there is not.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import guard, peer_environment
from benchmarks.measuring import Measured
from benchmarks.pictures import with_classes, with_splits
from benchmarks.results import RESULTS, machine, placed, section
from benchmarks.subject import BF16, at_least, no_gpu

ROOT = Path(__file__).parents[1]
# Name -> the option by which it takes a folder, and which of the suite's folders that is.
BENCHMARKS = {
    "startup": {}, "sweep": {}, "data": {"photos": "photos"}, "step": {},
    "frozen": {"images": "photos"}, "train": {"images": "images"},
    "predict": {"photos": "photos"}, "report": {},
}  # fmt: skip
WITH_PEERS = {"train"}  # in an environment of their own
OF_PROCESSES = {"startup", "train", "predict"}  # whose every figure comes from a new one
FLAGS = ("smallest", "without_peers", "installed_peers")
ON_GPU = ("train", "predict", "frozen")
GPU_MODELS = ("timm/resnet50", "timm/vit_base_patch16_224")
GPU_OPTIONS = ["--size", "224", "--precision", BF16, "--accelerator", "gpu"]
FEWEST_ROUNDS = 3


def measured_by(name: str, given: argparse.Namespace) -> list[Measured]:
    """The tables of a benchmark, which prints them on its way; on a GPU those of every model.

    Raises:
        CalledProcessError: it failed, and has said why.
    """
    if not given.gpu:
        return figures_of(name, given, given.more)
    asked = [["--model", model, *GPU_OPTIONS, *given.more] for model in GPU_MODELS]
    return [table for options in asked for table in figures_of(name, given, options)]


def figures_of(name: str, given: argparse.Namespace, more: list[str]) -> list[Measured]:
    """The tables of one run of a benchmark's script, with further options."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        words = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--json", str(file), *more]
        if given.rounds:
            words += ["--rounds", str(given.rounds)]
        words += [f"--{flag}" for flag in FLAGS if getattr(given, flag)]
        for option, ours in BENCHMARKS[name].items():
            if getattr(given, ours) is not None:
                words += [f"--{option}", str(getattr(given, ours).resolve())]
        subprocess.run(words, cwd=ROOT, check=True)
        return [Measured(**plain) for plain in json.loads(file.read_text(encoding="utf-8"))]


def measured_for(name: str, given: argparse.Namespace) -> list[Measured]:
    """The tables of a benchmark: of two runs where they are kept, or where one looks worse."""
    tables = measured_by(name, given)
    again = given.keep and name not in OF_PROCESSES
    if again or (given.compare and guard.worse(tables, guard.read())):
        print(f"\n{name} once more", flush=True)
        more = {one.key: one for one in measured_by(name, given)}
        tables = [one.pooled(more[one.key]) for one in tables]
    return tables


def write(name: str, tables: list[Measured], where: str) -> None:
    """Put the tables into RESULTS.md, at once: a later benchmark may fail."""
    text = RESULTS.read_text(encoding="utf-8")
    RESULTS.write_text(placed(text, name, section(tables, where)), encoding="utf-8")


def judged(tables: list[Measured]) -> int:
    """Say what got worse; the exit code."""
    kept = guard.read()
    for line in guard.unknown(tables, kept):
        print(f"nothing was kept of {line}")
    worse = guard.worse(tables, kept)
    for line in worse:
        print(f"WORSE {line}")
    print(f"{len(worse)} ratios got worse beyond the spread of both")
    return 1 if worse else 0


def prepare(names: list[str], without_peers: bool) -> None:
    """What is not to be measured: compiling, and installing the peers."""
    for part in ("classifier", "benchmarks"):
        compileall.compile_dir(ROOT / part, quiet=1)
    if not without_peers and WITH_PEERS & set(names):
        peer_environment.python()


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--rounds", type=at_least(1), help="instead of each comparison's own number"
    )
    parser.add_argument(
        "--photos", type=with_classes, help="with a folder a class: data, frozen, predict"
    )
    parser.add_argument("--images", type=with_splits, help="with train/ and val/ or test/: train")
    parser.add_argument("--without_peers", action="store_true", help="leave other programs out")
    parser.add_argument("--gpu", action="store_true", help=f"on a GPU: {', '.join(ON_GPU)}")
    parser.add_argument(
        "--installed_peers", action="store_true", help="only timm, transformers and onnxruntime"
    )
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--keep", action="store_true", help="the ratios become the baseline")
    then.add_argument("--compare", action="store_true", help="with the baseline; write nothing")
    then.add_argument("--smallest", action="store_true", help="only show that it runs")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:end])
    given.more = words[end + 1 :]
    if given.more and len(given.names) != 1:
        parser.error("words behind -- are for one benchmark, whose name comes before them")
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    if given.gpu and (others := [name for name in given.names if name not in ON_GPU]):
        parser.error(f"--gpu: {', '.join(others)} uses none; there are {', '.join(ON_GPU)}")
    if given.gpu and (problem := no_gpu()) is not None:
        parser.error(f"--gpu: {problem}")
    if (given.keep or given.compare) and given.rounds and given.rounds < FEWEST_ROUNDS:
        parser.error(
            f"--rounds: of {given.rounds} there is no spread, give at least {FEWEST_ROUNDS}"
        )
    return given


def main() -> int:
    """Run the suite."""
    given = arguments()
    names = given.names or list(ON_GPU if given.gpu else BENCHMARKS)
    prepare(names, given.without_peers or given.installed_peers)
    found: list[Measured] = []
    failed = []
    for name in names:
        print(f"\n## {name}", flush=True)
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        where = machine(threads, on_gpu=given.gpu)
        try:
            tables = measured_for(name, given)
        except subprocess.CalledProcessError:
            failed.append(name)
            continue
        found += tables
        if not (given.smallest or given.compare):
            write(f"{name} on a GPU" if given.gpu else name, tables, where)
        if given.keep:
            guard.keep(tables, where)
    code = judged(found) if given.compare else 0
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else code


if __name__ == "__main__":
    raise SystemExit(main())
