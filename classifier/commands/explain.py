"""--explain: which parts of an image speak for a class, of the worst errors or of given images."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifier.callbacks.recorder import RunRecorder
from classifier.callbacks.worst_errors import WorstErrors
from classifier.commands.job import Job
from classifier.commands.prepare import check_metrics
from classifier.commands.trainer import as_list, attach, build_trainer, collect
from classifier.commands.weights import restore
from classifier.data.folders import ImagePathsDataset
from classifier.errors import ConfigError, RunError
from classifier.evaluation.explanations import (
    ClassMap,
    Explanation,
    Explanations,
    write_explanations,
)
from classifier.model.activation_maps import activation_maps, check_captum
from classifier.model.classifier import ImageClassifier
from classifier.model.feature_maps import FeatureMap, find_feature_map
from classifier.runs import Result, Run

log = logging.getLogger(__name__)

FLAG = "--explain"
_SEPARATOR = "|"  # between the labels of an image, as in predictions.csv
_HOOKS = {"val": "validate", "test": "test", "predict": "predict"}
_NAMES = {"val": "validation", "test": "test"}


def explain(job: Job) -> Result:
    """Draw class-activation maps with a checkpoint, in a run folder of its own.

    Args:
        job: Of the mode explain; it has a checkpoint.

    Raises:
        ConfigError: captum is missing, or something is wrong with the configuration, the
            checkpoint or the data, or the network has no features in a grid.
        RunError: the run failed.
    """
    assert job.checkpoint is not None
    check_captum()
    model, data, arguments = job.cli.build()
    if not isinstance(model, ImageClassifier):
        raise ConfigError(
            FLAG, "explains classifier.ImageClassifier only", got=type(model).__name__,
            remedy="Give a checkpoint of one",
        )  # fmt: skip
    if job.command.paths:
        data.dataset_classes["predict"] = ImagePathsDataset(job.command.paths, flag=FLAG)  # type: ignore[attr-defined]
    # A tensor that inference mode has made, such as a mask that a network keeps, has no gradients.
    trainer = build_trainer({**arguments, "inference_mode": False}, job.mode, None)
    restore(model, data, job.checkpoint)
    check_metrics(as_list(arguments.get("callbacks")), model)
    with_truth = "test" if data.has_test() else "val"  # type: ignore[attr-defined]
    stage = "predict" if job.command.paths else with_truth
    data.setup(_HOOKS[stage])
    explainer = _Explainer(model, data, stage)
    run = job.create_run()
    recorder = RunRecorder(run, job.cli.plain())
    attach(trainer, run, recorder, None)
    most = job.cli.evaluation.num_explained

    def work() -> None:
        if stage == "predict":
            found = _given_images(explainer, most)
        else:
            found = _worst_errors(explainer, trainer, recorder, most)
        page = write_explanations(found, run.folder / "report")
        _tell(found, run)
        run.result.report = page.relative_to(run.folder).as_posix()
        collect(trainer, run)

    return job.carry_out(run, data, work)


class _Explainer:
    """A model, the images of a stage, and the place in the network that is looked at.

    Args:
        model: With the weights of its checkpoint.
        data: Set up for the stage.
        stage: val, test or predict.

    Raises:
        ConfigError: the network has no features in a grid.
    """

    def __init__(self, model: ImageClassifier, data: Any, stage: str) -> None:
        assert model.network is not None and model.class_names is not None
        self.model, self.data, self.stage = model, data, stage
        self.network, self.class_names = model.network, model.class_names
        self.dataset = data.stage(stage)
        model.eval()
        try:
            self.place: FeatureMap = find_feature_map(self.network, self._image(0)[0])
        except RunError as error:
            raise ConfigError("ckpt_path", f"cannot be explained: {error}") from error

    def _image(self, position: int) -> tuple[Tensor, str]:
        """An image (1, 3, H, W), normalised, and why it could not be decoded."""
        image, _, _, error = self.dataset[position]
        weights = next(self.network.parameters())
        with torch.inference_mode(False):
            images: Tensor = self.model.normalised(image[None].to(weights.device))
        return images.to(weights.dtype), error

    def explain(self, position: int, loss: float | None = None) -> Explanation | str:
        """One image with its maps; the reason where it cannot be decoded.

        Args:
            position: In the stage.
            loss: Where the truth is known.
        """
        images, error = self._image(position)
        if error:
            return error
        with torch.no_grad():
            probabilities = self.model.probabilities(self.network(images))
            decided = self.model.decisions(probabilities)[0].tolist()
        scores: list[float] = probabilities[0].tolist()
        truth = None if loss is None else self._truth(self.dataset.target(position))
        shown = _shown_classes(scores, decided, truth)
        maps = activation_maps(
            self.network, self.place, images.expand(len(shown), -1, -1, -1), list(shown.values())
        )
        chosen = [i for i in _likeliest_first(scores) if decided[i]]
        return Explanation(
            path=self.dataset.path(position),
            label=_joined(self.class_names[i] for i in chosen),
            score=_joined(f"{scores[i]:.4f}" for i in chosen),
            truth=None if truth is None else self._true_label(truth, chosen),
            loss=loss,
            image=self._pixels(images),
            maps=[
                ClassMap(role, self.class_names[index], scores[index], values.numpy())
                for (role, index), values in zip(shown.items(), maps, strict=True)
            ],
        )

    def _truth(self, target: Any) -> list[bool]:
        """Which classes an image really has."""
        if isinstance(target, Tensor):
            return [bool(value) for value in target]
        return [index == target for index in range(len(self.class_names))]

    def _true_label(self, truth: list[bool], chosen: list[int]) -> str:
        """The true classes; in the order of the prediction where they are the same."""
        true = [index for index, present in enumerate(truth) if present]
        same = sorted(chosen) == true
        return _joined(self.class_names[i] for i in (chosen if same else true))

    def _pixels(self, images: Tensor) -> NDArray[np.uint8]:
        """(1, 3, H, W), normalised -> (H, W, 3)."""
        model = self.model
        pixels = images[0].float() * model.get_buffer("pixel_std")[0]
        pixels = (pixels + model.get_buffer("pixel_mean")[0]).clamp(0, 255).round()
        found: NDArray[np.uint8] = pixels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(found)


def _shown_classes(
    scores: list[float], decided: list[bool], truth: list[bool] | None
) -> dict[str, int]:
    """Whose maps are shown: the predicted class, and the true one where it was missed.

    Of several labels these are the likeliest that is wrong, and the missed one that seemed least
    likely.
    """
    order = _likeliest_first(scores)
    predicted = [i for i in order if decided[i]] or order
    if truth is None:
        return {"predicted": predicted[0]}
    wrong = [i for i in predicted if not truth[i]]
    missed = [i for i in order if truth[i] and not decided[i]]
    shown = {"predicted": (wrong or predicted)[0]}
    return {**shown, "true": missed[-1]} if missed else shown


def _likeliest_first(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


def _joined(parts: Any) -> str:
    return _SEPARATOR.join(parts)


def _worst_errors(
    explainer: _Explainer, trainer: L.Trainer, recorder: RunRecorder, most: int
) -> Explanations:
    """The wrong predictions of a stage with the highest loss."""
    model, data, stage = explainer.model, explainer.data, explainer.stage
    worst = WorstErrors(most)
    trainer.callbacks.append(worst)  # type: ignore[attr-defined]
    run = trainer.test if stage == "test" else trainer.validate
    with recorder.obeying_signals(), redirect_stdout(sys.stderr):
        run(model, datamodule=data, verbose=False)
    _for_gradients(explainer, trainer)
    items = [explainer.explain(position, loss) for position, loss in worst.found]
    name = _NAMES[stage]
    return Explanations(
        title="Worst errors",
        facts=f"{len(items)} of {worst.num_wrong} wrong predictions of {worst.num_images} {name} "
        f"images, the highest loss first. {_layer(explainer.place)}",
        items=[item for item in items if isinstance(item, Explanation)],
        nothing=f"All {worst.num_images} {name} images are predicted as they are.",
    )


def _given_images(explainer: _Explainer, most: int) -> Explanations:
    """The images that the command line names."""
    dataset = explainer.dataset
    number = min(most, len(dataset))
    if number < len(dataset):
        log.warning(
            "the first %d of %d images are explained; evaluation.num_explained says how many",
            number, len(dataset),
        )  # fmt: skip
    _for_gradients(explainer)
    items, failed = [], []
    for position in range(number):
        item = explainer.explain(position)
        if isinstance(item, Explanation):
            items.append(item)
        else:
            failed.append((dataset.path(position), item))
    return Explanations(
        title="Explanations",
        facts=f"{number} of {len(dataset)} images. {_layer(explainer.place)}",
        items=items, failed=failed, nothing="None of the images could be decoded.",
    )  # fmt: skip


def _for_gradients(explainer: _Explainer, trainer: Any = None) -> None:
    """Full precision, on the device of the trainer that was used."""
    model = explainer.model.float().eval()
    if trainer is not None:
        model.to(trainer.strategy.root_device)


def _layer(place: FeatureMap) -> str:
    rows, columns = place.size
    return f"The maps are of {place.name.removeprefix('model.')}, in {rows} x {columns} cells."


def _tell(found: Explanations, run: Run) -> None:
    """What the run came to, in its result and on the terminal."""
    run.result.num_images = len(found.items) + len(found.failed)
    run.result.num_errors = len(found.failed)
    if found.failed:
        log.warning(
            "%d of %d images could not be decoded: %s; the column error says why",
            len(found.failed), run.result.num_images,
            ", ".join(path for path, _ in found.failed[:5]),
        )  # fmt: skip
    log.info("%s", found.facts)
