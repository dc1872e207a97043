from dataclasses import replace

import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.gradual import Gradual
from tests.support import view_of

W = "w.weight"


def test_follows_the_cubic_schedule() -> None:
    """Zhu and Gupta's eq. 1 with s_f = 0.9 on 1000 weights: half way 1 - 0.9 (1 - 1/8) = 0.2125 stay."""
    view = view_of({"w.weight": torch.rand(1000, generator=torch.Generator().manual_seed(0))}, Budget(sparsity=0.9))
    method = Gradual(updates_per_epoch=1, ramp=1.0)
    state = method.update(view, State(), Clock(1, 2, 1))
    assert 212 == int(state.masks["w.weight"].sum())
    assert 100 == int(method.update(view, state, Clock(2, 2, 1)).masks["w.weight"].sum())


def test_saliency_by_hand() -> None:
    """h = 0.5 g1^2 + 0.5 g2^2 = (1, 5, 4, 20): w^2 h = (9, 5, 16, 20), where the norms would drop the last."""
    view = view_of({W: torch.tensor([3.0, 1.0, 2.0, -1.0])}, Budget(keep={"w": 2}))
    method = Gradual(updates_per_epoch=1, ramp=1.0, criterion="obd", memory=0.5)
    first = replace(view, grads={W: torch.tensor([1.0, -1.0, 2.0, 2.0])})
    second = replace(view, grads={W: torch.tensor([-1.0, 3.0, 2.0, 6.0])})
    state = method.update(first, State(), Clock(1, 2, 2))
    assert [1.0, 1.0, 4.0, 4.0] == state.tensors[W].tolist()
    state = method.update(second, state, Clock(2, 2, 2))
    assert [1.0, 5.0, 4.0, 20.0] == state.tensors[W].tolist()
    assert [False, False, True, True] == state.masks[W].tolist()
    assert [False, False, True, True] == method.finish(second, replace(state, masks={})).masks[W].tolist()
    norms = replace(method, criterion="norm")
    assert [True, False, True, False] == norms.finish(second, State()).masks[W].tolist()


def test_saliency_predicts_the_rise_of_a_quadratic_loss() -> None:
    """Of y = x w with independent x of deviation d, dropping w_i raises the mean square by (w_i d_i)^2; at the
    minimum the gradient of a sample with unit noise e is e x, so h is d^2 and both agree."""
    generator = torch.Generator().manual_seed(0)
    w, d = torch.tensor([1.0, 0.2, 0.5]), torch.tensor([0.1, 1.0, 3.0])
    view, state = view_of({W: w}, Budget(sparsity=0.5)), State()
    method = Gradual(criterion="obd", memory=0.9995, updates_per_epoch=1)
    for step in range(1, 20_001):
        grad = torch.randn((), generator=generator) * torch.randn(3, generator=generator) * d
        state = method.update(replace(view, grads={W: grad}), state, Clock(step, 40_000, 40_000))
    torch.testing.assert_close(w.square() * state.tensors[W], (w * d).square(), rtol=0.15, atol=0.0)


@pytest.mark.parametrize("knob", [{"ramp": 0.0}, {"memory": 1.0}, {"updates_per_epoch": 0}])
def test_impossible_knobs_are_refused(knob: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="gradual needs"):
        Gradual(**knob)  # type: ignore[arg-type]


def test_saliency_without_an_epoch_is_refused() -> None:
    with pytest.raises(UsageError, match="epochs = 1"):
        Gradual(criterion="obd").check(Budget(sparsity=0.5), 0)
    Gradual().check(Budget(sparsity=0.5), 0)


def test_starts_from_the_sparsity_there_is() -> None:
    """From 0.5 to 0.1, half way: 0.1 + 0.4 / 8 = 0.15 stay."""
    view = view_of({"w.weight": torch.rand(1000, generator=torch.Generator().manual_seed(0))}, Budget(sparsity=0.9))
    method = Gradual(updates_per_epoch=1, ramp=1.0)
    state = method.update(replace(view, start=0.5), State(), Clock(1, 2, 1))
    assert 150 == int(state.masks["w.weight"].sum())
