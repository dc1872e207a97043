import itertools
import math

import pytest
import torch
from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.admm import ADMM
from tests.support import view_of


def least_squares(matrix: Tensor, target: Tensor, z: Tensor, u: Tensor, rho: float) -> Tensor:
    """argmin 0.5 ||A w - b||^2 + rho/2 ||w - z + u||^2, the exact W-step."""
    return torch.linalg.solve(matrix.T @ matrix + rho * torch.eye(len(z)), matrix.T @ target + rho * (z - u))


def best_subset(matrix: Tensor, target: Tensor, size: int) -> tuple[int, ...]:
    def loss(columns: tuple[int, ...]) -> float:
        part = matrix[:, list(columns)]
        return float((part @ torch.linalg.lstsq(part, target).solution - target).square().sum())

    return min(itertools.combinations(range(matrix.shape[1]), size), key=loss)


def test_finds_the_best_subset_of_a_quadratic() -> None:
    """Against exhaustive search over all supports, on well-separated random least-squares problems."""
    found = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(30, 8, generator=generator)
        truth = torch.zeros(8)
        truth[torch.randperm(8, generator=generator)[:3]] = 1 + torch.rand(3, generator=generator)
        target = matrix @ truth + 0.1 * torch.randn(30, generator=generator)
        values = {"w.weight": torch.linalg.lstsq(matrix, target).solution}
        method, view = ADMM(rho=0.5, updates_per_epoch=1, ramp=0.5), view_of(values, Budget(keep={"w": 3}))
        state = method.init(view, {})
        for step in range(1, 61):
            values["w.weight"] = least_squares(
                matrix, target, state.tensors["z/w.weight"], state.tensors["u/w.weight"], state.numbers["rho"]
            )
            state = method.update(view, state, Clock(step, 60, 1))
        mask = method.finish(view, state).masks["w.weight"]
        found += tuple(mask.nonzero().flatten().tolist()) == best_subset(matrix, target, 3)
    assert found >= 19


def test_penalty_is_the_scaled_augmented_lagrangian() -> None:
    values = {"w.weight": torch.tensor([1.0, 2.0], requires_grad=True)}
    # Z = (0, 2), U = (0.5, -1): the weights are drawn towards Z - U
    state = State(tensors={"anchor/w.weight": torch.tensor([-0.5, 3.0])}, numbers={"rho": 4.0})
    penalty = ADMM().penalty(view_of(values, Budget(keep={"w": 1})), state)
    assert 6.5 == penalty.item()  # 4/2 ((1 - 0 + 0.5)^2 + (2 - 2 - 1)^2)
    penalty.backward()
    assert [6.0, -4.0] == values["w.weight"].grad.tolist()  # type: ignore[union-attr]  # rho (W - Z + U)


def test_updates_by_hand() -> None:
    """W = (3, 1), one kept: Z = (3, 0), U = (0, 1); rho x4 divides U by 4."""
    values = {"w.weight": torch.tensor([3.0, 1.0])}
    method, view = (
        ADMM(rho=1.0, rho_growth=4.0, updates_per_epoch=1, ramp=0.0),
        view_of(values, Budget(keep={"w": 1})),
    )
    state = method.update(view, method.init(view, {}), Clock(1, 1, 1))
    assert [3.0, 0.0] == state.tensors["z/w.weight"].tolist()
    assert [0.0, 0.25] == state.tensors["u/w.weight"].tolist()
    assert 4.0 == state.numbers["rho"]


def test_residuals_by_hand() -> None:
    """Z goes from (3, 0) to (0, 2) while W = (1, 2): ||W - Z|| = 1, ||Z - Z_old||^2 = 13, ||W||^2 = 5."""
    values = {"w.weight": torch.tensor([3.0, 1.0])}
    method = ADMM(rho=2.0, rho_growth=16.0, updates_per_epoch=1, ramp=0.0)
    view = view_of(values, Budget(keep={"w": 1}))
    state = method.init(view, {})
    values["w.weight"] = torch.tensor([1.0, 2.0])
    logged = method.update(view, state, Clock(1, 2, 1)).metrics
    expected = {"rho": 2.0, "primal_residual": 1 / math.sqrt(5), "dual_residual": 2 * math.sqrt(13 / 5)}
    assert expected == pytest.approx(logged)


def test_growing_rho_leaves_the_unscaled_dual_variable() -> None:
    values = {"w.weight": torch.randn(50, generator=torch.Generator().manual_seed(0))}
    view = view_of(values, Budget(keep={"w": 5}))
    duals = []
    for growth in (1.0, 100.0):
        method = ADMM(rho=0.01, rho_growth=growth, updates_per_epoch=1, ramp=0.0)
        state = method.update(view, method.init(view, {}), Clock(1, 2, 1))
        duals.append(state.numbers["rho"] * state.tensors["u/w.weight"])
    torch.testing.assert_close(duals[0], duals[1])


def test_budget_tightens_along_the_ramp() -> None:
    values = {"w.weight": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    method, view = ADMM(updates_per_epoch=1, ramp=1.0), view_of(values, Budget(keep={"w": 10}))
    state, counts = method.init(view, {}), []
    for step in range(1, 5):
        state = method.update(view, state, Clock(step, 4, 1))
        counts.append(int(state.tensors["z/w.weight"].count_nonzero()))
    assert counts == sorted(counts, reverse=True)
    assert 10 == counts[-1] < counts[0] < 1000


def test_zeros_in_force_never_come_back() -> None:
    values = {"w.weight": torch.tensor([9.0, 3.0, 2.0, 1.0])}
    masks = {"w.weight": torch.tensor([False, True, True, True])}
    method, view = ADMM(), view_of(values, Budget(keep={"w": 2}))
    assert [False, True, True, False] == method.finish(view, method.init(view, masks)).masks["w.weight"].tolist()


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="rho > 0"):
        ADMM(rho=0.0)
