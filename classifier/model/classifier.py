"""ImageClassifier: forward, the steps, and the optimizer."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.errors import ConfigError, RunError
from classifier.model import tasks
from classifier.model.answers import Calibration
from classifier.model.compiling import Compiling, compile_mode
from classifier.model.counted_losses import CountedLosses, MeanLoss
from classifier.model.deferred import DeferredNetwork
from classifier.model.freezing import num_frozen_groups
from classifier.model.lora_config import check_lora
from classifier.model.losses import classification_loss
from classifier.model.mixing import build_mixing
from classifier.model.optimizers import build_optimizer, completed, highest_rate, with_highest_rate
from classifier.model.options import NetworkOptions
from classifier.model.per_class import check_thresholds, check_weights
from classifier.model.schedules import (
    build_scheduler,
    check_scheduler,
    forget_length,
    planned_length,
)
from classifier.model.training_loss import check_loss
from classifier.model.unfreezing import Unfreezing, check_unfreeze_schedule, epochs_as_numbers
from classifier.model.views import over_views

log = logging.getLogger(__name__)


class ImageClassifier(DeferredNetwork, CountedLosses):
    """An image classifier on an encoder of timm, torchvision, transformers, or your own.

    The network is built when the number of classes is known: by `build`, which the command line
    and Lightning's `configure_model` call, or when a checkpoint is loaded.

    Args:
        model_name: `timm/<name>`, `torchvision/<name>`, `<org>/<name>` on the Hugging Face Hub, a
            local folder, or the import path of a torch.nn.Module.
        pretrained: Load pretrained weights; false starts at random.
        num_classes: null takes it from the data; a number that disagrees with the data is an error.
        freeze_encoder: false, true, or the fraction in [0, 1] of the encoder's layer groups, from
            the input side, that are not trained. The head always is.
        optimizer_config: `name` (torch.optim class, timm name or import path) and its arguments;
            without a name AdamW with lr 3e-4 and weight_decay 0.05 where these are not given.
            `lr_backbone` and `lr_head` (each lr by default) are the encoder's and the head's rates;
            `layer_decay` in (0, 1] lowers the encoder's by this factor for each layer group from
            the output; `decay_norms_and_biases: true` decays these weights too.
        scheduler_config: `name` (cosine, linear, step, plateau, one_cycle, constant, a class of
            torch.optim.lr_scheduler or an import path), `warmup_epochs` or `warmup_ratio`, and the
            schedule's arguments; null keeps the learning rate.
        task: multiclass (one label per image), multilabel (any number); null is what the data is.
        class_weights: auto (inverse to the images per class, mean 1.0), weights by class name (the
            others weigh 1.0), or a list in the order of the classes; of the training loss only,
            so that the validation and test loss of two runs compare.
        thresholds: multilabel only: the probability in (0, 1) from which on an image has a class;
            one for all, by class name (the others 0.5), or a list; null is 0.5.
        model_args: further arguments of the architecture, in its library's own names.
        drop_rate: dropout in [0, 1), where the library has it; null is the library's default.
        drop_path_rate: stochastic depth in [0, 1), where the library has it; null is its default.
        head: `hidden` (a size or a list of sizes), `dropout` in [0, 1) and `activation` (gelu or
            relu) of a head of several layers; null keeps the library's own.
        image_size: a side or [height, width] in pixels of what the network sees, other than its
            own; pretrained position embeddings are interpolated.
        channels_last: memory format of weights and images; null, or auto, is measured before a long
            training, else true for convolutional encoders. Changes the speed, not the result.
        loss_config: `name` (cross_entropy, bce, focal, or the import path of a torch.nn.Module that
            takes logits and targets) and its arguments, of the training alone; null is
            cross_entropy, in multilabel bce.
        mixup_config: `mixup_alpha`, `cutmix_alpha`, `prob`, `switch_prob` and `mixup_off_epoch` of
            Mixup and CutMix; null mixes nothing.
        unfreeze_schedule: Epoch, from 0 -> what is trained from then on: head, all, or the fraction
            in [0, 1] of the encoder's layer groups, from the output side, beside the head. For
            example {0: head, 2: 0.25, 4: all}; instead of freeze_encoder.
        lora: `r`, `lora_alpha`, `lora_dropout`, `target_modules` and further arguments of
            peft.LoraConfig: the encoder is frozen, and adapters beside its layers are trained;
            without target_modules those of the attention. null adds none.
        compile: false, true, or a mode of torch.compile (reduce-overhead, max-autotune): compiles
            the network for the training; evaluation of a checkpoint never waits for it.

    Raises:
        ConfigError: a name, argument or number that cannot be.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = True,
        num_classes: int | None = None,
        freeze_encoder: bool | float = False,
        optimizer_config: dict[str, Any] | None = None,
        scheduler_config: dict[str, Any] | None = None,
        task: str | None = None,
        class_weights: str | dict[str, float] | list[float] | None = None,
        thresholds: float | dict[str, float] | list[float] | None = None,
        model_args: dict[str, Any] | None = None,
        drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        head: dict[str, Any] | None = None,
        image_size: int | list[int] | None = None,
        channels_last: bool | Literal["auto"] | None = None,
        loss_config: dict[str, Any] | None = None,
        mixup_config: dict[str, Any] | None = None,
        unfreeze_schedule: dict[Any, Any] | None = None,
        lora: dict[str, Any] | None = None,
        compile: bool | str = False,
    ) -> None:
        super().__init__(task, thresholds)
        self.save_hyperparameters()
        self.model_name = model_name
        self.pretrained = pretrained
        self.num_classes = num_classes
        self.freeze_encoder = freeze_encoder
        self.unfreeze_schedule = epochs_as_numbers(unfreeze_schedule)
        self.lora = lora
        self.compile_mode = compile_mode(compile)
        self.optimizer_config = completed(optimizer_config)
        self._configured_lr: float | None = None  # when the optimizer was made
        self.views: str | None = None  # test-time augmentation, of a command that evaluates
        self.scheduler_config = scheduler_config
        self.class_weights = class_weights
        self.image_size = image_size
        self.options = NetworkOptions(
            model_args=model_args, drop_rate=drop_rate, drop_path_rate=drop_path_rate, head=head,
            image_size=image_size, lora=lora,
            channels_last=None if channels_last == "auto" else channels_last,
        )  # fmt: skip
        self.loss_config = loss_config
        self.mixing = build_mixing(mixup_config)
        self._check()

    def _check(self) -> None:
        if self.num_classes is not None and self.num_classes < 1:
            raise ConfigError(
                "model.init_args.num_classes", "must be at least 1", got=self.num_classes,
                remedy="Write null to take it from the data",
            )  # fmt: skip
        tasks.check_task(self.task)
        check_weights(self.class_weights)
        check_thresholds(self._given_thresholds, self.task)
        num_frozen_groups(self.freeze_encoder, 1)
        check_lora(self.lora, self.freeze_encoder, self.unfreeze_schedule)
        check_unfreeze_schedule(self.unfreeze_schedule, self.freeze_encoder)
        build_optimizer(torch.nn.Linear(2, 2), self.optimizer_config)
        check_scheduler(self.scheduler_config)
        check_loss(self.loss_config, self.task)

    @property
    def lr(self) -> float | None:
        """The highest learning rate of optimizer_config, which Lightning's finder sets.

        Setting it keeps lr, lr_backbone and lr_head in proportion, and tells checkpoints of it.
        """
        return highest_rate(self.optimizer_config)

    @lr.setter
    def lr(self, rate: float) -> None:
        self.optimizer_config |= with_highest_rate(self.optimizer_config, rate)
        self.hparams["optimizer_config"] = dict(self.optimizer_config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network where none was built yet, and let one_cycle take today's length."""
        super().on_load_checkpoint(checkpoint)
        if (self.scheduler_config or {}).get("name") == "one_cycle":
            for state in checkpoint.get("lr_schedulers", []):
                forget_length(state)

    # Steps

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (N, 3, H, W), uint8 pixels in [0, 255], normalised here on the device, or
                floats that are normalised already.

        Returns:
            Logits (N, num_classes).
        """
        logits: Tensor = self._built()(self.normalised(images))
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """What the network takes, of images (N, 3, H, W) as `forward` takes them."""
        if images.dtype != torch.uint8:
            return images
        mean: Tensor = self.get_buffer("pixel_mean")
        return (images.to(mean.dtype) - mean) / self.get_buffer("pixel_std")

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, ...) by the frozen part, of images (N, 3, H, W) as `forward` takes them."""
        assert self.prefix is not None
        return self.prefix.encode(self.normalised(images))

    def _logits(self, batch: Any) -> Tensor:
        """Of a batch of images, or of features that the frozen part gave."""
        if not getattr(batch, "encoded", False):
            logits: Tensor = self(batch[0])
            return logits
        assert self.prefix is not None
        return self.prefix.finish(batch[0])

    def _logits_over_views(self, batch: Any) -> Tensor:
        """The same of evaluation: with the views that a command asks for, of images alone."""
        if self.views is None:
            return self._logits(batch)
        assert not getattr(batch, "encoded", False)
        several = self.task == tasks.MULTILABEL
        return over_views(self, self.normalised(batch[0]), self.views, several=several)

    def on_fit_start(self) -> None:
        """Have the loss at hand, also after `load_from_checkpoint`, and begin uncalibrated."""
        self.calibration = Calibration()
        if self.training_loss is None:
            data = getattr(self.trainer, "datamodule", None)
            counts = tasks.class_facts(data)["class_counts"] if self.class_weights else None
            self.weigh_classes(counts)
        if self.mixing is not None:
            self.mixing.plan(self.trainer)
        if self.lr != self._configured_lr:
            # A LearningRateFinder, which ran before this hook, writes its rate into all groups
            # alike, and leaves the schedule at the old one, to which the first step would return.
            self.trainer.strategy.setup_optimizers(self.trainer)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One batch of (images, targets, ...): logs train_loss, returns loss and logits.

        The targets that it returns, with which metrics compare, are those of the image that has
        the larger share in a mixed one.
        """
        assert self.training_loss is not None
        if self.mixing is None:
            logits, targets, main = self._logits(batch), batch[1], batch[1]
        else:
            images, targets, main = self.mixing(
                self.normalised(batch[0]), batch[1], len(self.class_names or []), self.current_epoch
            )
            logits = self(images)
        loss = self.training_loss(logits, targets)
        self.count_train_loss(loss, batch, batch_idx)
        return {"loss": loss, "logits": logits.detach(), "targets": main}

    def on_train_epoch_start(self) -> None:
        """Stop where what was computed once is trained after all."""
        if self.prefix is not None and not self.prefix.is_frozen():
            raise RunError(
                "layers whose features are kept were unfrozen. Write "
                "data.init_args.cache_features: false"
            )

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One batch of (images, targets, ...): counts its loss, returns loss and logits."""
        return self._evaluation_step(batch, self.validation_loss)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One batch of (images, targets, ...): counts its loss, returns loss and logits."""
        return self._evaluation_step(batch, self.test_loss)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch of (images, ...): probabilities (N, num_classes) in float32."""
        return self.probabilities(self.calibrated(self._logits_over_views(batch)))

    def _evaluation_step(self, batch: Any, mean: MeanLoss) -> dict[str, Tensor]:
        logits, targets = self.calibrated(self._logits_over_views(batch)), batch[1]
        # Whatever loss trains, the plain one is logged, so that runs compare.
        loss = classification_loss(logits, targets, self.task or tasks.MULTICLASS)
        mean.count(loss, len(targets))
        return {"loss": loss, "logits": logits.detach(), "targets": targets}

    # Optimization

    def configure_optimizers(self) -> Any:
        """The optimizer over the parameters that are trained now or later, and its schedule."""
        self._configured_lr = self.lr
        later = self.unfreeze_schedule is not None
        optimizer = build_optimizer(
            self._built(), self.optimizer_config, frozen_too=later, fused=self._may_fuse()
        )
        rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
        if len(rates) > 1:
            log.info("learning rates of the parameter groups: %.3g to %.3g", rates[0], rates[-1])
        if self.scheduler_config is None:
            return optimizer
        num_steps, num_epochs = planned_length(self.trainer)
        scheduler = build_scheduler(
            optimizer, self.scheduler_config, num_steps=num_steps, num_epochs=num_epochs
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _may_fuse(self) -> bool:
        """Whether the optimizer may update all parameters by one kernel.

        In mixed precision Lightning refuses such a one beside gradient_clip_val: with a gradient
        scaler it would undo the scaling by itself.
        """
        trainer = self._trainer
        mixed = trainer is not None and str(trainer.precision).endswith("-mixed")
        clipped = trainer is not None and trainer.gradient_clip_val is not None
        return self.device.type in ("cpu", "cuda") and not (mixed and clipped)

    def configure_callbacks(self) -> list[Callback]:
        """What follows unfreeze_schedule, and what compiles, where they are asked for."""
        callbacks: list[Callback] = []
        if self.unfreeze_schedule is not None:
            callbacks.append(Unfreezing(self.unfreeze_schedule))
        if self.compile_mode is not None:
            callbacks.append(Compiling(self.compile_mode))
        return callbacks
