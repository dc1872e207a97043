"""The surrogates of the zero-norm, against brute force."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.surrogate import Surrogate

MEMBERS = [Surrogate("scad", 3.7), Surrogate("mcp", 2.5), Surrogate("capped-l1")]
members = st.one_of(
    st.floats(1.05, 6).map(lambda a: Surrogate("scad", a)),
    st.floats(2, 6).map(lambda a: Surrogate("mcp", a)),
    st.just(Surrogate("capped-l1")),
)
rhos = st.floats(math.log(0.1), math.log(16)).map(math.exp)
kappas = st.floats(math.log(0.003), math.log(10)).map(math.exp)


def phi(member: Surrogate, t: Tensor) -> Tensor:
    a = member.shape
    if member.name == "scad":
        return (a - 1) / (a + 1) * t**2 + 2 / (a + 1) * t
    return a**2 / 4 * (t - (a - 2) / a) ** 2 if member.name == "mcp" else t


@settings(max_examples=200, deadline=None)
@given(members, rhos, st.floats(0, 20))
def test_h_is_the_linear_term_less_the_conjugate(member: Surrogate, rho: float, x: float) -> None:
    """h = rho|x| - max over t in [0, 1] of rho|x| t - phi(t), the maximum taken on a grid."""
    t = torch.linspace(0, 1, 20001, dtype=torch.float64)
    conjugate = (rho * x * t - phi(member, t)).max()
    value = member.value(torch.tensor(-x, dtype=torch.float64), rho)
    # the grid is 5e-5 wide, and the maximum is flat there
    assert float(value) == pytest.approx(float(rho * x - conjugate), abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(members, rhos, kappas, st.floats(-20, 20))
def test_no_point_of_a_grid_beats_the_closed_form(member: Surrogate, rho: float, kappa: float, v: float) -> None:
    def objective(z: Tensor) -> Tensor:
        return kappa * member.value(z, rho) + 0.5 * (z - v) ** 2

    at = torch.tensor(v, dtype=torch.float64)
    grid = torch.cat([torch.linspace(0, 1, 4001, dtype=torch.float64) * at, at[None]])
    assert float(objective(member.prox(at, kappa, rho))) <= float(objective(grid).min()) + 1e-12 * (1 + v * v)


@settings(deadline=None)
@given(members, rhos, kappas)
def test_the_proximal_operator_is_odd_monotone_and_shrinks(member: Surrogate, rho: float, kappa: float) -> None:
    v = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    z = member.prox(v, kappa, rho)
    torch.testing.assert_close(-z.flip(0), z)
    assert bool((z.diff() >= -1e-12).all())
    assert bool((z.abs() <= v.abs() + 1e-12).all())


@pytest.mark.parametrize("member", MEMBERS)
def test_once_hard_it_is_the_zero_norms(member: Surrogate) -> None:
    """With kappa (s rho)^2 = 2 the threshold is sqrt(2 kappa), and nothing is shrunk; at a tie the smaller wins."""
    rho = 2.0 / member.slope
    v = torch.tensor([0.9, 1.0, 1.1, -3.0], dtype=torch.float64)
    assert [0.0, 0.0, 1.1, -3.0] == member.prox(v, 0.5, rho).tolist()


def test_scad_is_fan_and_lis_penalty() -> None:
    """h_rho = rho^2 (a + 1)/2 SCAD with lambda = 2/(rho (a + 1)) (Fan and Li 2001), here a = 3, rho = 1."""
    x = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    lam, a = 0.5, 3.0
    scad = [lam * 0.25, -(1.0 - 2 * a * lam + lam**2) / (2 * (a - 1)), (a + 1) * lam**2 / 2]
    torch.testing.assert_close(Surrogate("scad", 3.0).value(x, 1.0), torch.tensor([2 * s for s in scad], dtype=x.dtype))
