"""Mask scores learnt by gradient descent while the weights are frozen."""

import torch
from torch import Tensor

from compress.masks import Values, burn, rank
from compress.retention.pool import Pool


def initial(pool: Pool) -> Tensor:
    """Ranks by magnitude scaled to (0, 1] in every group, so that the first selection is magnitude's."""
    wanted = pool.magnitude.where(pool.open, -torch.inf)
    return torch.cat([1 - rank(score) / len(score) for score in torch.split(wanted, pool.sizes.tolist())])


def gated(values: Values, scores: Tensor, pool: Pool, places: Values, *, training: bool) -> dict[str, Tensor]:
    """The weights of the units that the scores select.

    When training, the gradient of the mask passes straight through to the scores (Bengio et al. 2013,
    arXiv:1308.3432): with g the gradient of the weights used, ``dL/ds = sum over the unit's entries of g w``, for
    dropped units too.

    Args:
        values: parameters.
        scores: shape (units,).
        pool: which units the scores decide about.
        places: unit of every entry, as `compress.retention.pool.places` gives it.
        training: whether gradients are wanted.
    """
    keep = pool.fill(scores.detach())
    spare = keep.new_ones(1)  # entries of no unit stay
    if not training:
        kept = torch.cat([spare, keep])
        return burn(values, {name: kept[place] for name, place in places.items()})
    gate = torch.cat([spare.float(), keep + (scores - scores.detach()) * pool.open])
    return {**values, **{name: values[name] * gate[place] for name, place in places.items()}}
