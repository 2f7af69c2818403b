"""Images of another size than an encoder's own, and the sizes that an architecture takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from classifier.errors import ConfigError
from classifier.model.options import IMAGE_SIZE, NetworkOptions

_STEP = 32  # most architectures reduce an image 32 times, or cut it into patches of 8, 14, 16 or 32


def build_for_size(
    build: Callable[[NetworkOptions], Any], options: NetworkOptions, model_name: str
) -> Any:
    """Build a network, and make sure that it takes images of the size that was asked for.

    Args:
        build: Makes the network of these options.
        options: With or without an image_size.
        model_name: For the message.

    Raises:
        ConfigError: the architecture refuses the size; names sizes that work.
    """
    if options.size is None:
        return build(options)
    try:
        network = build(options)
        _send_zeros(network)
    except Exception as error:
        # Each architecture has a way of its own to refuse a size. Whether it was the size is found
        # out with random weights; any other mistake goes on as it is.
        found = _first_words(error)
        without = replace(options, pretrained=False, image_size=None)
        if _works(build, replace(options, pretrained=False)) or not _works(build, without):
            raise
        sizes = ", ".join(str(size) for size in _sizes_that_work(build, options))
        raise ConfigError(
            IMAGE_SIZE, f"{model_name} takes no images of {_shown(options)} pixels ({found})",
            got=options.image_size, remedy=f"Sizes that work are {sizes}",
        ) from error  # fmt: skip
    return network


def _send_zeros(network: Any) -> None:
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, *network.preprocessing.size))
    network.train(was_training)


def _works(build: Callable[[NetworkOptions], Any], options: NetworkOptions) -> bool:
    try:
        _send_zeros(build(options))
    except Exception:  # whatever it is, it does not work
        return False
    return True


def _sizes_that_work(
    build: Callable[[NetworkOptions], Any], options: NetworkOptions
) -> Iterator[int]:
    """The encoder's own size, and multiples of 32 next to the size that was asked for."""
    plain = replace(options, pretrained=False, image_size=None)
    own = build(plain).preprocessing.size[0]
    asked = max(options.size or (own,))
    near = {_STEP * (asked // _STEP + step) for step in range(3)} - {0}
    for size in sorted(near | {own}):
        if size == own or _works(build, replace(plain, image_size=size)):
            yield size


def _shown(options: NetworkOptions) -> str:
    return " x ".join(str(side) for side in options.size or ())


def _first_words(error: Exception) -> str:
    text = error.text if isinstance(error, ConfigError) else str(error)
    return " ".join(text.split())[:160].rstrip(".") or type(error).__name__
