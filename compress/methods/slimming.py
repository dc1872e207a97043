"""Network slimming: an L1 penalty on the normalisation scales, then the channels with the smallest go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.channels import channel_units, scale_scores, scales
from compress.errors import UsageError
from compress.method import Outcome, PruningMethod, State, View


@dataclass(frozen=True)
class Slimming(PruningMethod):
    """Train with a sparsity penalty on the scales (gamma) of the normalisation layers; they tell the channels apart.

        loss + lam sum |gamma|

    over the scales of channels that can be removed; the subgradient at 0 is 0. At the end channels are ranked by
    |gamma|, over all layers together unless the budget says otherwise. Layers coupled by an addition share their
    channels, and each brings a gamma of its own: the channel's score is the mean of their magnitudes. Channels
    without a scale go last.

    Liu et al., ICCV 2017, arXiv:1708.06519; 1e-4 for their VGG, 1e-5 for ResNet and DenseNet.

    Attributes:
        lam: weight of the penalty.
    """

    lam: float = 1e-4

    refuses: ClassVar[Mapping[str, str]] = {"element": "a normalisation scale belongs to a channel, not to one weight"}

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise UsageError(f"slimming needs lam >= 0; got {self.lam:g}")

    def check_network(self, view: View) -> None:
        """Normalisation scales are needed."""
        scales(view, "slimming")

    def penalty(self, view: View, state: State) -> Tensor:
        """Lam sum |gamma| over the channels that can be removed."""
        units = channel_units(view)
        amounts = units.sums({name: gamma.abs() for name, gamma in scales(view, "slimming").items()})
        return self.lam * torch.cat(list(amounts.values())).sum()

    def finish(self, view: View, state: State) -> Outcome:
        """The channels with the largest scales stay."""
        return Outcome(view.select(scale_scores(view, "slimming"), state.masks))
