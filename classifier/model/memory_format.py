"""Which memory format suits a network."""

from __future__ import annotations

from torch import nn

# A LeViT, with four convolutions before its attention, is below it; a ConvNeXt is at a third.
_CONVOLUTIONAL_SHARE = 0.1


def is_convolutional(model: nn.Module) -> bool:
    """Whether a network's work is done by convolutions, which run faster in torch.channels_last.

    Only convolutions whose windows overlap count: patch embeddings have windows side by side, and a
    1 x 1 convolution is a linear layer.

    Args:
        model: The network.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    overlapping = [
        layer
        for layer in layers
        if isinstance(layer, nn.Conv2d) and any(map(_overlaps, layer.kernel_size, layer.stride))
    ]
    return len(overlapping) > 1 and len(overlapping) >= _CONVOLUTIONAL_SHARE * len(layers)


def _overlaps(window: int, stride: int) -> bool:
    return window > stride
