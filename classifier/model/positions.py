"""Pretrained position embeddings, brought to another size of images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Size, Tensor
from torch.nn import functional as F

Grid = tuple[int, int]
# BEiT's tables end with the positions of the class token: to it, from it, and to itself.
_EXTRA_ROWS = 3


def fit_positions(
    weights: Mapping[str, Tensor], shapes: Mapping[str, Size], old: Grid, new: Grid
) -> tuple[dict[str, Tensor], list[str]]:
    """Interpolate what depends on the number of patches.

    Args:
        weights: The pretrained state dict.
        shapes: The shapes of the same names in the network that is to take them.
        old: Patches along height and width, as the weights were trained.
        new: Patches along height and width of the network.

    Returns:
        The weights that fit, and the names of those that cannot be made to.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, section 3.2 (position
        embeddings); Bao et al., "BEiT", ICLR 2022 (relative position tables). The modes are those
        of transformers' own interpolate_pos_encoding.
    """
    fitting: dict[str, Tensor] = {}
    lost: list[str] = []
    for name, value in weights.items():
        shape = shapes.get(name)
        if shape is None or value.shape == shape:
            fitting[name] = value
            continue
        fitted = _relative(value, old, new) if _is_table(name) else _absolute(value, old, new)
        if fitted is None or fitted.shape != shape:
            lost.append(name)
        else:
            fitting[name] = fitted
    return fitting, lost


def _is_table(name: str) -> bool:
    return name.endswith("relative_position_bias_table")


def _absolute(value: Tensor, old: Grid, new: Grid) -> Tensor | None:
    """Position embeddings (1, tokens, features) or (tokens, features), special tokens first."""
    special = value.shape[-2] - old[0] * old[1] if value.ndim in (2, 3) else -1
    if special < 0:
        return None
    features = value.shape[-1]
    flat = value.reshape(-1, features)
    grid = flat[special:].T.reshape(1, features, *old).float()
    resized = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    patches = resized.to(value.dtype).reshape(features, -1).T
    fitted = flat.new_empty(special + new[0] * new[1], features)
    fitted[:special], fitted[special:] = flat[:special], patches
    return fitted if value.ndim == 2 else fitted.unsqueeze(0)


def _relative(value: Tensor, old: Grid, new: Grid) -> Tensor | None:
    """A table ((2h - 1) * (2w - 1) + 3, heads) of the distances within a grid of patches."""
    rows = [2 * side - 1 for side in old]
    if value.ndim != 2 or value.shape[0] != rows[0] * rows[1] + _EXTRA_ROWS:
        return None
    heads = value.shape[1]
    extra = value[-_EXTRA_ROWS:]
    grid = value[:-_EXTRA_ROWS].T.reshape(1, heads, *rows).float()
    wanted = [2 * side - 1 for side in new]
    resized = F.interpolate(grid, size=wanted, mode="bilinear", align_corners=False)
    fitted = extra.new_empty(wanted[0] * wanted[1] + _EXTRA_ROWS, heads)
    fitted[:-_EXTRA_ROWS] = resized.to(value.dtype).reshape(heads, -1).T
    fitted[-_EXTRA_ROWS:] = extra
    return fitted
