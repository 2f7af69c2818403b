"""The head of a model card: what the Hugging Face Hub finds, filters and compares models by."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.evaluation.card.markdown import one_line
from classifier.evaluation.results import Evaluation

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TASK = "image-classification"
# Names of the Hub for what is called otherwise here.
_METRICS = {
    "f1_score": "f1",
    "auroc": "roc_auc",
    "matthews_corr_coef": "matthews_correlation",
}
_HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w.-]+$", flags=re.ASCII)
_DATA_KEYS = {"validation": "val", "test": "test"}


def metadata(
    name: str,
    config: Mapping[str, Any],
    saved: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
    *,
    several: bool,
) -> ModelCardData:
    """What is known, and nothing else: no licence and no data set that nobody named.

    Args:
        name: Of the model.
        config: The resolved configuration.
        saved: What the checkpoint says of its classifier.
        evaluations: By stage.
        several: Whether an image may have any number of classes.
    """
    from huggingface_hub import ModelCardData

    source = (saved.get("network") or {}).get("source")
    results = [r for stage, e in evaluations.items() for r in _results(config, stage, e)]
    tags = [TASK, "multi-label" if several else None, source if source != "module" else None]
    hub_data = sorted({found for _, found in _hub_data(config)})
    return ModelCardData(
        pipeline_tag=TASK,
        library_name="pytorch-lightning",
        tags=[tag for tag in tags if tag],
        base_model=_base_model(config, saved),
        datasets=hub_data or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _results(config: Mapping[str, Any], stage: str, evaluation: Evaluation) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    kind, name = _dataset(config, stage)
    for metric, estimate in evaluation.estimates.items():
        if math.isfinite(estimate.value):
            yield EvalResult(
                task_type=TASK,
                dataset_type=kind,
                dataset_name=name,
                dataset_split=stage,
                metric_type=_METRICS.get(metric, metric),
                metric_name=metric,
                metric_value=round(float(estimate.value), 6),
            )


def _dataset(config: Mapping[str, Any], stage: str) -> tuple[str, str]:
    """Of a stage's data set its type and its name: an id of the Hub, else the last of a path."""
    datasets = _datasets(config)
    key = _DATA_KEYS.get(stage, stage)
    used = key if datasets.get(key) is not None else "train"
    on_hub = dict(_hub_data(config)).get(used)
    if on_hub is not None:
        return on_hub, on_hub
    entry = datasets.get(used) or {}
    kind = str(entry.get("class_path") or "unknown").rpartition(".")[2]
    arguments = entry.get("init_args") or {}
    path = next((arguments[k] for k in ("root", "table", "name") if arguments.get(k)), None)
    kind = "imagefolder" if kind == "FolderImageDataset" else kind.lower()
    return kind, one_line(Path(str(path)).name) if path else kind


def _hub_data(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(stage, id) of the data sets that come from the Hub."""
    for stage, entry in _datasets(config).items():
        if str((entry or {}).get("class_path")).endswith("HuggingFaceDataset"):
            name = str((entry.get("init_args") or {}).get("name"))
            if stage != "predict" and _HUB_NAME.match(name) and not Path(name).exists():
                yield stage, name


def _datasets(config: Mapping[str, Any]) -> Mapping[str, Any]:
    data = (config.get("data") or {}).get("init_args") or {}
    found: Mapping[str, Any] = data.get("dataset_classes") or {}
    return found


def _base_model(config: Mapping[str, Any], saved: Mapping[str, Any]) -> str | None:
    """The model of the Hub whose weights the training began from; None where there is none."""
    arguments = (config.get("model") or {}).get("init_args") or {}
    name = str(arguments.get("model_name"))
    if not arguments.get("pretrained") or config.get("ckpt_path"):
        return None
    if name.startswith("timm/"):
        return _of_timm(saved)
    known = _HUB_NAME.match(name) and not name.startswith("torchvision/")
    return name if known and not Path(name).exists() else None


def _of_timm(saved: Mapping[str, Any]) -> str | None:
    """Timm says itself which model of the Hub its weights are."""
    import timm

    cfg = (saved.get("network") or {}).get("pretrained_cfg") or {}
    tag = f".{cfg['tag']}" if cfg.get("tag") else ""
    found = timm.models.get_pretrained_cfg(
        f"{cfg.get('architecture')}{tag}", allow_unregistered=True
    )
    hub_id = None if found is None else found.hf_hub_id
    if not hub_id:
        return None
    return f"{hub_id}{found.architecture}{tag}" if hub_id.endswith("/") else str(hub_id)
