"""predictions.csv: one row per image, failed ones included."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.callbacks.metrics import task_of
from classifier.data.datasets import sample_name
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

    def _start(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._model = pl_module
        self._dataset = trainer.datamodule.stage(stage)
        skipped: Mapping[int, str] = getattr(self._dataset, "skipped", {})
        self._skipped = sorted(
            (sample_name(self._dataset.source, index), why) for index, why in skipped.items()
        )
        self._class_names: list[str] = list(pl_module.class_names)
        self._several = task_of(pl_module) == MULTILABEL
        self._with_truth = stage == "test"
        temporary = self._open.enter_context(replacing(self.file))
        stream = self._open.enter_context(
            # Names that are no valid UTF-8 keep their bytes.
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        )
        self._writer = csv.writer(stream, lineterminator="\r\n")
        answers = _answer_columns(self._class_names, self._several)
        truth = ["target", "correct"] if self._with_truth else []
        self._writer.writerow(["path", *answers, "error", *truth])
        self._no_answer, self._no_truth = [""] * len(answers), [""] * len(truth)

    def _write(self, batch: Any, probabilities: Tensor) -> None:
        rows = probabilities.float().cpu()
        decided = self._model.decisions(rows).tolist() if self._several else [None] * len(rows)
        targets, positions = batch.targets.tolist(), batch.indices.tolist()
        errors = batch.errors or [""] * len(rows)
        parts = zip(rows.tolist(), decided, targets, positions, errors, strict=True)
        for row, decisions, target, position, error in parts:
            path = self._dataset.path(position)
            self._write_skipped(before=path)
            order = sorted(range(len(row)), key=lambda index: (-row[index], index))
            chosen = order[:1] if decisions is None else [i for i in order if decisions[i]]
            answer = self._no_answer if error else self._answer(row, order, chosen)
            truth = self._truth(target, chosen, failed=bool(error)) if self._with_truth else []
            self._write_row(path, answer, error, truth)

    def _write_skipped(self, before: str | None = None) -> None:
        """Write the rows of files that were left out, each in its place among the paths."""
        while self._skipped and (before is None or self._skipped[0][0] < before):
            path, reason = self._skipped.pop(0)
            self._write_row(path, self._no_answer, reason, self._no_truth)

    def _write_row(self, path: str, answer: list[str], error: str, truth: list[str]) -> None:
        self._writer.writerow([_safe_path(path), *answer, error.replace("\n", " "), *truth])
        self.num_rows += 1
        if error:
            self.failed.append(path)

    def _answer(
        self, probabilities: Sequence[float], order: Sequence[int], chosen: Sequence[int]
    ) -> list[str]:
        """The cells from label to the last probability.

        Args:
            probabilities: One for each class.
            order: Class indices, the likeliest first.
            chosen: Those that were predicted.
        """
        names = self._class_names
        labels = _joined(_safe_label(names[index]) for index in chosen)
        cells = [labels, _joined(chosen), _joined(_score(probabilities[i]) for i in chosen)]
        for index in () if self._several else order[1:MAX_RANKS]:
            cells += [_safe_label(names[index]), _score(probabilities[index])]
        return [*cells, *map(_score, probabilities)]

    def _truth(self, target: Any, chosen: Sequence[int], *, failed: bool) -> list[str]:
        """The cells target and correct."""
        true = [i for i, present in enumerate(target) if present] if self._several else [target]
        return [_joined(true), "" if failed else str(sorted(chosen) == true)]

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the table."""
        self._start(trainer, pl_module, "predict")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the table."""
        self._start(trainer, pl_module, "test")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write the rows of a batch."""
        self._write(batch, outputs)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write the rows of a batch."""
        logits = outputs["logits"]
        own = getattr(pl_module, "probabilities", None)  # a model of the user's may have none
        self._write(batch, own(logits) if own is not None else logits.float().softmax(dim=1))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the table its name."""
        self._write_skipped()
        self._open.close()

    on_test_end = on_predict_end

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Throw half a table away."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)


def _answer_columns(class_names: Sequence[str], several: bool) -> list[str]:
    """From label to the last probability; images of several labels have no ranking."""
    ranks = range(2, 1 if several else min(MAX_RANKS, len(class_names)) + 1)
    ranking = [name for rank in ranks for name in (f"label_{rank}", f"score_{rank}")]
    return ["label", "index", "score", *ranking, *(f"prob_{name}" for name in class_names)]


def _safe_path(path: str) -> str:
    """A path that no spreadsheet takes for a formula, and that still leads to the file."""
    return f"./{path}" if _FORMULA.match(path) else path


def _safe_label(label: str) -> str:
    """A label that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{label}" if _FORMULA.match(label) and not _NUMBER.match(label) else label


def _joined(parts: Iterable[Any]) -> str:
    return SEPARATOR.join(str(part) for part in parts)


def _score(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else "nan"
