"""One network from any library: an encoder with a classification head on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from classifier.model.freezing import modes_kept
from classifier.model.layer_groups import LayerGroup
from classifier.preprocessing import Preprocessing

if TYPE_CHECKING:
    from classifier.model.lora import Adapters

# A LeViT, with four convolutions before its attention, is below it; a ConvNeXt is at a third.
_CONVOLUTIONAL_SHARE = 0.1


class Network(nn.Module):
    """An encoder and its head, from any library.

    Args:
        model: The library's own module, already with a head for `num_classes`.
        preprocessing: What the encoder expects of an image.
        spec: Plain data from which `rebuild_network` makes the same architecture, without weights,
            without a network connection and without the folder that it was first loaded from.
        groups: The encoder's parameters from the input to the output, without the head, under
            their names within `model`.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing,
        spec: dict[str, Any],
        groups: Sequence[LayerGroup],
    ) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.expect(preprocessing)
        self.channels_last = False
        # Frozen by the author of the model, whatever the user freezes and frees.
        self.held = frozenset(n for n, p in self.named_parameters() if not p.requires_grad)
        self.adapters: Adapters | None = None
        self._groups = [
            LayerGroup(group.name, tuple(f"model.{name}" for name in group.parameters))
            for group in groups
        ]

    def expect(self, preprocessing: Preprocessing) -> None:
        """Expect images that are prepared in this way."""
        self.preprocessing = preprocessing
        self.spec["preprocessing"] = preprocessing.to_dict()

    def use_channels_last(self, wanted: bool | None) -> None:
        """Keep weights and images in the memory format that is wanted.

        Args:
            wanted: True for torch.channels_last, False for contiguous; None is channels_last for
                convolutional networks.
        """
        self.channels_last = _is_convolutional(self.model) if wanted is None else wanted
        self.to(
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.logits(images)

    def logits(self, images: Tensor) -> Tensor:
        """What `forward` gives, of images in the memory format of the weights."""
        logits: Tensor = self.model(images)
        return logits

    def layer_groups(self) -> list[LayerGroup]:
        """The encoder's parameters in groups from the input to the output, without the head."""
        return list(self._groups if self.adapters is None else self.adapters.groups)

    def try_out(self) -> None:
        """Run once, on an empty image in eval mode, as hooks and doubtful sizes need it."""
        with modes_kept(self), torch.no_grad():
            self.eval()
            self(torch.zeros(1, 3, *self.preprocessing.size))


def _is_convolutional(model: nn.Module) -> bool:
    """Whether a network's work is done by convolutions, which run faster in torch.channels_last.

    Only convolutions whose windows overlap count: patch embeddings have windows side by side, and a
    1 x 1 convolution is a linear layer.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    overlapping = [
        layer
        for layer in layers
        if isinstance(layer, nn.Conv2d)
        and any(w > step for w, step in zip(layer.kernel_size, layer.stride, strict=True))
    ]
    return len(overlapping) > 1 and len(overlapping) >= _CONVOLUTIONAL_SHARE * len(layers)
