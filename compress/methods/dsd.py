"""Dense-sparse-dense training: prune for a while, then train all again, for a better dense network (Han et al.)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.splitting import pack, unpack


@dataclass(frozen=True)
class DSD(PruningMethod):
    """A regulariser, not a compression: sparsity takes the network out of its minimum, and then is given up.

        sparse   the units of smallest norm are masked at once, as the budget says, and the rest trains
        dense    from ``release`` on all weights train; what was masked starts at 0

    The dense training is the one before the step. The authors prune 25 to 50 % of every layer and train the last part
    at a tenth of the learning rate: ``budget = { sparsity = 0.3, scope = "layer" }``, ``schedule = "step"``. Zeros of
    earlier steps stay.

    Han et al., ICLR 2017, arXiv:1607.04381.

    Attributes:
        release: fraction of the run after which the masks are released.
    """

    epochs: ClassVar[int] = 10
    retrains: ClassVar[bool] = False
    meets_budget: ClassVar[bool] = False

    release: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.release <= 1:
            raise UsageError(f"dsd needs release in (0, 1], got {self.release:g}; 0.5 is half of the epochs")

    def init(self, view: View, masks: Masks) -> State:
        """Mask down to the budget."""
        return State(masks, tensors=pack(sparse=view.select(view.units.scores(view.values), masks)))

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """Under the masks of the sparse part, until they are released."""
        return burn(values, unpack(state.tensors, "sparse") or state.masks)

    def update(self, view: View, state: State, clock: Clock) -> State | tuple[State, Values]:
        """Release the masks when their time is over."""
        sparse = unpack(state.tensors, "sparse")
        if not sparse or clock.progress < self.release:
            return state
        return replace(state, tensors={}), burn({name: view.values[name] for name in sparse}, sparse)

    def finish(self, view: View, state: State) -> Outcome:
        """Dense again, but for the zeros that were there before."""
        return Outcome(state.masks)
