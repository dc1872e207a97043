"""Iterative magnitude pruning with one threshold for all layers, in units of their standard deviation (Han et al.)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from compress.method import Outcome, PruningMethod, State, View


@dataclass(frozen=True)
class Han(PruningMethod):
    """Drop every weight below q times the standard deviation of its layer, at the q that meets the budget.

        t_l = q std(W_l)        over the weights of layer l that are left

    Ranking by |w| / std(W_l) is the same as one quality parameter q for all layers; a channel is judged by the root
    mean square of its weights. Use it with ``rounds``: prune, retrain what is left, prune further. The authors
    retrain at a tenth to a hundredth of the learning rate (``finetune.lr``) with weight decay.

    Han, Pool, Tran and Dally, NIPS 2015, arXiv:1506.02626.
    """

    epochs: ClassVar[int] = 0

    def finish(self, view: View, state: State) -> Outcome:
        """Mask down to the budget."""
        weights = {name: view.values[name] for name in view.prunable}
        ones = {name: state.masks.get(name, torch.ones_like(weight)).float() for name, weight in weights.items()}
        counts, totals = view.units.sums(ones), view.units.sums(weights)
        squares = view.units.sums({name: weight.square() for name, weight in weights.items()})
        scores = {}
        for block, square in squares.items():
            count = counts[block].sum()
            deviation = (square.sum() / count - (totals[block].sum() / count).square()).clamp_min(1e-30).sqrt()
            scores[block] = (square / counts[block].clamp_min(1)).sqrt() / deviation
        return Outcome(view.select(scores, state.masks))
