import pytest
import torch
from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.greg import GReg
from tests.support import view_of


def descend(method: GReg, goal: Tensor, curvature: Tensor, keep: int, steps: int = 200) -> tuple[Tensor, State, State]:
    """Gradient steps on 0.5 sum h (w - goal)^2 + penalty from w = goal; weights, first and last state."""
    values = {"w.weight": goal.clone().requires_grad_()}
    view = view_of(values, Budget(keep={"w": keep}))
    state = first = method.init(view, {})
    for step in range(1, steps + 1):
        loss = 0.5 * (curvature * (values["w.weight"] - goal).square()).sum() + method.penalty(view, state)
        (gradient,) = torch.autograd.grad(loss, [values["w.weight"]])
        with torch.no_grad():
            values["w.weight"] -= 0.2 * gradient
            state = method.update(view, state, Clock(step, steps, steps))
    return values["w.weight"].detach(), first, state


def test_coefficient_grows_in_equal_steps_and_rests() -> None:
    """Four raises to 1 within half the run: 0.25 at each eighth."""
    method = GReg(ceiling=1.0, raises=4, growth=0.5)
    assert [0.0, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0] == [
        method.coefficient(p) for p in (0.0, 0.125, 0.24, 0.25, 0.375, 0.5, 0.7, 1.0)
    ]


def test_the_papers_schedule_is_reached_by_its_values() -> None:
    """110,000 steps of which 100,000 raise the coefficient: 1e-4 more every 10."""
    method = GReg(growth=100 / 110)
    found = [method.coefficient(step / 110_000) for step in (9, 10, 19, 20, 50_000, 100_000, 110_000)]
    assert [0.0, 1e-4, 1e-4, 2e-4, 0.5, 1.0, 1.0] == pytest.approx(found)


def test_greg_2_goes_on_from_where_it_picked() -> None:
    method = GReg("greg-2", raises=1000, picking=0.2, pick_ceiling=0.01, growth=0.7)
    found = [method.coefficient(p) for p in (0.0, 0.1, 0.2, 0.45, 0.7, 1.0)]
    assert [0.0, 0.005, 0.01, 0.505, 1.0, 1.0] == pytest.approx(found)


def test_penalty_by_hand() -> None:
    values = {"w.weight": torch.tensor([3.0, -1.0, 2.0], requires_grad=True)}
    method, view = GReg(), view_of(values, Budget(keep={"w": 1}))
    state = State(tensors=method.init(view, {}).tensors, numbers={"coefficient": 0.5})
    penalty = method.penalty(view, state)
    assert 0.25 * (1 + 4) == penalty.item()
    penalty.backward()
    assert [0.0, -0.5, 1.0] == values["w.weight"].grad.tolist()  # type: ignore[union-attr]  # eta W, of the picked


def test_picked_weights_follow_the_minimum_of_the_penalised_loss_and_the_others_stay() -> None:
    """At rest w = h / (h + eta) goal: with h = 0.1 and eta = 1 an eleventh of where it started."""
    goal, curvature = torch.tensor([1.0, 0.9, 0.8]), torch.full((3,), 0.1)
    w, first, last = descend(GReg(growth=0.5), goal, curvature, keep=1)
    torch.testing.assert_close(torch.tensor([1.0, 0.9 / 11, 0.8 / 11]), w, rtol=1e-4, atol=1e-5)  # iterated, not solved
    assert torch.equal(first.tensors["kept/w.weight"], last.tensors["kept/w.weight"])


def test_greg_2_picks_by_curvature_where_greg_1_picks_by_size() -> None:
    """The larger weight sits in a flat valley: a uniform penalty pulls it below the smaller one."""
    goal, curvature = torch.tensor([1.0, 0.9]), torch.tensor([0.01, 1.0])
    picks = {}
    for variant in ("greg-1", "greg-2"):
        method = GReg(variant, picking=0.5, pick_ceiling=0.1)  # type: ignore[arg-type]
        picks[variant] = descend(method, goal, curvature, keep=1)[2].tensors["kept/w.weight"].tolist()
    assert {"greg-1": [True, False], "greg-2": [False, True]} == picks


def test_greg_2_weighs_all_until_it_picks_and_picks_even_without_training() -> None:
    values = {"w.weight": torch.tensor([3.0, 1.0])}
    method, view = GReg("greg-2"), view_of(values, Budget(keep={"w": 1}))
    state = method.init(view, {})
    assert [False, False] == state.tensors["kept/w.weight"].tolist()
    assert [True, False] == method.finish(view, state).masks["w.weight"].tolist()


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="greg-1 or greg-2"):
        GReg("greg-3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="picking < growth"):
        GReg(picking=0.95)
