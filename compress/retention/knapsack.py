"""The separable model of the loss, to second order: every unit by itself."""

import torch
from torch import Tensor

from compress.retention.objective import Objective
from compress.retention.pool import Pool


def importance(mean: Tensor, square: Tensor | float, share: Tensor) -> Tensor:
    """How much higher the loss is without a unit than with it, in the diagonal model around its present share.

    With contribution a (mean c, mean square F) the loss changes by ``(z - p) c + 1/2 (z - p)^2 F`` when the unit goes
    from share p to z; the difference between z = 0 and z = 1 is ``-c - (1/2 - p) F``. At p = 1 this is the saliency
    ``-g w + 1/2 F w^2`` of removal.

    Args:
        mean: c of every unit.
        square: F of every unit; 0 for the first order alone.
        share: p of every unit.
    """
    return -mean - (0.5 - share) * square


def gains(objective: Objective, keep: Tensor, share: float) -> Tensor:
    """Importance of every unit where the dropped ones have this share, shape (units,)."""
    point = objective.point(keep, share)
    square, count = torch.zeros(len(keep), device=keep.device), 0
    for some in objective.each(point):
        square, count = square + some.square().sum(0), count + len(some)
    return importance(objective.mean(point), square / count, torch.where(keep, 1.0, share))


def propose(objective: Objective, pool: Pool, keep: Tensor, share: float) -> list[Tensor]:
    """Swaps towards the exact optimum of the separable model: the most important units fill the pool."""
    gain = gains(objective, keep, share)
    wanted = pool.fill(gain)
    swaps = []
    for group in pool.groups:
        enters = (wanted & ~keep)[group].nonzero().flatten() + group.start
        leaves = (keep & ~wanted)[group].nonzero().flatten() + group.start
        enters, leaves = enters[gain[enters].argsort(descending=True)], leaves[gain[leaves].argsort()]
        swaps.append(torch.stack([enters, leaves], 1))
    return swaps
