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
    # where, not a product: -w * 0 is -0.0
    return {name: torch.where(masks[name], value, 0.0) if name in masks else value for name, value in values.items()}


def nonzero(values: Values, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Masks of the entries that are not exactly zero, for the named parameters."""
    return {name: values[name].detach() != 0 for name in names}
