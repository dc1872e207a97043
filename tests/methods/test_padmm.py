import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.admm import ADMM
from compress.methods.padmm import PADMM
from tests.support import channel_view, view_of

LAM = 0.02


def best_support(matrix: Tensor, target: Tensor) -> tuple[bool, ...]:
    """Argmin over all supports of 0.5 ||A x - b||^2 + lam ||x||_0, exhaustively."""

    def objective(support: tuple[bool, ...]) -> float:
        part = matrix[:, list(support)]
        left = part @ torch.linalg.lstsq(part, target).solution - target if any(support) else target
        return 0.5 * float(left.square().sum()) + LAM * sum(support)

    return min(itertools.product([False, True], repeat=matrix.shape[1]), key=objective)


@pytest.mark.parametrize("surrogate", ["scad", "mcp", "capped-l1"])
def test_one_lambda_finds_the_zero_norm_optimum(surrogate: str) -> None:
    """Least squares with exact W-steps: the support is that of the exhaustive search."""
    found = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(30, 8, generator=generator, dtype=torch.float64)
        truth = torch.zeros(8, dtype=torch.float64)
        truth[torch.randperm(8, generator=generator)[:3]] = 1 + torch.rand(3, generator=generator, dtype=torch.float64)
        target = matrix @ truth + 0.05 * torch.randn(30, generator=generator, dtype=torch.float64)
        values = {"w.weight": torch.linalg.lstsq(matrix, target).solution}
        method = PADMM(
            lam=LAM, surrogate=surrogate, sigma=0.05, sigma_growth=80, proximal=0.0, updates_per_epoch=1, ramp=0.5
        )  # type: ignore[arg-type]
        view = view_of(values, Budget())
        state = method.init(view, {})
        for step in range(1, 61):
            sigma, anchor = state.numbers["sigma"], state.tensors["anchor/w.weight"]
            eye = torch.eye(8, dtype=torch.float64)
            values["w.weight"] = torch.linalg.solve(matrix.T @ matrix + sigma * eye, matrix.T @ target + sigma * anchor)
            state = method.update(view, state, Clock(step, 60, 1))
        found += tuple(method.finish(view, state).masks["w.weight"].tolist()) == best_support(matrix, target)
    assert found >= 19


def test_with_a_budget_and_hard_thresholds_it_is_admm() -> None:
    """Hard from the start, without the proximal term: every Z, U and anchor is ADMM's."""
    generator = torch.Generator().manual_seed(0)
    values = {"a.weight": torch.randn(6, 5, generator=generator), "b.weight": torch.randn(4, 6, generator=generator)}
    view = view_of(values, Budget(sparsity=0.7))
    padmm, admm = PADMM(hardness=1.5, proximal=0.0), ADMM()
    states = [method.init(view, {}) for method in (padmm, admm)]
    for step in range(1, 9):
        for name in values:
            values[name] += 0.1 * torch.randn(values[name].shape, generator=generator)
        states = [m.update(view, s, Clock(step, 8, 2)) for m, s in zip((padmm, admm), states, strict=True)]
        for key, tensor in states[1].tensors.items():
            torch.testing.assert_close(states[0].tensors[key], tensor)
    masks = [m.finish(view, s).masks for m, s in zip((padmm, admm), states, strict=True)]
    assert 16 == sum(int(mask.sum()) for mask in masks[0].values())  # 30 % of 54


def test_penalty_is_both_squares_but_for_a_constant() -> None:
    """sigma/2 (w - z + u)^2 + mu/2 (w - p)^2 with sigma = 2, mu = 1: its slope at w is 2 (w - z + u) + (w - p)."""
    w = torch.tensor([3.0], requires_grad=True)
    z, u, previous = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([2.0])
    anchor = (2 * (z - u) + previous) / 3
    state = State(tensors={"anchor/w.weight": anchor}, numbers={"sigma": 2.0})
    PADMM(proximal=0.5).penalty(view_of({"w.weight": w}, Budget()), state).backward()
    assert w.grad is not None
    assert 6.0 == pytest.approx(w.grad.item())  # 2 * 2.5 + 1


def test_dual_times_penalty_does_not_jump_when_sigma_grows() -> None:
    """Y = sigma U: after the step, sigma' U' = sigma (U + W - Z)."""
    values = {"w.weight": torch.tensor([3.0, 2.0, 0.5, 0.1])}
    view = view_of(values, Budget(keep={"w": 2}))
    method = PADMM(hardness=1.5, ramp=0.0, updates_per_epoch=1, sigma=1.0, sigma_growth=100)
    state = method.update(view, method.init(view, {}), Clock(1, 2, 1))
    assert 10.0 == pytest.approx(state.numbers["sigma"])
    torch.testing.assert_close(10 * state.tensors["u/w.weight"], torch.tensor([0.0, 0.0, 0.5, 0.1]))


def test_what_it_logs_by_hand() -> None:
    """theta = sqrt(2 lam / the last sigma, 8) = 1: Z goes from (3, 0.5) to (4, 0) while W = (4, 0.8)."""
    values = {"w.weight": torch.tensor([3.0, 0.5])}
    method = PADMM(lam=4.0, sigma=2.0, sigma_growth=4.0, hardness=1.5, ramp=0.0, updates_per_epoch=1)
    view = view_of(values, Budget())
    state = method.init(view, {})
    values["w.weight"] = torch.tensor([4.0, 0.8])
    size = math.sqrt(4.0**2 + 0.8**2)
    expected = {
        "surrogate": 1.0,  # sigma theta^2 / 2 times one nonzero
        "hardness": 1.5,
        "kept": 0.5,
        "sigma": 2.0,
        "primal_residual": 0.8 / size,
        "dual_residual": 2 * math.sqrt(1.0**2 + 0.5**2) / size,
    }
    assert expected == pytest.approx(method.update(view, state, Clock(1, 2, 1)).metrics)


def test_one_price_for_every_channel_by_hand() -> None:
    """kappa = lam / sigma = 1; capped-l1 at hardness 1 moves norms down by 1 up to 1.5 and leaves those above."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    before = torch.tensor([[3.0, 4.0], [0.75, 1.0], [0.8, 0.0]])  # norms 5, 1.25, 0.8
    model[0].weight.data.copy_(before)
    view = channel_view(model, Budget(), (2,))
    knobs = {"sigma": 1.0, "sigma_growth": 1.0, "hardness": 2 / 3, "proximal": 0.0, "ramp": 0.0, "updates_per_epoch": 1}
    method = PADMM(lam=1.0, surrogate="capped-l1", **knobs)  # type: ignore[arg-type]
    with torch.no_grad():
        state = method.update(view, method.init(view, {}), Clock(1, 2, 1))  # half way: sqrt(2/3 * 3/2) = 1
        z = torch.tensor([[3.0, 4.0], [0.15, 0.2], [0.0, 0.0]])
        torch.testing.assert_close(state.tensors["z/0.weight"], z)
        torch.testing.assert_close(state.tensors["u/0.weight"], before - z)
        # 1 where a norm is 1 or more, else the norm itself: lam (1 + 0.25 + 0)
        assert (1.25, 2 / 3) == pytest.approx((state.metrics["surrogate"], state.metrics["kept"]))
        model[0].weight.data.copy_(z)
        kept = method.finish(view, state).masks["0.weight"]  # hard at theta = sqrt(2): of 5, 1.25, 0.8 the first
    assert [[True, True], [False, False], [False, False]] == kept.tolist()


@pytest.mark.parametrize(
    "knobs", [{"shape": 1.0}, {"surrogate": "mcp", "shape": 1.9}, {"sigma": 0.0}, {"lam": -1.0}, {"hardness": 0.0}]
)
def test_impossible_knobs_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="padmm"):
        PADMM(**knobs)  # type: ignore[arg-type]
