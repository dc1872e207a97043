import pytest
import torch
from torch import nn

from compress.budget import Budget
from compress.errors import UsageError
from compress.methods.ssl import SSL
from tests.support import channel_view, view_of


def chain() -> nn.Sequential:
    """Two inputs, two hidden channels with rows (3, 4) and (0, 0), no bias, one output."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))  # type: ignore[union-attr]
    return model


def test_penalty_and_gradient_of_a_group_by_hand() -> None:
    """sqrt(2) ||(3, 4)|| = 5 sqrt(2); the gradient is sqrt(2) (3, 4) / 5, and 0 for the group at 0."""
    model = chain()
    method, view = SSL(lam=0.1), channel_view(model, Budget(), (2,))
    penalty = method.penalty(view, method.init(view, {}))
    assert penalty.item() == pytest.approx(0.1 * 5 * 2**0.5)
    penalty.backward()
    gradient = torch.tensor([[0.6, 0.8], [0.0, 0.0]]) * 0.1 * 2**0.5
    torch.testing.assert_close(gradient, model[0].weight.grad)
    assert model[2].weight.grad is None  # a reader's columns belong to no group


def test_single_weights_get_the_l1_norm() -> None:
    values = {"w.weight": torch.tensor([1.0, -2.0, 0.0], requires_grad=True)}
    method, view = SSL(lam=0.1), view_of(values, Budget())
    penalty = method.penalty(view, method.init(view, {}))
    assert penalty.item() == pytest.approx(0.3)
    penalty.backward()
    torch.testing.assert_close(torch.tensor([0.1, -0.1, 0.0]), values["w.weight"].grad)


def test_descent_reaches_the_group_soft_threshold() -> None:
    """argmin 0.5 ||w - v||^2 + lam sqrt(2) ||w|| = v (1 - lam sqrt(2) / ||v||) for v = (3, 4)."""
    model, target = chain(), torch.tensor([3.0, 4.0])
    method, view = SSL(lam=1.0), channel_view(model, Budget(), (2,))
    state = method.init(view, {})
    for _ in range(200):
        loss = 0.5 * (model[0].weight[0] - target).square().sum() + method.penalty(view, state)
        (gradient,) = torch.autograd.grad(loss, [model[0].weight])
        with torch.no_grad():
            model[0].weight -= 0.1 * gradient
    torch.testing.assert_close(target * (1 - 2**0.5 / 5), model[0].weight[0].detach())


def test_groups_of_smallest_norm_go() -> None:
    view = channel_view(chain(), Budget(keep={"0": 1}), (2,))
    method = SSL()
    masks = method.finish(view, method.init(view, {})).masks
    assert [[True, True], [False, False]] == masks["0.weight"].tolist()


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="lam >= 0"):
        SSL(lam=-1.0)
