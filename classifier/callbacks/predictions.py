"""The predictions of a run: one row per image, failed ones included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.callbacks.metrics import task_of
from classifier.callbacks.prediction_rows import Row
from classifier.callbacks.prediction_table import PredictionTable, answer_of
from classifier.data.datasets import file_of, sample_name
from classifier.data.loading import StageDataset
from classifier.evaluation.settings import EvaluationSettings
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
        self.table = PredictionTable(folder, settings or EvaluationSettings())

    def _start(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._model = pl_module
        self._dataset = trainer.datamodule.stage(stage)
        skipped: Mapping[int, str] = getattr(self._dataset, "skipped", {})
        self._source = getattr(self._dataset, "source", None)
        self._skipped = sorted((sample_name(self._source, index), index) for index in skipped)
        self._reasons = skipped
        self._with_truth = stage != "predict"
        self._several = task_of(pl_module) == MULTILABEL
        self.table.start(
            list(pl_module.class_names), several=self._several, with_truth=self._with_truth
        )

    def _write(self, batch: Any, probabilities: Tensor) -> None:
        rows = probabilities.float().cpu()
        # A model of the user's own may decide nothing: then the likeliest class is the answer.
        decide = getattr(self._model, "decisions", None)
        decided = [None] * len(rows) if decide is None else decide(rows).tolist()
        targets, positions = batch.targets.tolist(), batch.indices.tolist()
        errors = batch.errors or [""] * len(rows)
        parts = zip(rows.tolist(), decided, targets, positions, errors, strict=True)
        for scores, decisions, target, position, error in parts:
            path = self._dataset.path(position)
            self._write_skipped(before=path)
            answer = None if error else answer_of(scores, decisions)
            row = Row(path, self._file(position), answer, error, self._true_classes(target))
            self.table.write(row)

    def _write_skipped(self, before: str | None = None) -> None:
        """Write the rows of files that were left out, each in its place among the paths."""
        while self._skipped and (before is None or self._skipped[0][0] < before):
            path, index = self._skipped.pop(0)
            file = file_of(self._source, index)
            self.table.write(Row(path, file, None, self._reasons[index]))

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
        self.table.close()

    on_test_end = on_validation_end = on_predict_end

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Throw what is half written away."""
        self.table.discard(exception)
