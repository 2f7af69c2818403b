"""What of a classifier waits until its classes are known: the network, the task, the loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from classifier.model import tasks
from classifier.model.answers import Answers
from classifier.model.encoders import build_network, rebuild_network
from classifier.model.freezing import freeze_groups, hold_frozen_in_eval, num_frozen_groups
from classifier.model.lora import train_adapters
from classifier.model.mixing import Mixing
from classifier.model.network import Network
from classifier.model.options import NetworkOptions
from classifier.model.per_class import PerClass, resolve_thresholds, resolve_weights
from classifier.model.prefix import FrozenPrefix
from classifier.model.saved import CHECKPOINT_KEY as CHECKPOINT_KEY
from classifier.model.saved import Calibration
from classifier.model.training_loss import TrainingLoss
from classifier.model.unfreezing import num_frozen_in_epoch
from classifier.preprocessing import Preprocessing

log = logging.getLogger(__name__)


class DeferredNetwork(Answers):
    """Builds its network by `build`, or when a checkpoint is loaded; says what it was built for.

    The command line calls `build`, as does Lightning's `configure_model`.
    """

    # As the configuration has them.
    model_name: str
    pretrained: bool  # switched off by who brings weights
    options: NetworkOptions
    num_classes: int | None
    freeze_encoder: bool | float
    unfreeze_schedule: dict[Any, Any] | None
    class_weights: str | PerClass | None
    loss_config: Mapping[str, Any] | None
    mixing: Mixing | None

    def __init__(self, task: str | None, thresholds: float | PerClass | None) -> None:
        super().__init__()
        self.task = task
        self.class_names: list[str] | None = None
        # One number per class, once the classes are known. No buffers, which a Trainer in half
        # precision would round.
        self.loss_weights: Tensor | None = None
        self._given_thresholds = thresholds
        self.training_loss: TrainingLoss | None = None
        self.network: Network | None = None
        # The part of the network whose features are kept instead of images.
        self.prefix: FrozenPrefix | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """What the encoder expects of an image. Known once the network is built."""
        return self._built().preprocessing

    def build(
        self,
        class_names: Sequence[str] | None = None,
        task: str | None = None,
        class_counts: Sequence[int] | None = None,
        resize_mode: str | None = None,
    ) -> None:
        """Build the network, once.

        Args:
            class_names: One label per class in the order of the logits; None names them by number.
            task: multiclass or multilabel, as the data is; None where it does not say.
            class_counts: Training images per class, for `class_weights: auto`.
            resize_mode: crop, squash or pad; None is the encoder's own.

        Raises:
            ConfigError: what the model was told disagrees with what the data is.
        """
        if self.network is not None:
            return
        self.settle(class_names, task, class_counts)
        assert self.class_names is not None
        options = replace(self.options, pretrained=self.pretrained)
        network = build_network(self.model_name, len(self.class_names), options)
        if resize_mode is not None:
            network.expect(network.preprocessing.in_mode(resize_mode))
        log.info("%s: %s", self.model_name, self._take(network))

    def settle(
        self,
        class_names: Sequence[str] | None = None,
        task: str | None = None,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        """Everything of `build` but the network: classes, task, thresholds, loss."""
        self.class_names = tasks.resolve_classes(self.num_classes, class_names)
        self._set_task(task)
        self.weigh_classes(class_counts)

    def weigh_classes(self, class_counts: Sequence[int] | None) -> None:
        """Resolve class_weights, and with them the loss, for the training data.

        Args:
            class_counts: Training images per class, for `auto`.
        """
        names = self.class_names or []
        self.loss_weights = resolve_weights(self.class_weights, names, class_counts)
        self.training_loss = TrainingLoss(
            self.loss_config, self.task or tasks.MULTICLASS, len(names), self.loss_weights,
            soft=self.mixing is not None,
        )  # fmt: skip

    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Build the architecture that a checkpoint holds, without its weights, offline.

        Args:
            checkpoint: The loaded checkpoint of an ImageClassifier.

        Raises:
            ConfigError: the model was given a task that is not the checkpoint's, or thresholds
                that do not fit its classes.
        """
        saved = checkpoint[CHECKPOINT_KEY]
        self.class_names = list(saved["class_names"])
        self._set_task(saved.get("task", tasks.MULTICLASS), saved.get("thresholds"))
        self._take(
            rebuild_network(saved["network"], len(self.class_names), self.options.channels_last)
        )
        self.take_calibration(checkpoint)

    def take_calibration(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the calibration that belongs to a checkpoint's weights.

        Args:
            checkpoint: The loaded checkpoint of an ImageClassifier.
        """
        found = Calibration.read(checkpoint.get(CHECKPOINT_KEY, {}).get("calibration"))
        trained_with = checkpoint.get("hyper_parameters", {}).get("thresholds")
        if self._given_thresholds not in (None, trained_with):
            # The user's word of today is newer than what was tuned after the training.
            found = replace(found, thresholds=None, positive=None)
        self.calibration = found

    def configure_model(self) -> None:
        """Lightning's hook before training: takes the classes from the data module."""
        if self.network is None and self._trainer is not None:
            data = getattr(self.trainer, "datamodule", None)
            self.build(**tasks.class_facts(data), resize_mode=getattr(data, "resize_mode", None))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the checkpoint usable on its own: classes, task and architecture."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] = {
            "class_names": self.class_names,
            "task": self.task,
            "thresholds": self._own_thresholds,
            "calibration": self.calibration.plain(),
            "network": self._built().spec,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network of the checkpoint where none was built yet; calibrate as it is."""
        if self.network is None:
            self.rebuild(checkpoint)
        else:
            self.take_calibration(checkpoint)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but the frozen ones, which stay in eval mode."""
        super().train(mode)
        if self.network is not None:
            hold_frozen_in_eval(self.network)
        return self

    def _set_task(self, found: str | None, saved: list[float] | None = None) -> None:
        assert self.class_names is not None
        self.task = tasks.resolve_task(self.task, found)
        given = saved if self._given_thresholds is None else self._given_thresholds
        self._own_thresholds = resolve_thresholds(given, self.task, self.class_names)

    def _take(self, network: Network) -> str:
        """Make a network this model's own, frozen as is asked for; says what is trained."""
        self.network = network
        for side in ("mean", "std"):
            values = torch.tensor(getattr(network.preprocessing, side)) * 255.0
            self.register_buffer(f"pixel_{side}", values.view(1, 3, 1, 1), persistent=False)
        report = self._freeze(network)
        self.train(self.training)
        return report

    def _freeze(self, network: Network) -> str:
        if network.adapters is not None:
            return train_adapters(network)
        num_groups = len(network.layer_groups())
        if self.unfreeze_schedule is None:
            number = num_frozen_groups(self.freeze_encoder, num_groups)
        else:
            number = num_frozen_in_epoch(self.unfreeze_schedule, 0, num_groups)
        return freeze_groups(network, number)

    def _built(self) -> Network:
        if self.network is None:
            raise RuntimeError("the network is not built yet: call build(class_names) first")
        return self.network
