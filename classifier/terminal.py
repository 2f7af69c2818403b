"""What a person sees: results on stdout, the log on stderr, errors in plain words."""

from __future__ import annotations

import csv
import logging
import logging.handlers
import os
import re
import sys
import warnings
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from classifier.ranks import is_first
from classifier.runs import Result

_ADVERTS = (
    "GPU available",
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "`weights_only`",
    "Restoring states from",
    "Restored all states from",
    "Seed set to",
)
_SHOWN_COLUMNS = ("path", "label", "score", "error", "undecided")
_WORKER_ERROR = re.compile(r"(?:classifier\.errors\.)?RunError: (.*)\Z", re.DOTALL)


_LIBRARIES = (
    "lightning", "lightning.pytorch", "lightning.fabric", "httpx", "httpx2", "huggingface_hub",
    "filelock",
)  # fmt: skip


class _Terminal(logging.Handler):
    """Log lines on stderr, above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if not is_first():
            return
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except (OSError, ValueError, AttributeError):
            return  # nobody listens any more; the run's log.txt has it all


class Log:
    """Log lines on stderr, and in the run's log.txt from the start of the command on.

    Of several processes the first one writes them; what the others say is the same.
    """

    def __init__(self) -> None:
        self._root = logging.getLogger()
        self._early = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
        terminal = _Terminal()
        terminal.setFormatter(logging.Formatter("%(message)s"))
        self._handlers: list[logging.Handler] = [terminal, self._early]
        self._level = self._root.level
        self._before: dict[str, tuple[list[logging.Handler], bool, int]] = {}

    def start(self) -> None:
        """Begin to listen."""
        self._root.setLevel(logging.INFO)
        for handler in self._handlers:
            self._root.addHandler(handler)
        for name in _LIBRARIES:
            # Lightning's own handlers write to stderr only, and past a progress bar; the others
            # tell of every request and retry.
            library = logging.getLogger(name)
            self._before[name] = (library.handlers[:], library.propagate, library.level)
            library.handlers.clear()
            library.propagate = True
            if not name.startswith("lightning"):
                library.setLevel(logging.ERROR)

    def write_to(self, file: Path) -> None:
        """Write what was logged so far, and all that follows, to a file."""
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._early.setTarget(handler)
        self._early.flush()
        self._root.removeHandler(self._early)
        self._root.addHandler(handler)
        self._handlers.append(handler)

    def stop(self) -> None:
        """Close the file and leave logging as it was."""
        for handler in self._handlers:
            self._root.removeHandler(handler)
            handler.close()
        self._root.setLevel(self._level)
        for name, (handlers, propagate, level) in self._before.items():
            library = logging.getLogger(name)
            library.handlers[:] = handlers
            library.propagate = propagate
            library.setLevel(level)


def quiet_known_noise() -> None:
    """Silence advice of the libraries that does not apply here."""
    if not is_first():
        warnings.simplefilter("ignore")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.rank_zero",
    ):
        logging.getLogger(name).addFilter(_not_advertising)
    for message in (
        ".*does not have many workers.*",
        ".*DataLoader will create .* worker processes in total.*",  # as asked for
        ".*WeightAveraging callback with a model that overrides.*",  # nothing is sharded here
        ".*`precision=16` is supported for historical reasons.*",
        ".*AMP with fp16 is not supported on CPU.*",  # the log says which precision is used
        "Total length of `list` across ranks is zero.*",
        ".*is smaller than the logging interval.*",
        "Checkpoint directory .* exists and is not empty",
        ".*in eval mode at the start of training.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _not_advertising(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not ("Tip:" in text or text.startswith(_ADVERTS))


def without_traceback(error: Exception) -> str:
    """An error from a DataLoader worker carries the worker's traceback in its text."""
    found = _WORKER_ERROR.search(str(error))
    return (found[1] if found else str(error)).strip()


def show(text: str) -> None:
    """Print a line of the result. Nobody may be listening: `| head -1` is no failed run."""
    if not is_first():
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)


def _print_few_predictions(file: Path, most: int = 10) -> None:
    """For a handful of images the answers themselves."""
    rows = _first_rows(file, most + 1)
    if len(rows) <= most:
        for row in rows:
            open_ = " (undecided)" if row.get("undecided") == "True" else ""
            show(f"{row['path']}: {row['error'] or _answer(row) + open_}")


def _first_rows(file: Path, number: int) -> list[dict[str, str]]:
    """The first rows of a table of predictions, as CSV has them."""
    if file.suffix != ".parquet":
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return list(islice(csv.DictReader(stream), number))
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        names = set(_SHOWN_COLUMNS).intersection(table.schema_arrow.names)
        batch = next(table.iter_batches(number, columns=sorted(names)), None)
    rows = [] if batch is None else batch.to_pylist()
    return [{name: _as_in_csv(value) for name, value in row.items()} for row in rows]


def _as_in_csv(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    return "" if value is None else str(value)


def _answer(row: Mapping[str, str]) -> str:
    """The label with its score; several of them, or none, where an image may have any number."""
    scores = row["score"].split("|") if row["score"] else []
    labels = row["label"].split("|", len(scores) - 1)
    pairs = zip(labels, scores, strict=False)
    return ", ".join(f"{label} {float(score):.4f}" for label, score in pairs) or "no label"


def print_result(result: Result) -> None:
    """Print metrics, the best score, and where predictions are."""
    if result.best_score is not None:
        show("after the last epoch:")
    for name, value in result.metrics.items():
        show(f"{name}: {value:.6g}")
    if result.mode == "lr_find":
        show(", ".join(f"{key}: {value:.3g}" for key, value in result.found.items()))
    if result.best_score is not None:
        show(f"best {result.monitor}: {result.best_score:.6g} ({result.best_checkpoint})")
    for sentence in result.verdicts.values():
        show(sentence)
    if result.export:
        _print_export(result)
    if result.report is not None:
        show(f"report: {Path(result.output_dir, result.report).as_posix()}")
    if result.predictions is not None:
        _print_few_predictions(Path(result.output_dir, result.predictions))
        if result.num_undecided is not None:
            show(f"undecided: {result.num_undecided} of {result.num_images} images")
        show(f"predictions: {Path(result.output_dir, result.predictions).as_posix()}")


def _print_export(result: Result) -> None:
    """Where the file is, and how near it comes to its checkpoint."""
    told = result.export
    parts = [f"{told['bytes'] / 1e6:,.1f} MB"]
    parts += [] if told["opset"] is None else [f"opset {told['opset']}"]
    file = Path(result.output_dir, told["file"]).as_posix()
    show(f"exported: {file} ({', '.join([*parts, told['precision']])})")
    labels = "labels equal"
    if told["num_undecided"]:
        labels += f" but for {told['num_undecided']}, between two that were as good as equal"
    show(
        f"verified: {told['num_images']} images, {labels}, probabilities within "
        f"{told['max_difference']:.2g}"
    )
