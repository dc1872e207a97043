"""Magnitude pruning: the smallest weights, or the channels of smallest norm, go at once."""

from dataclasses import dataclass
from typing import ClassVar

from compress.method import Outcome, PruningMethod, State, View


@dataclass(frozen=True)
class Magnitude(PruningMethod):
    """Keep the units of largest L2 norm, as many as the budget allows; with ``rounds``, tighten and retrain again.

    The plain baseline of every comparison. LeCun et al., NIPS 1989, discuss it; Han et al., NIPS 2015,
    arXiv:1506.02626, made it work.
    """

    epochs: ClassVar[int] = 0

    def finish(self, view: View, state: State) -> Outcome:
        """Mask down to the budget."""
        return Outcome(view.select(view.units.scores(view.values), state.masks))
