"""Sparse variational dropout: every weight learns its own noise, and those that drown in it go (Molchanov et al.)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Of the paper's fit to the Kullback-Leibler divergence, eq. 14."""

INITIAL = -10.0
"""log sigma^2 at the start."""

TINY = 1e-30
"""Keeps the logarithm of a square finite; far below the square of any weight that matters."""


def log_alpha(value: Tensor, log_variance: Tensor) -> Tensor:
    """log(sigma^2 / w^2), noise against signal."""
    return log_variance - (value.float().square() + TINY).log()


def divergence(log_ratio: Tensor) -> Tensor:
    """KL(N(w, alpha w^2) || log-uniform) by the paper's fit: 0 where noise is all there is.

    k1 (1 - sigmoid(k2 + k3 log alpha)) + 0.5 log(1 + 1/alpha)
    """
    return K1 * torch.sigmoid(-K2 - K3 * log_ratio) + 0.5 * softplus(-log_ratio)


@dataclass(frozen=True)
class SparseVD(PruningMethod):
    r"""Train the mean w and the variance sigma^2 of every weight on the variational lower bound.

        forward     w + sigma eps,  eps ~ N(0, 1), one draw per weight and step;  w alone when evaluated
        penalty     beta / samples  sum KL(alpha),   log alpha = log sigma^2 - log w^2
        -KL(alpha)  k1 sigmoid(k2 + k3 log alpha) - 0.5 log(1 + 1/alpha) - k1 + constant

    beta is 0 at first, then rises linearly to 1. Weights are ranked by -log alpha, so that any budget is met; without
    one, those with log alpha above the threshold go, and how many that is, and in which layers, is the outcome.

    The noise is drawn on weights, not on activations (the local reparametrisation): the same expectation of the
    gradient with more variance, for any kind of layer. log sigma^2 has a long way to go: many epochs pay.

    Molchanov, Ashukha and Vetrov, ICML 2017, arXiv:1701.05369, eq. 14; defaults of the authors' code, with its 5th and
    20th of 200 epochs moved later for short runs.

    Attributes:
        threshold: log alpha above which a weight goes, where no budget is given; 3 is a noise of 4.5 times the weight.
        warmup_from: fraction of the run at which beta starts to rise from 0.
        warmup_to: fraction of the run from which beta is 1.
    """

    threshold: float = 3.0
    warmup_from: float = 0.1
    warmup_to: float = 0.4

    epochs: ClassVar[int] = 20
    refuses: ClassVar[Mapping[str, str]] = {
        "channel": "its noise is of single weights, and a channel whose weights are all noise hardly occurs"
    }

    @property
    def needs_budget(self) -> bool:
        """The noise decides."""
        return False

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_from < self.warmup_to <= 1:
            raise UsageError(f"sparsevd needs 0 <= warmup_from < warmup_to <= 1; got {self}")

    def init(self, view: View, masks: Masks) -> State:
        """Every log sigma^2 is -10."""
        variances = {name: torch.full_like(view.values[name], INITIAL).requires_grad_() for name in view.prunable}
        return State(masks=masks, trainable=variances, numbers={"beta": 0.0})

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """Noisy weights in training, their means in evaluation."""
        if not training:
            return burn(values, state.masks)
        noisy = {
            name: values[name] + (0.5 * variance).exp() * torch.randn_like(variance)
            for name, variance in state.trainable.items()
        }
        return burn({**values, **noisy}, state.masks)

    def penalty(self, view: View, state: State) -> Tensor | float:
        """Divergence of all weights that are not masked, times beta / samples."""
        if not (beta := state.numbers["beta"]):
            return 0.0
        terms = burn({name: divergence(ratio) for name, ratio in _ratios(view, state).items()}, state.masks)
        return beta / view.samples * torch.stack([term.sum() for term in terms.values()]).sum()

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Beta at its place on the line; once an epoch, the share of weights above the threshold."""
        beta = (clock.progress - self.warmup_from) / (self.warmup_to - self.warmup_from)
        numbers = {"beta": min(max(beta, 0.0), 1.0)}
        state = replace(state, numbers=numbers) if numbers != state.numbers else state
        if not clock.due(1):
            return state
        ratios = torch.cat([ratio.flatten() for ratio in _ratios(view, state).values()])
        return replace(state, metrics={**state.numbers, "noise": float((ratios > self.threshold).float().mean())})

    def finish(self, view: View, state: State) -> Outcome:
        """The weights with the least noise, as many as the budget allows, or all below the threshold."""
        scores = view.units.sums({name: -ratio for name, ratio in _ratios(view, state).items()})
        if view.budget.free:
            return Outcome(view.above(scores, -self.threshold, state.masks))
        return Outcome(view.select(scores, state.masks))


def _ratios(view: View, state: State) -> dict[str, Tensor]:
    return {name: log_alpha(view.values[name], variance) for name, variance in state.trainable.items()}
