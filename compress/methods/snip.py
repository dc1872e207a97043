"""Pruning before training: units whose gates the loss is least sensitive to go, on the untrained network (SNIP)."""

from dataclasses import dataclass
from typing import ClassVar

from compress.budget import Budget
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.scoring import accumulate, check_epochs, saliency


@dataclass(frozen=True)
class SNIP(PruningMethod):
    r"""Single-shot pruning by connection sensitivity.

        s_j = |dL/dc_j| = |sum_{i in unit j} g_i w_i|       at c = 1, where c_j multiplies the weights of unit j

    L is the mean loss over the mini-batches of the epochs: derivatives add up, and the absolute value comes last.

    Meant for the untrained network: a recipe sets ``train.epochs = 0``, and what follows in ``finetune`` is the only
    training. Normalisation layers then still have their initial statistics. Of a trained network the derivatives
    nearly cancel at a minimum; use taylor there. A global budget may empty a layer but for its ``floor``.

    Lee, Ajanthan, Torr, ICLR 2019, arXiv:1810.02340; the paper prunes single weights.
    """

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 1

    def check(self, budget: Budget, epochs: int) -> None:
        """Gradients are needed."""
        check_epochs("snip", epochs)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Add the mini-batch's derivatives by the gates."""
        return accumulate(state, view.units.sums(saliency(view, view.prunable)))

    def finish(self, view: View, state: State) -> Outcome:
        """Mask what the loss is least sensitive to, down to the budget."""
        scores = {block: derivative.abs() for block, derivative in state.tensors.items()}
        return Outcome(view.select(scores, state.masks))
