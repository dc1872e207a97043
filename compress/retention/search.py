"""Rounds of swaps that a local model of the loss proposes; only what lowers the loss itself is taken."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from compress.retention.objective import Objective
from compress.retention.pool import Pool

POINTS = (1e-3, 0.5, 1.0)
"""Share that the dropped units have where the model is made: (nearly) the pruned network, then half way, then the
dense network if the one before proposes nothing that helps. Not 0: a channel of zeros sits on the kink of ReLU, and
its gradient is 0 there."""

Propose = Callable[[Objective, Pool, Tensor, float], list[Tensor]]
"""From a selection and the dropped units' share: per group, int64 of shape (swaps, 2), each (unit that enters, unit
that leaves), in the order they are to be made."""


def descend(objective: Objective, pool: Pool, propose: Propose, iterations: int) -> Tensor:
    """The best selection found on the way from magnitude's; its loss is never higher than magnitude's."""
    keep, loss = pool.start, objective.loss(pool.start)
    for _ in range(iterations):
        for share in POINTS:
            found, least = shortened(objective, keep, loss, propose(objective, pool, keep, share))
            if least < loss:
                break
        else:
            break
        keep, loss = found, least
    return keep


def shortened(objective: Objective, keep: Tensor, loss: float, swaps: list[Tensor]) -> tuple[Tensor, float]:
    """Try all swaps, the first half, the first quarter...: the first that lowers the loss, and on while it falls.

    Returns:
        The best selection, the present one if nothing helped, and its loss.
    """
    best, least = keep, loss
    longest = max(map(len, swaps))
    for halvings in range((longest - 1).bit_length() + 1 if longest else 0):  # down to a single swap
        found = swapped(keep, [some[: math.ceil(len(some) / 2**halvings)] for some in swaps])
        now = objective.loss(found)
        if now < least:
            best, least = found, now
        elif least < loss:
            break
    return best, least


def swapped(keep: Tensor, swaps: list[Tensor]) -> Tensor:
    """The selection after the swaps of every group."""
    made = torch.cat(swaps)
    # A unit may enter and leave again: what counts is how often it did either.
    enters, leaves = (torch.bincount(made[:, side], minlength=len(keep)) for side in (0, 1))
    return keep.int() + enters - leaves > 0
