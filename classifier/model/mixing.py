"""Mixup and CutMix: two images and their targets become one, in training only."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.errors import ConfigError
from classifier.importing import check_arguments

log = logging.getLogger(__name__)

MIXUP = "model.init_args.mixup_config"


class Mixed(NamedTuple):
    """A batch on its way to the loss.

    Args:
        images: (N, 3, H, W).
        targets: (N, C) shares of each class; as they came where nothing was mixed.
        main: As the targets came, of the image that has the larger share. Metrics compare with it.
    """

    images: Tensor
    targets: Tensor
    main: Tensor


class Mixing:
    """Mixes each image of a batch with the one before it, with one lambda for the batch.

    lambda, the share of an image in what becomes of it, is drawn from Beta(alpha, alpha) by torch's
    own random numbers, which a checkpoint keeps: a resumed training mixes as an uninterrupted one.
    With both alphas, each batch is mixed in one of the two ways.

    Args:
        mixup_alpha: Of Mixup, which blends whole images; 0 is no Mixup.
        cutmix_alpha: Of CutMix, which pastes a box of one image into the other; 0 is no CutMix.
        prob: Share of the batches in (0, 1] that are mixed.
        switch_prob: Share in [0, 1] of the mixed batches for CutMix, where both are on.
        mixup_off_epoch: Nothing is mixed from this epoch on, counted from 0; below 1 a fraction of
            all epochs; None mixes to the end.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al.,
        "CutMix", ICCV 2019, algorithm A1; names and the switch from timm.data.Mixup.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mixup_off_epoch: float | None = None,
    ) -> None:
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.prob = prob
        self.switch_prob = switch_prob
        self.mixup_off_epoch = mixup_off_epoch
        self.num_epochs = math.inf

    def plan(self, trainer: Any) -> None:
        """Settle how many epochs are mixed.

        Args:
            trainer: At the start of a training.

        Raises:
            ConfigError: a fraction of a training without an end.
        """
        off = self.mixup_off_epoch
        if off is None or off >= 1:
            self.num_epochs = math.inf if off is None else off
            if off is not None and 0 < (trainer.max_epochs or 0) <= off:
                log.warning(
                    "%s.mixup_off_epoch: epoch %d never comes, the last one is %d",
                    MIXUP, off, trainer.max_epochs - 1,
                )  # fmt: skip
            return
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
            epochs = steps / max(1, trainer.num_training_batches)
        if not math.isfinite(epochs):
            raise ConfigError(
                f"{MIXUP}.mixup_off_epoch", "a fraction needs the length of the training", got=off,
                remedy="Write trainer.max_epochs, or an epoch",
            )  # fmt: skip
        self.num_epochs = round(off * epochs)

    def __call__(self, images: Tensor, targets: Tensor, num_classes: int, epoch: int) -> Mixed:
        """Mix a batch, or leave it as it is.

        Args:
            images: (N, 3, H, W), normalised floats.
            targets: (N,) class indices, or (N, C) zeros and ones.
            num_classes: C.
            epoch: From 0.
        """
        if epoch >= self.num_epochs or (self.prob < 1 and torch.rand(()).item() >= self.prob):
            return Mixed(images, targets, targets)
        mixed, share = self._cut(images) if self._cuts() else self._blend(images)
        shares = F.one_hot(targets, num_classes).float() if targets.ndim == 1 else targets.float()
        main = targets if share >= 0.5 else targets.roll(1, 0)
        return Mixed(mixed, torch.lerp(shares.roll(1, 0), shares, share), main)

    def _cuts(self) -> bool:
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            return torch.rand(()).item() < self.switch_prob
        return self.cutmix_alpha > 0

    def _blend(self, images: Tensor) -> tuple[Tensor, float]:
        share = _beta(self.mixup_alpha)
        # The batch comes first, so that the result has its memory format.
        return torch.lerp(images, images.roll(1, 0), 1.0 - share), share

    def _cut(self, images: Tensor) -> tuple[Tensor, float]:
        """The box has the area 1 - lambda around a random centre.

        What of it lies outside the image is cut off, and the share is that of the pixels that
        remain.
        """
        share = _beta(self.cutmix_alpha)
        height, width = images.shape[-2:]
        middle_x = int(torch.randint(width, ()).item())
        middle_y = int(torch.randint(height, ()).item())
        half = 0.5 * math.sqrt(1.0 - share)
        half_width, half_height = int(half * width), int(half * height)
        left, right = max(middle_x - half_width, 0), min(middle_x + half_width, width)
        top, bottom = max(middle_y - half_height, 0), min(middle_y + half_height, height)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
        return mixed, 1.0 - (right - left) * (bottom - top) / (width * height)


def build_mixing(config: Mapping[str, Any] | None) -> Mixing | None:
    """What a configuration asks for.

    Args:
        config: Arguments of `Mixing`; None mixes nothing.

    Raises:
        ConfigError: an unknown key, a number that cannot be, or nothing to mix.
    """
    if config is None:
        return None
    check_arguments(Mixing, config, MIXUP)
    for key, value in config.items():
        _check_value(key, value)
    mixing = Mixing(**config)
    if not (mixing.mixup_alpha or mixing.cutmix_alpha):
        raise ConfigError(
            MIXUP, "mixes nothing: mixup_alpha and cutmix_alpha are 0", got=dict(config),
            remedy="Write for example mixup_alpha: 0.2, or null",
        )  # fmt: skip
    if "switch_prob" in config and not (mixing.mixup_alpha and mixing.cutmix_alpha):
        raise ConfigError(
            f"{MIXUP}.switch_prob", "has no effect: it chooses between Mixup and CutMix, and one "
            "of the two is off", got=mixing.switch_prob, remedy="Leave it out",
        )  # fmt: skip
    return mixing


def _check_value(key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    off = value is None or (
        number and (0 < value < 1 or (value >= 1 and float(value).is_integer()))
    )
    rules = {
        "mixup_alpha": (number and 0 <= value < math.inf, "must be a number from 0 on", "0.2"),
        "cutmix_alpha": (number and 0 <= value < math.inf, "must be a number from 0 on", "1.0"),
        "prob": (number and 0 < value <= 1, "must be in (0, 1]", "1.0"),
        "switch_prob": (number and 0 <= value <= 1, "must be in [0, 1]", "0.5"),
        "mixup_off_epoch": (off, "must be an epoch from 1 on, a fraction in (0, 1) or null", "15"),
    }
    right, problem, example = rules[key]
    if not right:
        raise ConfigError(
            f"{MIXUP}.{key}", problem, got=value, remedy=f"Write for example {example}"
        )


def _beta(alpha: float) -> float:
    parameter = torch.tensor([alpha], dtype=torch.float32)
    return float(torch.distributions.Beta(parameter, parameter).sample().item())
