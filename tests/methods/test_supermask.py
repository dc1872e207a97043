import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.supermask import Supermask
from tests.support import view_of

W = "w.weight"


def test_the_gradient_of_a_score_is_that_of_the_used_weight_times_the_weight() -> None:
    scores = torch.tensor([1.0, 0.5, 9.0], requires_grad=True)
    masks = {W: torch.tensor([True, True, False])}
    state = State(masks, {W: scores}, {f"mask/{W}": torch.tensor([True, False, False])})
    used = Supermask().effective({W: torch.tensor([2.0, -3.0, 4.0])}, state, training=True)[W]
    assert [2.0, 0.0, 0.0] == used.tolist()
    used.backward(torch.tensor([5.0, 7.0, 1.0]))
    assert scores.grad is not None
    assert [10.0, -21.0, 0.0] == scores.grad.tolist()  # of the dropped weight as well, not of the zero in force


def test_descent_on_the_scores_finds_the_weights_that_matter() -> None:
    """Of four weights of 1, the two that the target has: 1/2 ||w m - a||^2 with a = (0, 1, 0, 1)."""
    values, target = {W: torch.ones(4)}, torch.tensor([0.0, 1.0, 0.0, 1.0])
    method, view = Supermask(), view_of(values, Budget(keep={"w": 2}))
    with torch.no_grad():
        state = method.init(view, {})
    assert [1.0, 1.0, 0.0, 0.0] == method.effective(values, state, training=False)[W].tolist()
    used = method.effective(values, state, training=True)[W]
    (0.5 * (used - target).square().sum()).backward()
    scores = state.trainable[W]
    with torch.no_grad():
        scores -= 0.1 * scores.grad  # type: ignore[operator]
        state = method.update(view, state, Clock(1, 1, 1))
        assert torch.equal(target.bool(), method.finish(view, state).masks[W])
    assert torch.equal(target, method.effective(values, state, training=False)[W])
    assert 2.0 == state.metrics["changed"]


def test_scores_start_in_the_order_of_the_magnitudes() -> None:
    view = view_of({W: torch.tensor([1.0, -4.0, 3.0, 0.0])}, Budget(keep={"w": 2}))
    with torch.no_grad():
        state = Supermask().init(view, {})
    assert [0.5, 2.0, 1.5, 0.0] == state.trainable[W].tolist()
    assert [False, True, True, False] == state.tensors[f"mask/{W}"].tolist()


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="updates_per_epoch"):
        Supermask(updates_per_epoch=0)
