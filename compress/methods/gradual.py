"""Gradual pruning: the sparsity rises along a cubic while the rest keeps training (Zhu and Gupta)."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Values
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.schedule import cubic
from compress.scoring import check_epochs, grads


@dataclass(frozen=True)
class Gradual(PruningMethod):
    """Mask the least units again and again, at a rising sparsity, and train the rest in between.

        s(t) = s_f + (s_i - s_f) (1 - t)^3      t = progress / ramp, up to 1
        norm:   L2 norm of the unit
        obd:    sum over its weights of w^2 h       h: running mean of the squared mini-batch gradient

    What was masked stays masked. The loss rises by about w^2 h / 2 when w goes, h being the second derivative
    (optimal brain damage: LeCun, Denker, Solla, NIPS 1989); near a minimum the squared gradient stands in for it (the
    diagonal of the empirical Fisher matrix: Theis, Korshunova, Tejani, Huszar 2018, arXiv:1801.05787).

    Zhu and Gupta 2017, arXiv:1710.01878, eq. 1; the initial sparsity is that of the network as it comes.

    Attributes:
        updates_per_epoch: selections per epoch.
        ramp: fraction of the run over which the sparsity rises.
        criterion: what units are ranked by, ``norm`` as in the paper, or ``obd``, for hundreds of weights to one.
        memory: of h, what stays of it per step, in [0, 1).
    """

    updates_per_epoch: int = 4
    ramp: float = 0.75
    criterion: Literal["norm", "obd"] = "norm"
    memory: float = 0.99

    def __post_init__(self) -> None:
        if not (self.updates_per_epoch >= 1 and 0 < self.ramp <= 1 and 0 <= self.memory < 1):
            raise UsageError(f"gradual needs updates_per_epoch >= 1, ramp in (0, 1] and memory in [0, 1); got {self}")

    def check(self, budget: Budget, epochs: int) -> None:
        """Gradients are needed, unless norms decide."""
        if self.criterion == "obd":
            check_epochs("gradual", epochs)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Keep account of the gradients where they matter; mask down to the schedule's present sparsity."""
        if self.criterion == "obd":
            state = replace(state, tensors=self._curvature(view, state))
        if not clock.due(self.updates_per_epoch):
            return state
        at = min(clock.progress / self.ramp, 1.0)
        masks = view.select(self._scores(view, state), state.masks, lambda kept: cubic(kept, at, view.start))
        return replace(state, masks=masks)

    def finish(self, view: View, state: State) -> Outcome:
        """Mask down to the budget."""
        return Outcome(view.select(self._scores(view, state), state.masks))

    def _curvature(self, view: View, state: State) -> Values:
        """The running mean h, which starts at the first mini-batch's."""
        squares = {name: grad.square() for name, grad in grads(view, view.prunable).items()}
        return {name: square.lerp(state.tensors.get(name, square), self.memory) for name, square in squares.items()}

    def _scores(self, view: View, state: State) -> dict[str, Tensor]:
        if self.criterion == "norm":
            return view.units.scores(view.values)
        return view.units.sums({name: view.values[name].square() * h for name, h in state.tensors.items()})
