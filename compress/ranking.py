"""Scores of units, made comparable between layers for one ranking over all of them."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from compress.units import Keep, Units, everything

Ranking = Literal["raw", "normalised", "balanced"]
Cost = Callable[[Keep], int]


def comparable(ranking: Ranking, scores: Mapping[str, Tensor], units: Units, cost: Cost) -> dict[str, Tensor]:
    r"""The scores as a ranking compares them: in the order that they have within a layer; what is -inf stays it.

    ``raw`` takes them as they are. ``normalised`` divides by the layer's mean. ``balanced`` asks by how much the
    logarithm of what a layer keeps falls when its least unit goes, for what the unit costs:

        n / c * log(S_j / (S_j - s_j)),     S_j = sum of s_i over the layer's units i that rank no lower than j

    with n the layer's units and c what one of them costs. A layer that is thin already gives up no more, and where
    units are dear more of them go. With squared scores and without n / c this is LAMP to first order (Lee, Park, Mo,
    Ahn, Shin, ICLR 2021, arXiv:2010.07611).

    Args:
        ranking: which of them.
        scores: shape (units,) per layer, larger = more important.
        units: what is counted.
        cost: of a selection, in the budget's own measure.
    """
    if ranking == "raw":
        return dict(scores)
    if ranking == "normalised":
        return {name: score / score.clamp_min(0).mean().clamp_min(1e-30) for name, score in scores.items()}
    keep = everything(units)
    whole = cost(keep)
    costs = {name: whole - cost({**keep, name: torch.arange(size) > 0}) for name, size in units.blocks.items()}
    return {name: logarithmic_gain(score) * len(score) / max(1, costs[name]) for name, score in scores.items()}


def logarithmic_gain(score: Tensor) -> Tensor:
    """By how much the logarithm of the sum falls when a unit goes, those that rank lower being gone.

    A score of 0 or less adds nothing to the sum and is left as it is, so that such units keep their order.

    >>> logarithmic_gain(torch.tensor([1.0, 2.0, 0.0])).exp()
    tensor([1.5000,    inf, 1.0000], dtype=torch.float64)
    """
    order = score.argsort(descending=True, stable=True)
    falling = score[order].clamp_min(0).double()
    gain = -torch.log1p(-falling / falling.cumsum(0).clamp_min(1e-300))
    placed = torch.empty_like(gain).index_copy_(0, order, gain)
    return placed.where(score > 0, score.double())
