"""Which units may be exchanged: the large ones always stay, an optimiser fills what is left of the budget."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.budget import Budget, floors
from compress.masks import Masks, Values, rank
from compress.method import View
from compress.ranking import comparable
from compress.units import ElementUnits, Keep, Units


def join(units: Units, amounts: Mapping[str, Tensor]) -> Tensor:
    """All blocks laid end to end, shape (units,)."""
    return torch.cat([amounts[block] for block in units.blocks])


def part(units: Units, amounts: Tensor) -> Keep:
    """The way back from `join`."""
    return dict(zip(units.blocks, torch.split(amounts, list(units.blocks.values())), strict=True))


@dataclass(frozen=True)
class Pool:
    """The choice an optimiser has: in every group, as many open units stay as magnitude kept of them.

    Attributes:
        fixed: bool, shape (units,): the large ones, which stay.
        open: bool, shape (units,): those that may stay or go.
        start: bool, shape (units,): the selection by magnitude.
        magnitude: shape (units,), as the budget compares it; -inf for what can never stay.
        sizes: int64, shape (groups,): units per group; the groups lie end to end, and only units of the same one
            are exchanged, so that the cost stays what it is.
    """

    fixed: Tensor
    open: Tensor
    start: Tensor
    magnitude: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, view: View, masks: Masks, share: float) -> "Pool":
        """Free the smallest ``share`` of what magnitude keeps; what a mask or the pattern forbids takes no part."""
        units, scores = view.units, {block: score.detach() for block, score in view.units.scores(view.values).items()}
        start = _present(units, view.values, view.select(scores, masks))
        alive = join(units, scores).where(_present(units, view.values, masks), -torch.inf)
        able = alive.where(join(units, units.allowed(part(units, alive))), -torch.inf)
        sizes, least = list(units.blocks.values()), torch.zeros_like(start)
        if _weights_are_counted(view.budget, units):
            bounds = floors(view.budget, scores)
            least = join(units, {block: rank(score) < bounds[block] for block, score in part(units, able).items()})
            able = join(units, comparable(view.budget.ranking, part(units, able), units, units.weights))
            sizes = [len(able)]
        large = [
            rank(score.where(kept, -torch.inf)) < int(kept.sum()) - round(share * int(kept.sum()))
            for score, kept in zip(torch.split(able, sizes), torch.split(start, sizes), strict=True)
        ]
        fixed = start & (torch.cat(large) | least)
        return cls(fixed, ~fixed & (able > -torch.inf), start, able, torch.tensor(sizes, device=able.device))

    @property
    def groups(self) -> list[slice]:
        """Where the groups lie."""
        ends = self.sizes.cumsum(0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def fill(self, scores: Tensor) -> Tensor:
        """The selection with the largest scores among the open units, shape (units,)."""
        keep, wanted = self.fixed.clone(), scores.where(self.open, -torch.inf)
        for group in self.groups:
            count = int((self.start & self.open)[group].sum())
            keep[group][wanted[group].topk(count).indices] = True
        return keep


def _present(units: Units, values: Values, masks: Masks) -> Tensor:
    """Units of which the masks keep anything, shape (units,)."""
    ones = {name: masks.get(name, torch.ones_like(value)).float() for name, value in values.items()}
    return join(units, units.sums(ones)) > 0


def places(units: Units, device: torch.device) -> dict[str, Tensor]:
    """Unit of every entry, counted from 1 in the order of `join`; 0 for entries of none."""
    # `spread` gives 1 to the entries of no unit, so the units are numbered from 2 there
    numbers = units.spread(part(units, torch.arange(sum(units.blocks.values()), device=device) + 2))
    return {name: number - 1 for name, number in numbers.items()}


def _weights_are_counted(budget: Budget, units: Units) -> bool:
    """Whether any unit may replace any other: all weigh the same, and neither layers nor operations are counted."""
    layers = budget.scope == "layer" or budget.keep is not None or budget.macs is not None
    return isinstance(units, ElementUnits) and not layers
