"""Learning-compression: learn with a pull towards the compressed weights, compress again, raise the pull (LC)."""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Masks, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.splitting import check_price, distance, minus, norm, pack, pruned, unpack, zeros


@dataclass(frozen=True)
class LC(PruningMethod):
    r"""Augmented Lagrangian of ``min L(w) subject to w = Delta(Theta)``, where Delta has few nonzeros.

        L-step   some optimizer steps on  L(w) + mu/2 ||w - Delta - lam/mu||^2
        C-step   Delta = argmin ||w - lam/mu - Delta||^2              over what the budget allows (constraint), or
                 Delta = argmin mu/2 ||w - lam/mu - Delta||^2 + alpha ||Delta||_0    keep what exceeds sqrt(2 alpha/mu)
                 lam   = lam - mu (w - Delta)
        mu       grows in equal steps on a log scale

    The answer is Delta itself. ``alpha = 0`` is the constraint form; ``alpha > 0``, for steps without a budget, the
    penalty form: how much stays is its outcome. A channel is judged by its norm. In its constraint form the
    iteration is ADMM's with U = -lam/mu, from the first step on at the full budget.

    Carreira-Perpinan and Idelbayev, CVPR 2018, "Learning-compression" algorithms for neural net pruning; Part I of the
    series: Carreira-Perpinan 2017, arXiv:1707.01209.

    Attributes:
        mu: at the start.
        growth: factor on mu over the whole run. The authors take 1.1 per step and 20 to 40 steps of many epochs each;
            w has to come to Delta in the epochs there are.
        alpha: price of a nonzero in the penalty form, in units of the loss; 0 leaves it to the budget.
        updates_per_epoch: C-steps per epoch.
    """

    mu: float = 9e-5
    growth: float = 1000.0
    alpha: float = 0.0
    updates_per_epoch: int = 2

    @property
    def needs_budget(self) -> bool:
        """Unless ``alpha`` decides."""
        return not self.alpha

    def __post_init__(self) -> None:
        if not (self.mu > 0 and self.growth >= 1 and self.alpha >= 0 and self.updates_per_epoch >= 1):
            raise UsageError(f"lc needs mu > 0, growth >= 1, alpha >= 0 and updates_per_epoch >= 1; got {self}")

    def check(self, budget: Budget, epochs: int) -> None:
        """A price or a budget."""
        check_price("lc", "alpha", self.alpha, budget)

    def init(self, view: View, masks: Masks) -> State:
        """Delta from the weights as they are, lam = 0."""
        lam = zeros(pruned(view))
        state = State(masks, tensors=pack(lam=lam), numbers={"mu": self.mu})
        _, delta = self._compress(view, state)
        anchor = {name: value.clone() for name, value in delta.items()}
        return replace(state, tensors=pack(lam=lam, anchor=anchor))

    def penalty(self, view: View, state: State) -> Tensor:
        """mu/2 ||w - Delta - lam/mu||^2 over the pruned tensors."""
        return state.numbers["mu"] * distance(view.values, unpack(state.tensors, "anchor"))

    def update(self, view: View, state: State, clock: Clock) -> State:
        """C-step at even moments of every epoch; then mu moves on."""
        if not clock.due(self.updates_per_epoch):
            return state
        w, lam, mu = pruned(view), unpack(state.tensors, "lam"), state.numbers["mu"]
        _, delta = self._compress(view, state)
        lam = {name: lam[name] - mu * (w[name] - delta[name]) for name in w}
        mu = self.mu * self.growth**clock.progress
        anchor = {name: delta[name] + lam[name] / mu for name in w}
        metrics = {"mu": mu, "primal_residual": norm(minus(w, delta)) / norm(w)}
        return State(state.masks, {}, pack(lam=lam, anchor=anchor), {"mu": mu}, metrics)

    def finish(self, view: View, state: State) -> Outcome:
        """A last C-step."""
        return Outcome(*self._compress(view, state))

    def _compress(self, view: View, state: State) -> tuple[Masks, dict[str, Tensor]]:
        """The C-step: what stays, and Delta."""
        lam, mu = unpack(state.tensors, "lam"), state.numbers["mu"]
        shifted = {name: value - lam[name] / mu for name, value in pruned(view).items()}
        norms = view.units.scores({**view.values, **shifted})
        if self.alpha:
            masks = view.above(norms, math.sqrt(2 * self.alpha / mu), state.masks)
        else:
            masks = view.select(norms, state.masks)
        return masks, burn(shifted, masks)
