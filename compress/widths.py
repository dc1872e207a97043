"""Widths that a block of channels may have: multiples of what kernels compute together, or the whole block."""

import torch
from torch import Tensor


def choices(size: int, least: int, multiple: int) -> tuple[int, ...]:
    """Widths of a block, rising.

    Args:
        size: channels of the block.
        least: that must stay.
        multiple: of which widths are multiples.

    >>> choices(32, 3, 8), choices(20, 9, 8), choices(16, 16, 8)
    ((8, 16, 24, 32), (16, 20), (16,))
    """
    return (*(width for width in range(multiple, size, multiple) if width >= least), size)


def in_steps(first: Tensor, least: int, multiple: int) -> Tensor:
    """The counts from which on the channels of a block stay, when only whole steps between its widths stay.

    Args:
        first: of every channel, the count of a selection from which on it stays alone, shape (channels,).
        least: channels that must stay.
        multiple: of which widths are multiples.

    Returns:
        Same shape: the count from which on the last channel of the step stays; 0 in the first step, which always does.

    >>> in_steps(torch.tensor([9, 3, 5, 0, 7]), 1, 2).tolist()
    [9, 0, 7, 0, 7]
    """
    ends = torch.tensor(choices(len(first), least, multiple), device=first.device)
    order = first.argsort(stable=True)
    last = first[order][ends - 1]
    last[0] = 0
    place = torch.arange(len(first), device=first.device)
    return torch.empty_like(first).index_copy_(0, order, last[torch.searchsorted(ends, place, right=True)])
