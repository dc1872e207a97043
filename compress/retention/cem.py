"""The cross-entropy method: how many units every layer and range of magnitude gets, judged by the loss itself."""

import torch
from torch import Generator, Tensor

from compress.masks import rank
from compress.retention.knapsack import gains
from compress.retention.objective import Objective
from compress.retention.pool import Pool, part
from compress.retention.search import POINTS
from compress.units import Units

POPULATION, ELITE, SMOOTHING, RANGES = 64, 6, 0.7, 10


def search(objective: Objective, pool: Pool, iterations: int, generator: Generator) -> Tensor:
    """The best of all selections drawn, magnitude's included.

    A bin is a tenth of a layer's open units by magnitude. A draw shares the places of a group out to its bins by the
    softmax of normal logits, and a bin keeps its most important units (the separable model at the pruned network).
    Mean and spread of the logits move towards the best tenth of the draws.
    """
    bins = bins_of(objective.view.units, pool)
    order = _ranks_inside(bins, gains(objective, pool.start, POINTS[0]).where(pool.open, -torch.inf))
    groups = [torch.unique(bins[group]).cpu() for group in pool.groups]
    room = torch.bincount(bins[pool.open], minlength=int(bins.max()) + 1).cpu()
    placed = torch.bincount(bins[pool.open & pool.start], minlength=len(room)).cpu()
    mean = (placed + 0.01 * room + 1e-6).double().log()  # where magnitude places units, and a little everywhere
    spread = torch.ones_like(mean)
    best, least = pool.start, objective.loss(pool.start)
    for _ in range(iterations):
        noise = torch.randn(POPULATION, len(mean), generator=generator, dtype=torch.float64)
        drawn, losses = mean + spread * noise, []
        for logits in drawn:
            counts = torch.zeros_like(room)
            for group in groups:
                counts[group] = shared_out(logits[group], room[group], int(placed[group].sum()))
            keep = pool.fixed | (pool.open & (order < counts.to(bins.device)[bins]))
            losses.append(objective.loss(keep))
            if losses[-1] < least:
                best, least = keep, losses[-1]
        elite = drawn[torch.tensor(losses).argsort()[:ELITE]]
        mean = SMOOTHING * elite.mean(0) + (1 - SMOOTHING) * mean
        spread = SMOOTHING * elite.std(0) + (1 - SMOOTHING) * spread
    return best


def bins_of(units: Units, pool: Pool) -> Tensor:
    """Bin of every unit: its layer, and the tenth of the layer's open units, by magnitude, that it lies in."""
    bins, is_open = [], part(units, pool.open)
    for number, (block, magnitude) in enumerate(part(units, pool.magnitude).items()):
        place = rank(magnitude.where(is_open[block], -torch.inf))
        tenth = place * RANGES // is_open[block].sum().clamp_min(1)
        bins.append(number * RANGES + tenth.clamp_max(RANGES - 1))
    return torch.cat(bins)


def shared_out(logits: Tensor, room: Tensor, total: int) -> Tensor:
    """Counts that add up to the total, in proportion to exp(logits) and never above the room.

    >>> shared_out(torch.tensor([2.0, 1.0, 0.5]).log(), torch.tensor([9, 9, 9]), 7).tolist()
    [4, 2, 1]
    >>> shared_out(torch.tensor([2.0, 1.0, 0.5]).log(), torch.tensor([1, 9, 9]), 7).tolist()
    [1, 4, 2]
    """
    counts = torch.zeros_like(room)
    while (left := total - int(counts.sum())) > 0:
        wanted = logits.where(counts < room, -torch.inf).softmax(0) * left
        whole = (wanted + 1e-6).floor().to(room.dtype).minimum(room - counts)
        if not whole.any():  # fractions alone are left: the largest first
            whole[wanted.topk(min(left, int((counts < room).sum()))).indices] = 1
        counts += whole
    return counts


def _ranks_inside(labels: Tensor, scores: Tensor) -> Tensor:
    """Rank of every entry among those of its label, 0 for the largest score."""
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[labels[order]]
    return ranks
