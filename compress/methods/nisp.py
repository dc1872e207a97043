"""Importance propagation: the scores of the outputs flow back through the weights to every channel; no data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.channels import along, channel_units, reads
from compress.method import Outcome, PruningMethod, State, View


@dataclass(frozen=True)
class NISP(PruningMethod):
    r"""Rank channels by how much of the network's outputs depends on them, through all layers behind them.

        s_l = |W_{l+1}|^T s_{l+1},   s = 1 at the outputs

    A convolution adds over its kernel, a flattened reader over the columns of one channel, and several readers of
    the same channels add up. In a residual network the branch's share is added to what the sum passes on. Depthwise
    convolutions, normalisation, activation and pooling pass scores on as they are. Channels that cannot be removed
    count 1, like outputs.

    Within a layer the scores are the paper's; between layers they grow with the weights on the way, so they are
    divided by their layer's mean, where the paper fixes a ratio per layer. Its ranking of the final responses
    (infinite feature selection) is replaced by ones: every class counts the same.

    Yu et al., CVPR 2018, arXiv:1711.05908.
    """

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 0
    refuses: ClassVar[Mapping[str, str]] = {"element": "importance flows from channel to channel, not to one weight"}

    def finish(self, view: View, state: State) -> Outcome:
        """The channels of largest importance stay."""
        scores = {block: score / score.mean().clamp_min(1e-30) for block, score in importance(view).items()}
        return Outcome(view.select(scores, state.masks))


def importance(view: View) -> dict[str, Tensor]:
    """What depends on every channel, shape (units,) per block: from the last weight on, each adds to what it reads."""
    units = channel_units(view)
    scores = {block: torch.zeros_like(norm) for block, norm in units.scores(view.values).items()}
    for name in reversed(view.prunable):
        weighed = view.values[name].abs()
        for block, slots in units.layers.items():
            for slot in slots:
                if slot.producer and slot.name == name:
                    weighed = weighed * along(slot, scores[block], weighed.dim())
        for block, share in reads(units, {name: weighed}).items():
            scores[block] = scores[block] + share
    return scores
