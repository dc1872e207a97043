"""ADMM weight pruning: training with a dynamic penalty that pulls the weights onto the budget's set."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.budget import select
from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View, alive, both
from compress.schedule import log_quadratic


@dataclass(frozen=True)
class ADMM(PruningMethod):
    r"""Alternating direction method of multipliers on ``min f(W) subject to W in S``, S the budget's set.

    With the auxiliary variable Z and the scaled dual U:

        W-step   some optimizer steps on  f(W) + rho/2 ||W - Z + U||_F^2
        Z-step   Z = proj_S(W + U)        the units with the largest norm, exactly as many as the budget allows
        U-step   U = U + W - Z            U is multiplied by rho/rho' whenever rho becomes rho'

    At the end W is projected onto S. The budget may tighten during the run (``ramp``) and rho may grow: both are
    of the same group's later work (progressive, multi-rho).

    Zhang et al., ECCV 2018, arXiv:1804.03294; channels as the units: Zhang et al., StructADMM, TNNLS 2021,
    arXiv:1807.11091.

    Attributes:
        rho: penalty at the start.
        rho_growth: factor on rho over the whole run, in equal steps on a log scale; 1 keeps it constant.
        updates_per_epoch: Z- and U-steps per epoch.
        ramp: fraction of the run over which the kept fraction falls to the budget; 0 asks for all at once.
    """

    rho: float = 3e-3
    rho_growth: float = 100.0
    updates_per_epoch: int = 2
    ramp: float = 0.75

    def __post_init__(self) -> None:
        if not (self.rho > 0 and self.rho_growth >= 1 and self.updates_per_epoch >= 1 and 0 <= self.ramp <= 1):
            raise UsageError(
                f"admm needs rho > 0, rho_growth >= 1, updates_per_epoch >= 1 and ramp in [0, 1]; got {self}"
            )

    def init(self, view: View, masks: Masks) -> State:
        """Z = proj(W), U = 0."""
        everything = {name: torch.ones(size, dtype=torch.bool) for name, size in view.units.blocks.items()}
        values = {name: view.values[name].detach() for name in view.units.masks(everything)}
        z = self._project(view, values, masks, 0.0)
        tensors = _pack({name: value.clone() for name, value in z.items()}, _zeros(values))
        return State(masks=masks, tensors=tensors, numbers={"rho": self.rho})

    def penalty(self, view: View, state: State) -> Tensor:
        """rho/2 sum ||W - Z + U||_F^2 over the pruned tensors."""
        z, u = _unpack(state.tensors)
        terms = [(view.values[name].float() - z[name] + u[name]).square().sum() for name in z]
        return 0.5 * state.numbers["rho"] * torch.stack(terms).sum()

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Z- and U-step at even moments of every epoch, with rho at its place on the log scale."""
        if not clock.due(self.updates_per_epoch):
            return state
        z_old, u = _unpack(state.tensors)
        w = {name: view.values[name].detach() for name in z_old}
        z = self._project(view, {name: w[name] + u[name] for name in w}, state.masks, clock.progress)
        rho = self.rho * self.rho_growth**clock.progress
        rescale = state.numbers["rho"] / rho
        u = {name: (u[name] + w[name] - z[name]) * rescale for name in w}
        norm = _norm(w)
        metrics = {
            "rho": rho,
            "primal_residual": _norm({n: w[n] - z[n] for n in w}) / norm,
            "dual_residual": rho * _norm({n: z[n] - z_old[n] for n in w}) / norm,
        }
        return State(state.masks, {}, _pack(z, u), {"rho": rho}, metrics)

    def finish(self, view: View, state: State) -> Outcome:
        """W projected onto the final budget."""
        keep = select(view.budget, view.units, alive(view, view.units.scores(view.values), state.masks), view.relax)
        return Outcome(both(state.masks, view.units.masks(keep)))

    def _project(self, view: View, values: Values, masks: Masks, progress: float) -> dict[str, Tensor]:
        at = min(progress / self.ramp, 1.0) if self.ramp else 1.0
        scores = alive(view, view.units.scores({**view.values, **values}), masks)
        keep = select(view.budget, view.units, scores, lambda kept: log_quadratic(view.relax(kept), at))
        return burn(values, both(masks, view.units.masks(keep)))


def _pack(z: Values, u: Values) -> dict[str, Tensor]:
    return {**{f"z/{n}": t for n, t in z.items()}, **{f"u/{n}": t for n, t in u.items()}}


def _unpack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    z = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("z/")}
    return z, {name: tensors[f"u/{name}"] for name in z}


def _zeros(values: Values) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in values.items()}


def _norm(values: Values) -> float:
    return float(torch.stack([value.square().sum() for value in values.values()]).sum().sqrt())
