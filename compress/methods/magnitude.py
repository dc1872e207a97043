"""Magnitude pruning: the smallest weights, or the channels of smallest norm, go."""

from dataclasses import dataclass
from typing import Literal

from compress.budget import select
from compress.errors import UsageError
from compress.masks import Masks
from compress.method import Clock, Outcome, PruningMethod, State, View, alive, both
from compress.schedule import cubic


@dataclass(frozen=True)
class Magnitude(PruningMethod):
    """Keep the units of largest norm, as many as the budget allows.

    ``one-shot`` selects once, at the end of the step's epochs (none are needed). ``gradual`` selects again every
    ``1/updates_per_epoch`` epoch along a cubic sparsity schedule and trains the rest in between; what was masked
    stays masked. Iterative pruning (Han) is ``one-shot`` with ``rounds``: each round
    tightens the budget and retrains the survivors.

    Han et al., NIPS 2015, arXiv:1506.02626; gradual: Zhu and Gupta 2017, arXiv:1710.01878; channels by norm:
    Li et al., ICLR 2017, arXiv:1608.08710.

    Attributes:
        mode: ``one-shot`` or ``gradual``.
        updates_per_epoch: selections per epoch of the gradual mode.
        ramp: fraction of the gradual run over which the sparsity rises.
    """

    mode: Literal["one-shot", "gradual"] = "one-shot"
    updates_per_epoch: int = 4
    ramp: float = 0.75

    def __post_init__(self) -> None:
        if not (self.updates_per_epoch >= 1 and 0 < self.ramp <= 1):
            raise UsageError(f"magnitude needs updates_per_epoch >= 1 and ramp in (0, 1]; got {self}")

    def update(self, view: View, state: State, clock: Clock) -> State:
        """In the gradual mode, mask down to the schedule's present sparsity."""
        if self.mode == "one-shot" or not clock.due(self.updates_per_epoch):
            return state
        return State(self._masks(view, state.masks, min(clock.progress / self.ramp, 1.0)))

    def finish(self, view: View, state: State) -> Outcome:
        """Mask down to the budget."""
        return Outcome(self._masks(view, state.masks, 1.0))

    def _masks(self, view: View, masks: Masks, progress: float) -> Masks:
        scores = alive(view, view.units.scores(view.values), masks)
        keep = select(view.budget, view.units, scores, lambda kept: cubic(view.relax(kept), progress))
        return both(masks, view.units.masks(keep))
