"""P-ADMM: zero-norm regularised training by a Lipschitz surrogate and proximal ADMM (Liu 2023)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.schedule import log_quadratic
from compress.scoring import left
from compress.splitting import check_price, distance, minus, norm, pack, plus, pruned, unpack, zeros
from compress.surrogate import Name, Surrogate

HARD = math.sqrt(2)
"""From this hardness on the proximal operator is exact hard thresholding."""

HARD_END = 1.5
"""Hardness at the end of a run."""


@dataclass(frozen=True)
class PADMM(PruningMethod):
    r"""Proximal ADMM on ``min f(W) + lam ||Z||_0 subject to W = Z``, the zero-norm replaced by a surrogate h_rho.

    From the zero-norm through its equivalent mathematical program with equilibrium constraints and the exact penalty
    of that to the surrogate: see `compress.surrogate`. With the scaled dual U, in this order:

        W-step   some optimizer steps on  f(W) + sigma/2 ||W - Z + U||_F^2 + mu/2 ||W - W_prev||_F^2
        Z-step   Z = argmin  lam sum h_rho(Z) + sigma/2 ||Z - W - U||_F^2        closed form, elementwise
        U-step   U = U + W - Z                       U is multiplied by sigma/sigma' whenever sigma becomes sigma'

    On channels h_rho acts on the norm of each. Both sigma and the hardness c = rho s sqrt(lam / sigma) grow (s is the
    slope of h at 0): the Z-step goes from soft to hard thresholding at theta = sqrt(2 lam / sigma), the proximal
    operator of the zero-norm itself, and theta rises over ``ramp`` of the run.

    ``lam > 0``, for steps without a budget: one regularisation weight for the whole network; how sparse it becomes, and
    where, is the outcome, and only the budget's floor holds. ``lam = 0``: the budget says how much stays, and theta
    follows it; once hard, that is ADMM's projection.

    Liu, Operations Research and Management Science 32(10), 2023, doi 10.12005/orms.2023.0326 (with smooth activations
    in its theory); surrogates: Liu, Bi and Pan 2018, arXiv:1804.11062. The paper does not publish its settings.

    Attributes:
        lam: weight of the zero-norm at the end of the run; 0 lets the budget decide.
        surrogate: ``scad``, ``mcp`` or ``capped-l1``.
        shape: a of SCAD (> 1) and MCP (>= 2).
        sigma: penalty at the start.
        sigma_growth: factor on sigma over the whole run, in equal steps on a log scale.
        proximal: mu / sigma; 0 is plain ADMM.
        hardness: c at the start; it grows to 1.5, which is hard.
        updates_per_epoch: Z- and U-steps per epoch.
        ramp: fraction of the run over which theta, or the kept fraction, comes to its end.
    """

    lam: float = 0.0
    surrogate: Name = "scad"
    shape: float = 3.7
    sigma: float = 3e-3
    sigma_growth: float = 100.0
    proximal: float = 0.1
    hardness: float = 0.7
    updates_per_epoch: int = 2
    ramp: float = 0.75

    @property
    def needs_budget(self) -> bool:
        """Unless ``lam`` decides."""
        return not self.lam

    def __post_init__(self) -> None:
        least = {"scad": 1.0, "mcp": 2.0, "capped-l1": -math.inf}[self.surrogate]
        if self.shape < least or (self.surrogate == "scad" and self.shape == least):
            raise UsageError(f"padmm: {self.surrogate} needs shape above {least:g}, got {self.shape:g}")
        if not (self.sigma > 0 and self.sigma_growth >= 1 and self.hardness > 0 and self.updates_per_epoch >= 1):
            raise UsageError(
                f"padmm needs sigma > 0, sigma_growth >= 1, hardness > 0, updates_per_epoch >= 1; got {self}"
            )
        if not (self.lam >= 0 and self.proximal >= 0 and 0 <= self.ramp <= 1):
            raise UsageError(f"padmm needs lam >= 0, proximal >= 0 and ramp in [0, 1]; got {self}")

    def check(self, budget: Budget, epochs: int) -> None:
        """A price or a budget."""
        check_price("padmm", "lam", self.lam, budget)

    def init(self, view: View, masks: Masks) -> State:
        """Z = W, U = 0."""
        w = pruned(view)
        z = {name: value.clone() for name, value in burn(w, masks).items()}
        return State(masks=masks, tensors=pack(z=z, u=zeros(w), anchor=z), numbers={"sigma": self.sigma})

    def penalty(self, view: View, state: State) -> Tensor:
        """sigma/2 ||W - Z + U||_F^2 + mu/2 ||W - W_prev||_F^2, as one square around the anchor; a constant left out."""
        return state.numbers["sigma"] * (1 + self.proximal) * distance(view.values, unpack(state.tensors, "anchor"))

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Z- and U-step at even moments of every epoch; then sigma moves on."""
        if not clock.due(self.updates_per_epoch):
            return state
        w, z_old, u = pruned(view), unpack(state.tensors, "z"), unpack(state.tensors, "u")
        z, metrics = self._z_step(view, plus(w, u), state, clock.progress)
        sigma = self.sigma * self.sigma_growth**clock.progress
        u = {name: (u[name] + w[name] - z[name]) * (state.numbers["sigma"] / sigma) for name in w}
        anchor = {name: (z[name] - u[name] + self.proximal * w[name]) / (1 + self.proximal) for name in w}
        metrics |= {
            "sigma": state.numbers["sigma"],  # in force in this step, as in the residual
            "primal_residual": norm(minus(w, z)) / norm(w),
            "dual_residual": state.numbers["sigma"] * norm(minus(z, z_old)) / norm(w),
        }
        return State(state.masks, {}, pack(z=z, u=u, anchor=anchor), {"sigma": sigma}, metrics)

    def finish(self, view: View, state: State) -> Outcome:
        """The support that a last Z-step would have."""
        w, u = pruned(view), unpack(state.tensors, "u")
        norms = view.units.scores({**view.values, **plus(w, u)})
        return Outcome(self._support(view, norms, state, 1.0, HARD))

    def _z_step(
        self, view: View, v: Values, state: State, progress: float
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Z, and what the log says of it."""
        hardness = self.hardness * (max(HARD_END, self.hardness) / self.hardness) ** progress
        member, sigma = Surrogate(self.surrogate, self.shape), state.numbers["sigma"]
        norms = view.units.scores({**view.values, **v})
        masks = self._support(view, norms, state, progress, hardness)
        kept = left(view.units, masks)
        factors, objective = {}, 0.0
        for block, n in norms.items():
            kappa = self._kappa(n, kept[block], sigma, progress, hardness)
            rho = hardness / (member.slope * math.sqrt(kappa))
            shrunk = member.prox(n, kappa, rho)
            factors[block] = torch.where(n > 0, shrunk / n.clamp_min(1e-30), 0.0)
            objective += sigma * kappa * float(member.value(shrunk, rho).sum())
        spread = view.units.spread(factors)
        share = sum(int(k.sum()) for k in kept.values()) / sum(view.units.blocks.values())
        z = burn({name: value * spread[name] for name, value in v.items()}, masks)
        return z, {"surrogate": objective, "hardness": hardness, "kept": share}

    def _kappa(self, norms: Tensor, kept: Tensor, sigma: float, progress: float, hardness: float) -> float:
        """The weight lam / sigma: as given, or such that the dead zone ends at the largest norm the budget drops."""
        if self.lam:
            return 0.5 * self._theta(progress) ** 2
        cut = float(norms.where(~kept, 0.0).max())
        return max(cut / min(hardness, HARD), 1e-15) ** 2

    def _theta(self, progress: float) -> float:
        """Hard threshold sqrt(2 lam / sigma): the end's value, after a cubic rise over the ramp."""
        at = min(progress / self.ramp, 1.0) if self.ramp else 1.0
        final = math.sqrt(2 * self.lam / (self.sigma * self.sigma_growth))
        return max(final * (1 - (1 - at) ** 3), 1e-15)

    def _support(self, view: View, norms: Values, state: State, progress: float, hardness: float) -> Masks:
        """What stays: what the budget allows, or what lies outside the dead zone (and the budget's floor)."""
        if not self.lam:
            at = min(progress / self.ramp, 1.0) if self.ramp else 1.0
            return view.select(norms, state.masks, lambda kept: log_quadratic(kept, at, view.start))
        return view.above(norms, min(hardness, HARD) * self._theta(progress) / HARD, state.masks)
