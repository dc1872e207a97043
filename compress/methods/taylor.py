"""First-order Taylor pruning: units whose removal changes the loss least, by gradient times weight (Molchanov)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from compress.budget import Budget
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.scoring import accumulate, check_epochs, saliency


@dataclass(frozen=True)
class Taylor(PruningMethod):
    r"""Importance of a unit is the squared change of the loss, to first order, when the unit becomes zero.

        I_j = 1/B sum_b (sum_{s in unit j} g_s w_s)^2       over the B mini-batches of the epochs, weights at rest

    The inner sum is the derivative of the loss by a gate that multiplies the unit. The gate of a channel sits where
    the channel leaves: after its normalisation, where s runs over the scales and shifts (the paper's best), or over
    weights and biases where there is none. One scale holds for all layers, so a global budget ranks them raw.
    With ``rounds`` the importances are measured again after every retraining.

    Molchanov, Mallya, Tyree, Frosio, Kautz, CVPR 2019, arXiv:1906.10771.

    Attributes:
        gate: ``output``, or ``weights`` for a gate between a layer's product and its bias and normalisation.
    """

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 1

    gate: Literal["output", "weights"] = "output"

    def check(self, budget: Budget, epochs: int) -> None:
        """Gradients are needed."""
        check_epochs("taylor", epochs)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Add the mini-batch's squared derivatives by the gates."""
        gates = self.derivatives(view)
        return accumulate(state, {block: derivative.square() for block, derivative in gates.items()})

    def finish(self, view: View, state: State) -> Outcome:
        """Mask what matters least, down to the budget."""
        return Outcome(view.select(state.tensors, state.masks))

    def derivatives(self, view: View) -> dict[str, Tensor]:
        """Derivative of the mini-batch's loss by the gate of every unit."""
        if self.gate == "weights":
            return view.units.sums(saliency(view, view.prunable))
        shifts = [name.removesuffix("weight") + "bias" for name in view.scales]
        norms = (*view.scales, *(name for name in shifts if name in view.values))
        whole, after_norm = (view.units.sums(saliency(view, names)) for names in (tuple(view.values), norms))
        return {**whole, **after_norm}
