"""Equivalent Lipschitz surrogates of the zero-norm, and their closed-form proximal operators.

For phi convex on [0, 1] with phi(t*) = 0 at its minimiser t* < 1 and phi(1) = 1, and psi*(u) = max over [0, 1] of
u t - phi(t),

    h_rho(x) = rho |x| - psi*(rho |x|),      ||x||_0 is the limit of sum h_rho(x_i) for growing rho

is even, concave and nondecreasing in |x|, 0 at 0 and 1 from rho |x| >= phi'(1) on (Liu, Bi and Pan, J. Global Optim.
2018, arXiv:1804.11062). Every member here is, in u = rho |x|, linear up to b1, a parabola up to b2, and 1 from there.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Name = Literal["scad", "mcp", "capped-l1"]


@dataclass(frozen=True)
class Surrogate:
    """One member of the family.

    Attributes:
        name: ``scad`` (shape > 1), ``mcp`` (shape >= 2) or ``capped-l1`` (no shape).
        shape: ``a`` of SCAD and MCP.
    """

    name: Name = "scad"
    shape: float = 3.7

    @property
    def slope(self) -> float:
        """dh/du at 0: 1 - t*."""
        return 2 / self.shape if self.name == "mcp" else 1.0

    @property
    def knots(self) -> tuple[float, float]:
        """(b1, b2): where the parabola begins and where h reaches 1, in u = rho |x|."""
        if self.name == "mcp":
            return 0.0, self.shape
        if self.name == "scad":
            return 2 / (self.shape + 1), 2 * self.shape / (self.shape + 1)
        return 1.0, 1.0

    def value(self, x: Tensor, rho: float) -> Tensor:
        """h_rho, elementwise, in [0, 1].

        >>> Surrogate("capped-l1").value(torch.tensor([0.0, -0.25, 3.0]), 2.0).tolist()
        [0.0, 0.5, 1.0]
        """
        u = rho * x.abs()
        first, last = self.knots
        if first == last:
            return u.clamp_max(1.0)
        # s u minus the parabola that meets the line in b1 and the constant 1 in b2, both smoothly
        bend = self.slope / (2 * (last - first))
        u = u.clamp_max(last)
        return self.slope * u - bend * (u - first).clamp_min(0).square()

    def prox(self, v: Tensor, kappa: float, rho: float) -> Tensor:
        """Argmin over z of kappa h_rho(z) + (z - v)^2 / 2, elementwise; the smaller |z| where two tie.

        With kappa (slope rho)^2 >= 2 it is hard thresholding at sqrt(2 kappa), the proximal operator of kappa ||.||_0.
        """
        u, slope = v.abs(), self.slope * rho
        first, last = (knot / rho for knot in self.knots)
        if kappa * slope**2 >= 2:
            return torch.where(u > math.sqrt(2 * kappa), v, 0.0)
        soft = torch.sign(v) * (u - kappa * slope).clamp_min(0)
        bend = kappa * slope / (last - first) if last > first else math.inf
        if bend >= 1:  # the parabola is steeper than the quadratic: a jump from the soft branch to v itself
            return torch.where(u > kappa * slope / 2 + 1 / slope, v, soft)
        firm = torch.sign(v) * ((u - kappa * slope - bend * first) / (1 - bend)).clamp_min(0)
        return torch.where(u <= first + kappa * slope, soft, torch.where(u <= last, firm, v))
