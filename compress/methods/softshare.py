"""Soft weight-sharing: a mixture of Gaussians draws the weights to a few values, one of them zero (Ullrich et al.)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks
from compress.method import Clock, Outcome, PruningMethod, State, View

MEAN_RATE, SHAPE_RATE = 0.2, 6.0
"""Learning rates of the means, and of variances and shares, against that of the weights: the authors' 1e-4 and 3e-3 to
5e-4. The loop knows one rate; under Adam a parameter that is stored divided by c moves c times as fast."""

EVIDENCE_ZERO, EVIDENCE = 5e3, 2.5e2
"""Shape of the Gamma prior on the precision of the zero component, which has most of the weights, and of the others."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians; component 0 has mean 0.

    Attributes:
        log_shares: shape (components,), as the others.
        means: where the components are.
        log_precisions: minus the logarithms of their variances.
    """

    log_shares: Tensor
    means: Tensor
    log_precisions: Tensor

    def joint(self, weights: Tensor) -> Tensor:
        """log(share) + log N(w; mean, variance), shape (components, *weights.shape)."""
        # (w - mu)^2 multiplied out: a product of matrices takes half the time of the differences
        precisions = self.log_precisions.exp()
        factors = torch.stack([precisions * self.means, -0.5 * precisions], 1)
        heights = self.log_shares + 0.5 * (
            self.log_precisions - math.log(2 * math.pi) - precisions * self.means.square()
        )
        w = weights.float().reshape(-1)
        return torch.addmm(heights[:, None], factors, torch.stack([w, w.square()])).view(len(heights), *weights.shape)

    def prior(self, deviation: float) -> Tensor:
        """Minus the logarithm of a Gamma prior on the precisions, of mean 1 / deviation^2; a constant left out."""
        shape = torch.full_like(self.means, EVIDENCE)
        shape[0] = EVIDENCE_ZERO
        return ((1 - shape) * self.log_precisions + shape * deviation**2 * self.log_precisions.exp()).sum()


@dataclass(frozen=True)
class SoftShare(PruningMethod):
    r"""Train the weights together with a mixture of Gaussians that is their prior, then quantise them to its means.

        penalty   tau / samples ( - sum_i log sum_j pi_j N(w_i; mu_j, sigma_j^2)  - log Gamma priors on 1/sigma^2 )
        fixed     mu_0 = 0 and pi_0; all other means, variances and shares are learned
        answer    w = 0 where component 0 is the most responsible, else the mean of the one that is

    Weights are ranked by how much more responsible the best other component is than component 0, so that any budget
    is met. A budget looser than what the mixture found sets small weights to means away from zero: give none to get
    the mixture's own answer. One mixture serves all layers. Every weight meets every component at every step, which
    costs several times a small network's own step.

    Ullrich, Meeds and Welling, ICLR 2017, arXiv:1702.04008; priors and rates of the authors' tutorial code (learning
    rate 5e-4, 30 epochs). Nowlan and Hinton 1992, doi 10.1162/neco.1992.4.4.473, are the origin.

    Attributes:
        tau: weight of the prior. The authors' 5e-3 takes many epochs: after six, LeNet-300-100 does not survive being
            quantised; at 5e-2 it does after eight, with a twentieth of its weights.
        components: how many, the zero component included.
        zero_share: pi_0.
        deviation: expected standard deviation of a component, by the prior on its precision.
    """

    tau: float = 5e-2
    components: int = 16
    zero_share: float = 0.99
    deviation: float = 0.02

    epochs: ClassVar[int] = 10
    retrains: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {
        "channel": "its shared values are of single weights, and no component of the mixture is that of a channel"
    }

    @property
    def needs_budget(self) -> bool:
        """The component at zero decides."""
        return False

    def __post_init__(self) -> None:
        if not (self.tau > 0 and self.components >= 2 and 0 < self.zero_share < 1 and self.deviation > 0):
            raise UsageError(
                f"softshare needs tau > 0, components >= 2, zero_share in (0, 1) and deviation > 0; got {self}"
            )

    def init(self, view: View, masks: Masks) -> State:
        """Means at even distances over the range of the weights, deviations as wide as the distance between them."""
        weights = _weights(view, masks)
        low, high = float(weights.min()), float(weights.max())
        others = self.components - 1
        spacing = max((high - low) / others, self.deviation)
        means = torch.linspace(low, high, others, device=weights.device)
        precisions = torch.full((self.components,), -2 * math.log(spacing), device=weights.device)
        trainable = {
            "means": means / MEAN_RATE,
            "log_precisions": precisions / SHAPE_RATE,
            "logits": torch.zeros_like(means),
        }
        return State(masks=masks, trainable={name: value.requires_grad_() for name, value in trainable.items()})

    def mixture(self, state: State) -> Mixture:
        """The mixture as it stands."""
        means, logits = MEAN_RATE * state.trainable["means"], SHAPE_RATE * state.trainable["logits"]
        zero = means.new_zeros(1)
        log_shares = torch.cat(
            [zero + math.log(self.zero_share), math.log(1 - self.zero_share) + logits.log_softmax(0)]
        )
        return Mixture(log_shares, torch.cat([zero, means]), SHAPE_RATE * state.trainable["log_precisions"])

    def penalty(self, view: View, state: State) -> Tensor:
        """Minus the logarithm of the mixture and of the priors, times tau / samples."""
        mixture = self.mixture(state)
        fit = _log_sum(mixture.joint(_weights(view, state.masks))).sum()
        return self.tau / view.samples * (mixture.prior(self.deviation) - fit)

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Once an epoch, note the share of weights that are not the zero component's."""
        if not clock.due(1):
            return state
        joint = self.mixture(state).joint(_weights(view, state.masks))
        return replace(state, metrics={"nonzero": float((joint.argmax(0) != 0).float().mean())})

    def finish(self, view: View, state: State) -> Outcome:
        """Quantise: zero, or the mean of the most responsible of the other components."""
        mixture = self.mixture(state)
        lead: dict[str, Tensor] = {}
        shared: dict[str, Tensor] = {}
        for name in view.prunable:
            joint = mixture.joint(view.values[name])
            best, which = joint[1:].max(0)
            lead[name], shared[name] = best - joint[0], mixture.means[1:][which]
        scores = view.units.sums(lead)
        masks = view.above(scores, 0.0, state.masks) if view.budget.free else view.select(scores, state.masks)
        return Outcome(masks, shared)


def _weights(view: View, masks: Masks) -> Tensor:
    """All prunable weights that are not masked, in a row."""
    rows = [view.values[name][masks[name]] if name in masks else view.values[name].flatten() for name in view.prunable]
    return torch.cat(rows)


def _log_sum(joint: Tensor) -> Tensor:
    """Logarithm of the sum over the components, for the penalty of a step."""
    top = joint.detach().amax(0)
    # Cut where it no longer counts: numbers below the normal ones take a CPU three times as long.
    return top + (joint - top).clamp_min(-60).exp().sum(0).log()
