"""Gradual magnitude pruning: the sparsity rises along a cubic while the rest keeps training (Zhu and Gupta)."""

from dataclasses import dataclass

from compress.errors import UsageError
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.schedule import cubic


@dataclass(frozen=True)
class Gradual(PruningMethod):
    """Mask the units of smallest norm again and again, at a rising sparsity, and train the rest in between.

        s(t) = s_f + (s_i - s_f) (1 - t)^3      t = progress / ramp, up to 1

    What was masked stays masked.

    Zhu and Gupta 2017, arXiv:1710.01878, eq. 1; the initial sparsity is that of the network as it comes.

    Attributes:
        updates_per_epoch: selections per epoch.
        ramp: fraction of the run over which the sparsity rises.
    """

    updates_per_epoch: int = 4
    ramp: float = 0.75

    def __post_init__(self) -> None:
        if not (self.updates_per_epoch >= 1 and 0 < self.ramp <= 1):
            raise UsageError(f"gradual needs updates_per_epoch >= 1 and ramp in (0, 1]; got {self}")

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Mask down to the schedule's present sparsity."""
        if not clock.due(self.updates_per_epoch):
            return state
        at = min(clock.progress / self.ramp, 1.0)
        scores = view.units.scores(view.values)
        return State(view.select(scores, state.masks, lambda kept: cubic(kept, at, view.start)))

    def finish(self, view: View, state: State) -> Outcome:
        """Mask down to the budget."""
        return Outcome(view.select(view.units.scores(view.values), state.masks))
