"""Test-time augmentation: what a model says of several views of an image, taken together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

FLIPS, FIVE_CROP = "flips", "five_crop"
CROP_SHARE = 7 / 8  # of each side


def over_views(
    classify: Callable[[Tensor], Tensor], images: Tensor, kind: str | None, *, several: bool
) -> Tensor:
    """Logits whose probabilities are the means over the views of each image.

    They are worked out with logarithms, so that a probability that is nearly 0 stays one.

    Args:
        classify: From images (N, 3, H, W) to logits (N, C).
        images: Normalised, (N, 3, H, W).
        kind: flips, five_crop, or None for the image alone.
        several: Whether classes do not exclude each other: the mean is then that of sigmoids.

    Returns:
        (N, C), in float32 where there are several views.
    """
    if kind is None:
        return classify(images)
    # One after the other: no more memory than for one view.
    said = torch.stack([classify(view).float() for view in views_of(images, kind)])
    if not several:
        return _log_mean(said.log_softmax(dim=2))
    return _log_mean(F.logsigmoid(said)) - _log_mean(F.logsigmoid(-said))


def _log_mean(logarithms: Tensor) -> Tensor:
    """The logarithm of the mean over the first dimension."""
    return logarithms.logsumexp(dim=0) - math.log(len(logarithms))


def views_of(images: Tensor, kind: str) -> Iterator[Tensor]:
    """The views of a batch, each of its shape and type.

    Args:
        images: (N, 3, H, W) floats.
        kind: flips (the images and their mirror images) or five_crop (the four corners and the
            centre, 7/8 of each side, enlarged to H x W).
    """
    if kind == FLIPS:
        yield images
        yield images.flip(3)
        return
    height, width = images.shape[2:]
    high, wide = (max(1, round(side * CROP_SHARE)) for side in (height, width))
    down, right = height - high, width - wide
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    for top, left in corners:
        crop = images[:, :, top : top + high, left : left + wide]
        # Not every device and type has this in half precision.
        enlarged = F.interpolate(
            crop.float(), size=(height, width), mode="bilinear", align_corners=False
        )
        yield enlarged.to(images.dtype)
