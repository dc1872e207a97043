"""Soft-thresholded scales: after every step the normalisation scales shrink, those of costly channels faster."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from compress.channel_units import ChannelUnits
from compress.channels import channel_units, scale_scores, scales
from compress.errors import UsageError
from compress.masks import Masks, Values
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.splitting import pack, unpack


@dataclass(frozen=True)
class ISTA(PruningMethod):
    r"""Iterative shrinkage-thresholding on the scales (gamma) of the normalisation layers.

        gamma <- soft(gamma - lr * gradient, lr * lam_u)        soft(x, t) = sign(x) max(|x| - t, 0)

    The optimizer makes the step, the method the threshold after it, so that scales become exactly 0 during training
    and can still come back. The strength follows the memory that the channel u costs:

        lam_u = lam * c_u / mean(c)
        c_u = (weights that make u + weights that read it + its output positions) / number of its scales

    the paper's eq. 2, k_w k_h c_in + sum over the readers of k_w k_h c_out + I_w I_h, written for any layer and any
    coupling; lam takes the place of its factor rho / (size of the input), so it means the same on every network. At
    the end channels are ranked by |gamma|, the mean where layers share their channels; channels without a scale
    go last.

    The paper's rescaling (gamma times alpha, the next weights over alpha) is left out: it keeps the outputs only
    where what lies between is positively homogeneous, and a larger lam does the same.

    Ye et al., ICLR 2018, arXiv:1802.00124. Their CIFAR-10 example has lam 5e-3 at a learning rate of 0.1, which is
    a threshold of 5e-4 a step; the default gives 1e-4 at 1e-3.

    Attributes:
        lam: mean strength; the threshold of a step is its learning rate times this.
    """

    lam: float = 0.1

    refuses: ClassVar[Mapping[str, str]] = {"element": "a normalisation scale belongs to a channel, not to one weight"}

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise UsageError(f"ista needs lam >= 0; got {self.lam:g}")

    def check_network(self, view: View) -> None:
        """Normalisation scales are needed."""
        scales(view, "ista")

    def init(self, view: View, masks: Masks) -> State:
        """Weigh every scale by what its channel costs."""
        units, gammas = channel_units(view), scales(view, "ista")
        counts = units.sums({name: torch.ones_like(gamma) for name, gamma in gammas.items()})
        costs = {block: memory(units, block).to(count.device) / count for block, count in counts.items()}
        mean = torch.cat(list(costs.values())).mean()
        ones = {block: torch.ones(size, device=mean.device) for block, size in units.blocks.items()}
        relative = units.spread({**ones, **{block: cost / mean for block, cost in costs.items()}})
        return State(masks=masks, tensors=pack(strength={name: self.lam * relative[name] for name in gammas}))

    def update(self, view: View, state: State, clock: Clock) -> tuple[State, Values]:
        """Soft-threshold the scales by the learning rate times their strength."""
        strengths = unpack(state.tensors, "strength")
        new = {name: soft(view.values[name], clock.lr * strength) for name, strength in strengths.items()}
        if clock.due(1):
            zeros = torch.cat([value == 0 for value in new.values()]).float().mean()
            state = replace(state, metrics={"zero_scales": float(zeros)})
        return state, new

    def finish(self, view: View, state: State) -> Outcome:
        """The channels with the largest scales stay."""
        return Outcome(view.select(scale_scores(view, "ista"), state.masks))


def soft(values: Tensor, threshold: Tensor) -> Tensor:
    """argmin_z  threshold |z| + 0.5 (z - v)^2, entry by entry."""
    return values.sign() * (values.abs() - threshold).clamp_min(0)


def memory(units: ChannelUnits, block: str) -> Tensor:
    """What each channel of a block occupies: weights that make it, weights that read it, its output positions."""
    costs = torch.zeros(units.sizes[block])
    for slot in units.layers[block]:
        if slot.name in units.positions:
            shape = units.shapes[slot.name]
            each = shape.numel() // shape[slot.axis] + (units.positions[slot.name] if slot.producer else 0)
            costs += each * torch.bincount(slot.unit[slot.unit >= 0], minlength=len(costs))
    return costs
