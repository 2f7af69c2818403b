"""predictions.csv: one row per image, failed ones included."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.callbacks.metrics import task_of
from classifier.files import replacing
from classifier.model.tasks import MULTILABEL

MAX_RANKS = 5
SEPARATOR = "|"  # between the labels of an image
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_NUMBER = re.compile(r"^[+-]?\d+(?:\.\d+)?$")


class PredictionsWriter(Callback):
    """Writes a row per image as the batches come, and gives the file its name at the end.

    Columns: path, label, index, score, label_2, score_2, ..., prob_<class>..., error; with the
    truth known also target and correct. In multilabel label, index and score hold every class whose
    probability reaches its threshold, the likeliest first, joined by `|`; target all classes of the
    truth; correct is whether the two are the same classes; and there is no label_2.

    Args:
        file: Where the table goes. An interrupted run leaves no file of this name.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.num_rows = 0
        self.failed: list[str] = []
        self._open = ExitStack()
        self._writer: Any = None

    def _start(self, pl_module: Any, dataset: Any, with_truth: bool) -> None:
        self._model = pl_module
        self._skipped = sorted(getattr(dataset, "skipped", []))
        self._class_names: list[str] = list(pl_module.class_names)
        self._several = task_of(pl_module) == MULTILABEL
        self._with_truth = with_truth
        temporary = self._open.enter_context(replacing(self.file))
        stream = self._open.enter_context(
            # Names that are no valid UTF-8 keep their bytes.
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        )
        self._writer = csv.writer(stream, lineterminator="\r\n")
        self._columns = columns(self._class_names, with_truth, self._several)
        self._writer.writerow(self._columns)

    def _write(self, dataset: Any, batch: Any, probabilities: Tensor) -> None:
        rows = probabilities.float().cpu()
        decided = self._model.decisions(rows).tolist() if self._several else [None] * len(rows)
        targets, places = batch.targets.tolist(), batch.indices.tolist()
        errors = batch.errors or [""] * len(rows)
        parts = zip(rows.tolist(), decided, targets, places, errors, strict=True)
        for row, chosen, target, place, error in parts:
            path = dataset.path(place)
            self._write_skipped(before=path)
            reason = error.replace("\n", " ")
            if chosen is None:
                cells = self._cells(row, target, reason)
            else:
                cells = self._cells_of_several(row, chosen, target, reason)
            self._writer.writerow([safe_path(path), *cells])
            self.num_rows += 1
            if error:
                self.failed.append(path)

    def _write_skipped(self, before: str | None = None) -> None:
        """Write the rows of files that were left out, each in its place among the paths."""
        while self._skipped and (before is None or self._skipped[0][0] < before):
            path, reason = self._skipped.pop(0)
            cells = dict.fromkeys(self._columns, "") | {"path": safe_path(path), "error": reason}
            self._writer.writerow(list(cells.values()))
            self.num_rows += 1
            self.failed.append(path)

    def _cells(self, probabilities: Sequence[float], target: int, error: str) -> Iterator[Any]:
        names = self._class_names
        num_ranks = min(MAX_RANKS, len(names))
        order = _by_probability(probabilities)[:num_ranks]
        if error:
            yield from [""] * (1 + 2 * num_ranks + len(names))
        else:
            yield from (safe_label(names[order[0]]), order[0], _score(probabilities[order[0]]))
            for index in order[1:]:
                yield from (safe_label(names[index]), _score(probabilities[index]))
            yield from (_score(value) for value in probabilities)
        yield error
        if self._with_truth:
            yield from (target, "" if error else order[0] == target)

    def _cells_of_several(
        self, probabilities: Sequence[float], decided: Sequence[bool], target: Any, error: str
    ) -> Iterator[Any]:
        names = self._class_names
        chosen = [index for index in _by_probability(probabilities) if decided[index]]
        if error:
            yield from [""] * (3 + len(names))
        else:
            yield _joined(safe_label(names[index]) for index in chosen)
            yield _joined(chosen)
            yield _joined(_score(probabilities[index]) for index in chosen)
            yield from (_score(value) for value in probabilities)
        yield error
        if self._with_truth:
            truth = [index for index, present in enumerate(target) if present]
            yield from (_joined(truth), "" if error else sorted(chosen) == truth)

    def _finish(self) -> None:
        self._write_skipped()
        self._open.close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the table."""
        self._start(pl_module, _stage(trainer, "predict"), with_truth=False)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of a batch."""
        self._write(_stage(trainer, "predict"), batch, outputs)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the table its name."""
        self._finish()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the table."""
        self._start(pl_module, _stage(trainer, "test"), with_truth=True)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of a batch."""
        logits = outputs["logits"]
        own = getattr(pl_module, "probabilities", None)  # a model of the user's may have none
        probabilities = own(logits) if own is not None else logits.float().softmax(dim=1)
        self._write(_stage(trainer, "test"), batch, probabilities)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the table its name."""
        self._finish()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Throw half a table away."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)


def _stage(trainer: L.Trainer, name: str) -> Any:
    return trainer.datamodule.stage(name)  # type: ignore[attr-defined]


def columns(class_names: Sequence[str], with_truth: bool, several: bool = False) -> list[str]:
    """The header of predictions.csv.

    Args:
        class_names: In the order of the logits.
        with_truth: Add target and correct.
        several: An image may have several labels: there is no ranking.
    """
    ranks = range(2, 1 if several else min(MAX_RANKS, len(class_names)) + 1)
    header = ["path", "label", "index", "score"]
    header += [name for rank in ranks for name in (f"label_{rank}", f"score_{rank}")]
    header += [f"prob_{name}" for name in class_names]
    return [*header, "error", *(["target", "correct"] if with_truth else [])]


def safe_path(path: str) -> str:
    """A path that no spreadsheet takes for a formula, and that still leads to the file."""
    return f"./{path}" if _FORMULA.match(path) else path


def safe_label(label: str) -> str:
    """A label that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{label}" if _FORMULA.match(label) and not _NUMBER.match(label) else label


def _by_probability(probabilities: Sequence[float]) -> list[int]:
    return sorted(range(len(probabilities)), key=lambda index: (-probabilities[index], index))


def _joined(parts: Iterable[Any]) -> str:
    return SEPARATOR.join(str(part) for part in parts)


def _score(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else "nan"
