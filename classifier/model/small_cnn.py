"""A small convolutional network for small images, to be trained from random weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """A stem, stages that halve the image, the maximum over all places, and a linear head.

    The 3 x 3 convolutions stay away from the full resolution, where they cost most: one thin
    convolution looks at the pixels, and each pooling comes before its normalisation and activation,
    which then run on a quarter of the values.

    `model_name: classifier.SmallCNN`; it has no pretrained weights.

    Args:
        num_classes: Number of logits, at least 1.
        width: Channels after the stem, at least 1. The number of parameters grows with its square:
            2.3 million at 64.
        depth: Convolutions in the residual branch of a stage; 0 leaves the branch out.
        multipliers: Channels of each stage, in multiples of the width, each at least 1.
        image_size: Side or height and width in pixels of what it sees, each at least 2 to the
            number of stages plus 1: 16 for three stages.
        drop_rate: Dropout in [0, 1) before the head.

    Raises:
        ValueError: a number out of range.

    Source: batch normalisation, Ioffe and Szegedy, ICML 2015; identity shortcuts, He et al., "Deep
        Residual Learning", CVPR 2016; GELU, Hendrycks and Gimpel, 2016; a short, wide residual
        network with poolings, Page, "How to Train Your ResNet", 2018; the pooling after a stage's
        first convolution and before the head, Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single
        GPU", arXiv:2404.00498, 2024.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        depth: int = 1,
        multipliers: Sequence[int] = (2, 4, 4),
        image_size: int | Sequence[int] = 32,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        size = (image_size,) if isinstance(image_size, int) else tuple(image_size)
        least = 2 ** (len(multipliers) + 1)
        if width < 1 or depth < 0 or min(multipliers, default=1) < 1 or min(size) < least:
            raise ValueError(
                f"width >= 1, depth >= 0, multipliers >= 1 and image_size >= {least} must hold, "
                f"got {width}, {depth}, {list(multipliers)} and {image_size}"
            )
        self.image_size = (size[0], size[-1])
        self.encoder = nn.Sequential()
        self.encoder.add_module("stem", _ConvBlock(3, width, pool=True))
        channels = width
        for number, multiplier in enumerate(multipliers, start=1):
            stage = nn.Sequential(_ConvBlock(channels, width * multiplier, pool=True))
            channels = width * multiplier
            if depth > 0:
                stage.append(_ResidualBlock(channels, depth))
            self.encoder.add_module(f"stage{number}", stage)
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        features: Tensor = self.encoder(images).amax((2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits


class _ConvBlock(nn.Sequential):
    """(N, inputs, H, W) -> (N, outputs, H, W), or half of H and W where it pools."""

    def __init__(self, inputs: int, outputs: int, pool: bool = False) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
        if pool:
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.BatchNorm2d(outputs), nn.GELU())


class _ResidualBlock(nn.Module):
    """Features (N, channels, H, W), and what a few convolutions add to them."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_ConvBlock(channels, channels) for _ in range(depth)))

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.body(features)
        return features + added
