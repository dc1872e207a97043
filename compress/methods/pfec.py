"""Filter pruning by L1 norm: the filters with the smallest sum of absolute weights go (PFEC)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from compress.masks import Masks, Values, burn, keep_top
from compress.method import Outcome, PruningMethod, State, View, both
from compress.scoring import left


@dataclass(frozen=True)
class PFEC(PruningMethod):
    """Pruning filters for efficient ConvNets: the filters of smallest L1 norm go at once, then the rest is retrained.

        s_j = sum |F_j|     over the weights of filter j; neither bias nor normalisation counts

    How many go from which layer is the budget's ``keep``; the published networks are recipes, and
    ``compress sensitivity`` shows which layers bear it. Filters that can only go together, as those of a residual
    sum, are ranked by the sum of their norms (the paper follows the 1x1 filters of the shortcut alone).

    Independent selection counts all weights of a filter. Greedy selection goes through the layers in forward order
    and does not count kernels that read feature maps removed before; of every layer it keeps as many filters as
    independent selection under the same budget.

    Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017, arXiv:1608.08710.

    Attributes:
        selection: ``independent`` or ``greedy``.
    """

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 0
    refuses: ClassVar[dict[str, str]] = {
        "element": "pfec ranks whole filters; on single weights the L1 norm is their magnitude, so use magnitude"
    }

    selection: Literal["independent", "greedy"] = "independent"

    def finish(self, view: View, state: State) -> Outcome:
        """Mask the filters of smallest norm, as many as the budget asks for."""
        magnitudes = {name: view.values[name].abs() for name in view.prunable}
        masks = view.select(view.units.sums(magnitudes), state.masks)
        return Outcome(_greedy(view, magnitudes, masks, state.masks) if self.selection == "greedy" else masks)


def _greedy(view: View, magnitudes: Values, chosen: Masks, masks: Masks) -> Masks:
    """As many filters of every layer as chosen, but ranked by what is left of them when their layer's turn comes."""
    stays = left(view.units, chosen)
    keep = {block: torch.ones_like(kept) for block, kept in stays.items()}
    for block in stays:  # in the order in which they run
        norms = view.units.sums(burn(magnitudes, view.units.remaining(keep)))[block]
        keep[block] = keep_top(norms, int(stays[block].sum()))
    return both(masks, view.units.masks(keep))
