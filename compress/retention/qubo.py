"""The quadratic model of the loss: units that act on the same samples interact; minimised by swaps."""

import torch
from torch import Tensor

from compress.retention.knapsack import importance
from compress.retention.objective import Objective
from compress.retention.pool import Pool
from compress.retention.search import Propose

LIMIT = 2000
"""Swaps at most, per group and proposal."""


def minimise(slope: Tensor, gram: Tensor, chosen: Tensor, limit: int = LIMIT) -> tuple[list[tuple[int, int]], Tensor]:
    """Best-improving swaps of one unit against another, until none lowers the quadratic.

    ``J(z) = slope (z - z0) + 1/2 (z - z0)^T G (z - z0)``, with as many chosen in z as in z0. A swap of i in and j out
    changes it by ``s_i - s_j + G_ii/2 + G_jj/2 - G_ij``, s being the slope at the present z. J falls with every swap;
    at the end no single swap lowers it, which is the global minimum if G is diagonal and a local one otherwise.

    Args:
        slope: gradient of J at z0, shape (units,).
        gram: G, shape (units, units), symmetric.
        chosen: z0, bool.
        limit: swaps at most.

    Returns:
        The swaps, each (unit that enters, unit that leaves), and z.
    """
    slope, half = slope.clone(), gram.diagonal() / 2
    outside, inside = (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
    cross = gram[outside[:, None], inside]
    change = torch.empty_like(cross)  # written in place: making a matrix costs more than the arithmetic on it
    swaps: list[tuple[int, int]] = []
    while cross.numel() and len(swaps) < limit:
        torch.sub((half - slope)[inside], cross, out=change)
        change += (slope + half)[outside, None]
        row = int(change.amin(1).argmin())
        column = int(change[row].argmin())
        if not change[row, column] < -1e-12:  # not 0: rounding must not swap for ever
            break
        enters, leaves = int(outside[row]), int(inside[column])
        swaps.append((enters, leaves))
        slope += gram[enters] - gram[leaves]
        outside[row], inside[column] = leaves, enters
        cross[row], cross[:, column] = gram[leaves, inside], gram[outside, enters]
    return swaps, torch.zeros_like(chosen).index_fill(0, inside, True)


def proposing(candidates: int) -> Propose:
    """Swaps among the ``candidates`` most promising units outside and inside the selection, per group.

    With the contributions a_n of M samples and the shares p at the point, the model of the loss of a selection z is
    ``mean_n d_n + 1/2 mean_n d_n^2``, ``d_n = a_n (z - p)``: Gauss-Newton with the empirical Fisher information.
    The groups are minimised one after another, each at what the ones before have left.
    """

    def propose(objective: Objective, pool: Pool, keep: Tensor, share: float) -> list[Tensor]:
        point, now = objective.point(keep, share), torch.where(keep, 1.0, share)
        mean = objective.mean(point)
        first_order = importance(mean, 0.0, now)
        sides = [_promising(pool, group, keep, first_order, candidates) for group in pool.groups]
        columns, offset = torch.cat(sides), keep.float() - now
        rows, moved = zip(*((some[:, columns], some @ offset) for some in objective.each(point)), strict=True)
        matrix, already = torch.cat(rows).cpu().double(), torch.cat(moved).cpu().double()
        swaps = []
        for side, a in zip(sides, torch.split(matrix, [len(side) for side in sides], 1), strict=True):
            slope, before = mean[side].cpu().double() + a.T @ already / len(a), keep[side].cpu()
            found, after = minimise(slope, a.T @ a / len(a), before)
            already = already + a @ (after.double() - before.double())
            swaps.append(side[torch.tensor(found, dtype=torch.int64, device=side.device).view(-1, 2)])
        return swaps

    return propose


def _promising(pool: Pool, group: slice, keep: Tensor, gain: Tensor, count: int) -> Tensor:
    """The dropped units of a group that gain most by entering, and the kept ones that lose least by leaving."""
    outside = (pool.open & ~keep)[group].nonzero().flatten() + group.start
    inside = (pool.open & keep)[group].nonzero().flatten() + group.start
    best = outside[gain[outside].topk(min(count, len(outside))).indices]
    worst = inside[gain[inside].topk(min(count, len(inside)), largest=False).indices]
    return torch.cat([best, worst])
