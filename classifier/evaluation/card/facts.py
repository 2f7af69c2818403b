"""What a model card is made from: a checkpoint, its evaluations, and its data in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from classifier.evaluation.results import MULTILABEL, Evaluation

# Stage -> what the data module and the configuration call it.
STAGES = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class StageFacts:
    """The images of a stage.

    Args:
        num_images: Those that the stage sees.
        class_counts: Images of each class, in the order of the classes.
    """

    num_images: int
    class_counts: Sequence[int]


@dataclass(frozen=True)
class CardFacts:
    """All that a card says.

    Args:
        checkpoint: Of the model, as `load_checkpoint` gives it.
        checkpoint_path: Where it lies, relative to the card.
        config: The resolved configuration.
        evaluations: By stage: validation, test.
        stages: By stage: train, validation, test.
        environment: The content of environment.json; None where it is not known.
        fingerprint: Of the data; None where it is not known.
        usage: Python code by which transformers opens the model, where it is no checkpoint.
    """

    checkpoint: Mapping[str, Any]
    checkpoint_path: str
    config: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    stages: Mapping[str, StageFacts] = field(default_factory=dict)
    environment: Mapping[str, Any] | None = None
    fingerprint: str | None = None
    usage: str = ""

    @property
    def saved(self) -> Mapping[str, Any]:
        """What the checkpoint says of its classifier; empty for a module of the user's own."""
        from classifier.model.deferred import CHECKPOINT_KEY

        found: Mapping[str, Any] = self.checkpoint.get(CHECKPOINT_KEY) or {}
        return found

    @property
    def class_names(self) -> list[str]:
        """In the order of the logits."""
        if self.saved:
            return [str(name) for name in self.saved["class_names"]]
        found = next(iter(self.evaluations.values()), None)
        return [] if found is None else list(found.predictions.class_names)

    @property
    def several(self) -> bool:
        """Whether an image may have any number of classes."""
        return self.saved.get("task") == MULTILABEL


def stage_facts(data: Any) -> dict[str, StageFacts]:
    """The images of each stage that a training knows, by stage.

    Args:
        data: The data module after its setup; one of the user's own says nothing.
    """
    from classifier.data.datamodule import ImageDataModule
    from classifier.data.selection import class_counts

    if not isinstance(data, ImageDataModule) or data.class_names is None:
        return {}
    found = {}
    for stage, name in STAGES.items():
        if data.dataset_classes.get(name) is not None or data.selection.is_held_out(name):
            targets = data.selection.members(name).targets
            found[stage] = StageFacts(len(targets), class_counts(targets, len(data.class_names)))
    return found
