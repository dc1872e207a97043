"""Gradient-based pruning: filters or weights whose accumulated gradient is small against their layer's mean go."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.scoring import accumulate, check_epochs, grads, left
from compress.units import Units

CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad": lambda grad, weight: grad.abs(),
    "taylor": lambda grad, weight: (grad * weight).abs(),
    "fisher": lambda grad, weight: grad.square(),
}


@dataclass(frozen=True)
class GDP(PruningMethod):
    r"""Gradient-based deep network pruning: importance is the mean absolute gradient of mini-batches.

        I_i = 1/B sum_b |dL_b/dw_i|         over the B mini-batches of the epochs, weights and statistics at rest
        r_i = I_i / mean(I over its layer)  gradients of different layers differ by orders of magnitude
        weight:            goes if r_i < c
        filter, mean:      goes if the mean of r over its weights is below c
        filter, count:     goes if more than a share eta of its weights have r_i < c

    One threshold c serves all layers (with ``ranking = "raw"``; in ``balanced``, which ``--units channel`` takes, it
    differs from layer to layer), and it adapts to the budget: the units are ranked by the largest c at which they stay
    (for ``count`` that is the (floor(eta n) + 1)-th smallest of the n values r_i of the filter), and c is where the
    selection cuts the ranking. ``budget.drop_points`` seeks the largest c whose held-out accuracy, without
    retraining, falls by no more; ``budget.macs`` the smallest that leaves so many multiply-accumulates. The c found is
    logged as ``threshold``; ``budget.floor`` is the share of a layer that stays whatever its gradients.

    Absolute values are taken per mini-batch: the gradient of the whole data vanishes at a minimum. Rounds measure
    again. Wang et al., Journal of Computer Applications 40(5), 2020, doi 10.11772/j.issn.1001-9081.2019081374; what
    its abstract leaves open (how gradients accumulate and what a filter's are) is chosen here.

    Attributes:
        criterion: ``grad`` |g|, ``taylor`` |g w|, ``fisher`` g^2.
        rule: what a filter is judged by, ``mean`` or ``count``.
        eta: of the count rule, in [0, 1).
    """

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 1

    criterion: Literal["grad", "taylor", "fisher"] = "grad"
    rule: Literal["mean", "count"] = "mean"
    eta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.eta < 1:
            raise UsageError(f"gdp needs eta in [0, 1), got {self.eta:g}; for half of a filter's weights write 0.5")

    def check(self, budget: Budget, epochs: int) -> None:
        """Gradients are needed."""
        check_epochs("gdp", epochs)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Add the mini-batch's importances; after the last one, choose, so that the log tells what it costs."""
        amount = CRITERIA[self.criterion]
        found = grads(view, view.prunable)
        state = accumulate(state, {name: amount(grad, view.values[name]) for name, grad in found.items()})
        if clock.step < clock.steps:
            return state
        scores = self.scores(view, state)
        masks = view.select(scores, state.masks)
        gone = [scores[block][~stays] for block, stays in left(view.units, masks).items()]
        return replace(state, masks=masks, metrics={"threshold": max([float(s.max()) for s in gone if len(s)] or [0])})

    def finish(self, view: View, state: State) -> Outcome:
        """The masks chosen after the last mini-batch."""
        return Outcome(state.masks)

    def scores(self, view: View, state: State) -> dict[str, Tensor]:
        """The largest c at which each unit stays."""
        ones = {name: torch.ones_like(view.values[name]) for name in view.prunable}
        counted = burn(ones, state.masks)
        relative = {
            # of what is not pruned yet: zeros of earlier steps would shrink the mean
            name: amount * counted[name] * (counted[name].sum() / (amount * counted[name]).sum().clamp_min(1e-30))
            for name, amount in state.tensors.items()
        }
        if self.rule == "count":
            return order_statistics(view.units, relative, self.eta)
        sums, sizes = view.units.sums(relative), view.units.sums(ones)
        return {block: total / sizes[block] for block, total in sums.items()}


def order_statistics(units: Units, entries: Values, share: float) -> dict[str, Tensor]:
    """Of the n entries of every unit the (floor(share n) + 1)-th smallest, shape (units,) per block."""
    device = next(iter(entries.values())).device
    first, numbers = 2, {}  # `spread` gives 1 to entries of no unit
    for block, size in units.blocks.items():
        numbers[block] = torch.arange(first, first + size, device=device)
        first += size
    owners = units.spread(numbers)
    owner = torch.cat([owners[name].reshape(-1) for name in entries if name in owners])
    amount = torch.cat([entries[name].reshape(-1) for name in entries if name in owners])
    order = amount.argsort()
    order = order[owner[order].argsort(stable=True)]
    sizes = owner.bincount(minlength=first)
    # the tolerance of budgets: 0.29 * 100 is 29
    place = sizes.cumsum(0) - sizes + (share * sizes.double() + 1e-9).long()
    return {block: amount[order[place[number]]] for block, number in numbers.items()}
