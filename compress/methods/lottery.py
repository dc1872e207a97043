"""Lottery tickets: the same rate in every layer, half of it in the last, for rounds that rewind (Frankle, Carbin)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from compress.errors import UsageError
from compress.masks import rank
from compress.method import Outcome, PruningMethod, State, View
from compress.units import layer_name


@dataclass(frozen=True)
class Lottery(PruningMethod):
    """Iterative magnitude pruning: every round drops the same fraction of what is left of every layer.

        layer l keeps all but the smallest  r_l p n_l  of its n_l units left,   r = 1, of the output layer 1/2

    and p is what the budget asks of this round. A ticket is found by ``rounds`` with ``rewind = 0``: train, prune,
    set the survivors back to their values before training, repeat; the weights after the last retraining are the
    trained ticket. Larger networks need a later moment (``rewind = 1`` or more). As many rounds as drop a fifth each
    are the paper's: 10 keep 10.7 %, 15 keep 3.5 %. Rates are of the ``global`` scope and the ``raw`` ranking; with a
    pattern or counts per layer those decide.

    Frankle and Carbin, ICLR 2019, arXiv:1803.03635; rewinding: Frankle et al. 2019, arXiv:1903.01611.

    Attributes:
        output_rate: rate of the output layer, the last of the prunable layers, against all others.
    """

    output_rate: float = 0.5

    epochs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not 0 < self.output_rate <= 1:
            raise UsageError(f"lottery needs output_rate in (0, 1], got {self.output_rate:g}; 0.5 is half the rate")

    def finish(self, view: View, state: State) -> Outcome:
        """Mask down to the budget."""
        output = layer_name(view.prunable[-1])
        scores = {
            block: _turn(score) / (self.output_rate if block == output else 1.0)
            for block, score in view.units.scores(view.values).items()
        }
        return Outcome(view.select(scores, state.masks))


def _turn(score: Tensor) -> Tensor:
    """When a unit goes: the fraction of what is left of its layer that goes no later; at most 0 if it has gone."""
    left = int((score > 0).sum())
    return (left - rank(score)).double() / left
