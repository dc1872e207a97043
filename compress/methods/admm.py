"""ADMM weight pruning: training with a dynamic penalty that pulls the weights onto the budget's set."""

from dataclasses import dataclass

from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Clock, Outcome, PruningMethod, State, View
from compress.schedule import log_quadratic
from compress.splitting import distance, minus, norm, pack, plus, pruned, unpack, zeros


@dataclass(frozen=True)
class ADMM(PruningMethod):
    r"""Alternating direction method of multipliers on ``min f(W) subject to W in S``, S the budget's set.

    With the auxiliary variable Z and the scaled dual U:

        W-step   some optimizer steps on  f(W) + rho/2 ||W - Z + U||_F^2
        Z-step   Z = proj_S(W + U)        the units with the largest norm, exactly as many as the budget allows
        U-step   U = U + W - Z            U is multiplied by rho/rho' whenever rho becomes rho'

    At the end W is projected onto S. The budget may tighten during the run (``ramp``) and rho may grow: both are
    of the same group's later work (progressive, multi-rho). Progressive rounds with retraining between are ``rounds``.

    Zhang et al., ECCV 2018, arXiv:1804.03294; channels as the units: Zhang et al., StructADMM, TNNLS 2021,
    arXiv:1807.11091; progressive: Ye et al. 2018, arXiv:1810.07378.

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
        w = pruned(view)
        z = {name: value.clone() for name, value in self._project(view, w, masks, 0.0).items()}
        return State(masks=masks, tensors=pack(z=z, u=zeros(w), anchor=z), numbers={"rho": self.rho})

    def penalty(self, view: View, state: State) -> Tensor:
        """rho/2 sum ||W - Z + U||_F^2 over the pruned tensors."""
        return state.numbers["rho"] * distance(view.values, unpack(state.tensors, "anchor"))

    def update(self, view: View, state: State, clock: Clock) -> State:
        """Z- and U-step at even moments of every epoch, with rho at its place on the log scale."""
        if not clock.due(self.updates_per_epoch):
            return state
        w, z_old, u = pruned(view), unpack(state.tensors, "z"), unpack(state.tensors, "u")
        z = self._project(view, plus(w, u), state.masks, clock.progress)
        rho = self.rho * self.rho_growth**clock.progress
        rescale = state.numbers["rho"] / rho
        u = {name: (u[name] + w[name] - z[name]) * rescale for name in w}
        metrics = {
            "rho": state.numbers["rho"],  # in force in this step, as in the residual
            "primal_residual": norm(minus(w, z)) / norm(w),
            "dual_residual": state.numbers["rho"] * norm(minus(z, z_old)) / norm(w),
        }
        return State(state.masks, {}, pack(z=z, u=u, anchor=minus(z, u)), {"rho": rho}, metrics)

    def finish(self, view: View, state: State) -> Outcome:
        """W projected onto the final budget."""
        return Outcome(view.select(view.units.scores(view.values), state.masks))

    def _project(self, view: View, values: Values, masks: Masks, progress: float) -> dict[str, Tensor]:
        at = min(progress / self.ramp, 1.0) if self.ramp else 1.0
        scores = view.units.scores({**view.values, **values})
        return burn(values, view.select(scores, masks, lambda kept: log_quadratic(kept, at, view.start)))
