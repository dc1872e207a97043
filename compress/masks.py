"""Masks: one bool tensor per parameter, True = kept."""

from collections.abc import Mapping

import torch
from torch import Tensor

Values = Mapping[str, Tensor]
Masks = Mapping[str, Tensor]


def rank(scores: Tensor) -> Tensor:
    """Rank of every entry, 0 for the largest score; equal scores are ranked by index, so a count is exact.

    Args:
        scores: any shape; flattened in memory order of its indices.

    Returns:
        int64, same shape.

    >>> rank(torch.tensor([1.0, 3.0, 3.0, 2.0])).tolist()
    [3, 0, 1, 2]
    """
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(order.numel(), device=order.device)
    return ranks.view(scores.shape)


def keep_top(scores: Tensor, count: int) -> Tensor:
    """Mask of exactly ``min(count, n)`` entries with the largest scores.

    >>> keep_top(torch.tensor([1.0, 1.0, 1.0]), 2).tolist()
    [True, True, False]
    """
    return rank(scores) < count


def burn(values: Values, masks: Masks) -> dict[str, Tensor]:
    """Values with exact zeros where a mask says so; differentiable in the values."""
    return {name: _zeroed(value, masks[name]) if name in masks else value for name, value in values.items()}


def _zeroed(value: Tensor, mask: Tensor) -> Tensor:
    # In the layout of the value: mixed layouts lose channels_last, and a training step takes 1.7 times as long.
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        mask = mask.contiguous(memory_format=torch.channels_last)
    # where, not a product: -w * 0 is -0.0
    return torch.where(mask, value, 0.0)


def nonzero(values: Values, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Masks of the entries that are not exactly zero, for the named parameters."""
    return {name: values[name].detach() != 0 for name in names}
