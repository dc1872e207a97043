import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.dsd import DSD
from tests.support import view_of

W = "w.weight"


def test_masked_then_released_from_zero() -> None:
    values = {W: torch.tensor([0.1, -2.0, 0.3, 4.0])}
    method, view = DSD(release=0.5), view_of(values, Budget(sparsity=0.5))
    masks = {W: torch.tensor([True, True, True, False])}  # the last was zero before
    state = method.init(view, masks)
    assert torch.equal(torch.tensor([0.0, -2.0, 0.3, 0.0]), method.effective(values, state, training=True)[W])
    answer = method.update(view, state, Clock(1, 4, 4))
    assert isinstance(answer, State)  # not yet
    answer = method.update(view, answer, Clock(2, 4, 4))
    assert isinstance(answer, tuple)
    state, new = answer
    assert torch.equal(torch.tensor([0.0, -2.0, 0.3, 0.0]), new[W])
    values[W].copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))  # the weight that was masked has learned again
    assert [1.0, 2.0, 3.0, 0.0] == method.effective(values, state, training=True)[W].tolist()
    assert isinstance(method.update(view, state, Clock(3, 4, 4)), State)  # released once
    assert torch.equal(masks[W], method.finish(view, state).masks[W])


def test_the_masked_part_has_no_gradient_and_the_released_one_has() -> None:
    w = torch.tensor([0.1, 2.0], requires_grad=True)
    state = DSD().init(view_of({W: w.detach()}, Budget(sparsity=0.5)), {})
    for now, expected in ((state, [0.0, 1.0]), (State(), [1.0, 1.0])):
        w.grad = None
        DSD().effective({W: w}, now, training=True)[W].sum().backward()
        assert w.grad is not None
        assert expected == w.grad.tolist()


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="release"):
        DSD(release=0.0)
