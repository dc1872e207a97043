"""Structured sparsity learning: a group lasso on whole channels (an L1 penalty on single weights), then the norm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks
from compress.method import Outcome, PruningMethod, State, View
from compress.splitting import pruned


@dataclass(frozen=True)
class SSL(PruningMethod):
    """Train with a penalty that drives whole groups of weights to zero together, and keep the largest.

        loss + lam sum_g sqrt(size_g) ||W_g||_2

    A group is a unit: all that makes a channel, coupled layers, biases and normalisation included, or one weight,
    for which the penalty is plain L1. The root of the size weighs large groups and small ones alike (Yuan and Lin
    2006, doi 10.1111/j.1467-9868.2005.00532.x). At 0 the gradient is 0. Filter shapes and whole layers, the
    paper's other groups, are not units here.

    Wen et al., NIPS 2016, arXiv:1608.03665.

    Attributes:
        lam: weight of the penalty.
    """

    lam: float = 1e-4

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise UsageError(f"ssl needs lam >= 0; got {self.lam:g}")

    def init(self, view: View, masks: Masks) -> State:
        """Count the entries of every group once."""
        sizes = view.units.sums({name: torch.ones_like(value) for name, value in pruned(view).items()})
        return State(masks=masks, tensors=sizes)

    def penalty(self, view: View, state: State) -> Tensor:
        """Lam sum sqrt(size) ||W||_2 over the units."""
        norms = view.units.scores(view.values)
        return self.lam * torch.stack([norm @ state.tensors[block].sqrt() for block, norm in norms.items()]).sum()

    def finish(self, view: View, state: State) -> Outcome:
        """The groups of largest norm stay."""
        return Outcome(view.select(view.units.scores(view.values), state.masks))
