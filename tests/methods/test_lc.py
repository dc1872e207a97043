import math

import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock
from compress.methods.admm import ADMM
from compress.methods.lc import LC
from compress.splitting import unpack
from tests.support import view_of

W = "w.weight"


def test_updates_by_hand() -> None:
    """W = (3, 1), one kept, mu = 1/2: Delta = (3, 0), lam = -1/2 (0, 1), and then mu = 2 draws to Delta + lam/2."""
    values = {W: torch.tensor([3.0, 1.0], requires_grad=True)}
    method, view = LC(mu=0.5, growth=4.0, updates_per_epoch=1), view_of(values, Budget(keep={"w": 1}))
    with torch.no_grad():
        state = method.update(view, method.init(view, {}), Clock(1, 1, 1))
    assert [0.0, -0.5] == state.tensors[f"lam/{W}"].tolist()
    assert [3.0, -0.25] == state.tensors[f"anchor/{W}"].tolist()
    assert 1.5625 == method.penalty(view, state).item()  # 2/2 (1 + 0.25)^2
    # The last C-step compresses w - lam/mu = (3, 1.25).
    outcome = method.finish(view, state)
    assert [True, False] == outcome.masks[W].tolist()
    assert outcome.values is not None
    assert [3.0, 0.0] == outcome.values[W].tolist()


def test_penalty_form_solves_the_separable_problem() -> None:
    """Of ``1/2 (w - a)^2 + alpha ||w||_0`` the minimum keeps a where |a| exceeds sqrt(2 alpha), here 1."""
    a = torch.tensor([0.2, -0.7, 0.9, 1.1, -1.5, 3.0])
    values = {W: a.clone()}
    method, view = LC(mu=0.01, growth=1e4, alpha=0.5, updates_per_epoch=1), view_of(values, Budget())
    state = method.init(view, {})
    for step in range(1, 101):
        mu, anchor = state.numbers["mu"], state.tensors[f"anchor/{W}"]
        values[W].copy_((a + mu * anchor) / (1 + mu))  # the exact L-step
        state = method.update(view, state, Clock(step, 100, 1))
    outcome = method.finish(view, state)
    assert [False, False, False, True, True, True] == outcome.masks[W].tolist()
    assert outcome.values is not None
    torch.testing.assert_close(outcome.values[W], a * (a.abs() > 1), rtol=0, atol=1e-3)  # 1/mu of a residual of 1


def test_constraint_form_is_admm_at_the_full_budget() -> None:
    values = {W: torch.randn(50, generator=torch.Generator().manual_seed(0))}
    view = view_of(values, Budget(keep={"w": 5}))
    lc = LC(mu=0.01, growth=100.0, updates_per_epoch=1)
    admm = ADMM(rho=0.01, rho_growth=100.0, updates_per_epoch=1, ramp=0.0)
    ours, theirs = lc.init(view, {}), admm.init(view, {})
    for step in range(1, 11):
        values[W].mul_(0.9).add_(0.1 * ours.tensors[f"anchor/{W}"])
        clock = Clock(step, 10, 1)
        ours, theirs = lc.update(view, ours, clock), admm.update(view, theirs, clock)
        torch.testing.assert_close(unpack(theirs.tensors, "anchor"), unpack(ours.tensors, "anchor"))
    assert math.isclose(1.0, ours.numbers["mu"])


def test_a_budget_and_alpha_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="budget or alpha"):
        LC(alpha=1.0).check(Budget(sparsity=0.5), 1)


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="mu > 0"):
        LC(mu=0.0)
