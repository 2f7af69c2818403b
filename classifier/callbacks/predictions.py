"""The predictions of a run: one row per image, failed ones included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.callbacks.metrics import task_of
from classifier.callbacks.prediction_files import (
    FOLDER,
    JSON,
    PARQUET,
    TABLES,
    Write,
    csv_table,
    image_files,
    parquet_table,
)
from classifier.callbacks.prediction_rows import Answer, Layout, Row
from classifier.data.datasets import file_of, sample_name
from classifier.data.loading import StageDataset
from classifier.evaluation.settings import TOP_K, TOP_K_OF_FILES, EvaluationSettings
from classifier.model.tasks import MULTILABEL


class PredictionsWriter(Callback):
    """Writes a row per image as the batches come, and gives the files their names at the end.

    Columns: path, label, index, score, label_2, score_2, ..., prob_<class>..., error; with the
    truth known also target and correct; with abstain_below also undecided. In multilabel label,
    index and score hold every class whose probability reaches its threshold, the likeliest first,
    joined by `|`; target all classes of the truth; correct is whether the two are the same classes;
    and there is no label_2.

    Args:
        folder: Where predictions.csv goes, or predictions.parquet, and the folder predictions with
            the JSON files. An interrupted run leaves nothing of these names.
        settings: format, top_k and abstain_below of the section evaluation.
    """

    def __init__(self, folder: Path, settings: EvaluationSettings | None = None) -> None:
        self.settings = settings or EvaluationSettings()
        self.folder = folder
        self.file = folder / TABLES[self.settings.format]
        self.num_rows = 0
        self.num_undecided = 0
        self.num_not_numbers = 0
        self.failed: list[str] = []
        self._open = ExitStack()
        self._writes: list[Write] = []

    def _start(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._model = pl_module
        self._dataset = trainer.datamodule.stage(stage)
        skipped: Mapping[int, str] = getattr(self._dataset, "skipped", {})
        self._source = getattr(self._dataset, "source", None)
        self._skipped = sorted((sample_name(self._source, index), index) for index in skipped)
        self._reasons = skipped
        names = list(pl_module.class_names)
        self._with_truth = stage != "predict"
        self._several = task_of(pl_module) == MULTILABEL
        self._layout = self._layout_of(names, self.settings.top_k or TOP_K)
        table = parquet_table if self.settings.format == PARQUET else csv_table
        self._writes = [self._open.enter_context(table(self.file, self._layout))]
        if self.settings.format == JSON:
            layout = self._layout_of(names, self.settings.top_k or TOP_K_OF_FILES)
            files = image_files(self.folder / FOLDER, layout)
            self._writes.append(self._open.enter_context(files))

    def _layout_of(self, class_names: Sequence[str], top_k: int) -> Layout:
        return Layout(
            class_names, self._several, min(top_k, len(class_names)), self._with_truth,
            self.settings.abstain_below,
        )  # fmt: skip

    def _write(self, batch: Any, probabilities: Tensor) -> None:
        rows = probabilities.float().cpu()
        self.num_not_numbers += int((~rows.isfinite()).any(dim=1).sum())
        # A model of the user's own may decide nothing: then the likeliest class is the answer.
        decide = getattr(self._model, "decisions", None)
        decided = [None] * len(rows) if decide is None else decide(rows).tolist()
        targets, positions = batch.targets.tolist(), batch.indices.tolist()
        errors = batch.errors or [""] * len(rows)
        parts = zip(rows.tolist(), decided, targets, positions, errors, strict=True)
        for scores, decisions, target, position, error in parts:
            path = self._dataset.path(position)
            self._write_skipped(before=path)
            answer = None if error else _answer(scores, decisions)
            row = Row(path, self._file(position), answer, error, self._true_classes(target))
            self._write_row(row)

    def _write_skipped(self, before: str | None = None) -> None:
        """Write the rows of files that were left out, each in its place among the paths."""
        while self._skipped and (before is None or self._skipped[0][0] < before):
            path, index = self._skipped.pop(0)
            file = file_of(self._source, index)
            self._write_row(Row(path, file, None, self._reasons[index]))

    def _write_row(self, row: Row) -> None:
        for write in self._writes:
            write(row)
        self.num_rows += 1
        self.num_undecided += bool(row.undecided(self._layout))
        if row.error:
            self.failed.append(row.path)

    def _file(self, position: int) -> str | None:
        """The file of an image; None where it has none, or a stage of the user's own tells none."""
        stage = self._dataset
        return stage.file(position) if isinstance(stage, StageDataset) else None

    def _true_classes(self, target: Any) -> list[int] | None:
        if not self._with_truth:
            return None
        return [i for i, present in enumerate(target) if present] if self._several else [target]

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the files."""
        self._start(trainer, pl_module, "predict")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the files."""
        self._start(trainer, pl_module, "test")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the files."""
        self._start(trainer, pl_module, "val")

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

    on_validation_batch_end = on_test_batch_end  # type: ignore[assignment]

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the files their names."""
        self._write_skipped()
        self._open.close()

    on_test_end = on_validation_end = on_predict_end

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Throw what is half written away."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)


def _answer(probabilities: Sequence[float], decisions: Iterable[bool] | None) -> Answer:
    """What a model says of an image.

    Args:
        probabilities: One for each class.
        decisions: Which classes it has; None for the likeliest alone.
    """
    order = sorted(range(len(probabilities)), key=lambda index: (-probabilities[index], index))
    if decisions is None:
        return Answer(probabilities, order, order[:1])
    has = list(decisions)
    return Answer(probabilities, order, [index for index in order if has[index]])
