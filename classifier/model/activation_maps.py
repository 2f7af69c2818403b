"""Class-activation maps: which parts of an image speak for a class. Needs captum."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.errors import ConfigError
from classifier.model.feature_maps import FeatureMap
from classifier.model.freezing import modes_kept

_LIBRARY = "captum"


def check_captum() -> None:
    """Refuse to explain without the library.

    Raises:
        ConfigError: captum is not installed.
    """
    if find_spec(_LIBRARY) is None:
        raise ConfigError(
            "--explain", "needs captum, which is not installed", remedy="pip install captum"
        )


def activation_maps(
    network: nn.Module, place: FeatureMap, images: Tensor, classes: Sequence[int]
) -> Tensor:
    """What of each image speaks for a class: features times gradients, summed over channels.

    Behind an average over all places this is Grad-CAM. Elsewhere Grad-CAM would take the mean of
    the gradients over the places first, and point at what the class does not depend on.

    Args:
        network: Gives logits (N, num_classes). It keeps its modes, and its parameters may all be
            frozen: gradients begin at the features.
        place: Whose features are weighed.
        images: (N, 3, H, W), normalised, on the network's device.
        classes: (N) class indices.

    Returns:
        (N, H, W) float32 on the CPU in [0, 1], each with its maximum at 1; zeros where nothing
        speaks for the class.

    Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
        convolutional neural networks", arXiv:2011.08891, 2020; Selvaraju et al., "Grad-CAM",
        ICCV 2017.
    """
    from captum.attr import LayerGradientXActivation

    seam = nn.Identity()
    explain = LayerGradientXActivation(network, seam)
    with modes_kept(network), torch.inference_mode(False), place.passing(seam):
        network.eval()
        products = explain.attribute(images, target=list(classes))
    coarse = products.detach().float().sum(1, keepdim=True).relu()
    maps = F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = maps.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp_min(1e-30), 0.0).cpu()
