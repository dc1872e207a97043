from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.snip import SNIP
from compress.scoring import saliency
from tests.support import TinyNet, tiny_data, view_of
from tests.test_units import channel_units


def test_derivatives_add_up_over_mini_batches_before_their_absolute_value() -> None:
    """g w is 2 and -2, which cancel; 1 and 1; -3 and 0: the sensitivities are 0, 2 and 3."""
    view = view_of({"a.weight": torch.tensor([2.0, 1.0, -3.0])}, Budget(keep={"a": 2}))
    state = State()
    for step, grad in enumerate((torch.tensor([1.0, 1.0, 1.0]), torch.tensor([-1.0, 1.0, 0.0])), 1):
        state = SNIP().update(replace(view, grads={"a.weight": grad}), state, Clock(step, 2, 2))
    assert [0.0, 2.0, -3.0] == state.tensors["a"].tolist()
    assert [False, True, True] == SNIP().finish(view, state).masks["a.weight"].tolist()


def test_the_sensitivity_of_a_filter_is_the_derivative_by_a_gate_on_its_weights() -> None:
    torch.manual_seed(0)
    model = TinyNet().eval()
    images, labels = next(tiny_data().train.batches(16))
    gate = torch.ones(4, 1, 1, 1, requires_grad=True)
    values: dict[str, Tensor] = dict(model.named_parameters())
    gated = {**values, "conv1.weight": values["conv1.weight"] * gate}
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, gated, (images,)), labels)
    loss.backward(retain_graph=True)
    found = {name: value.grad for name, value in values.items() if value.grad is not None}
    view = replace(view_of(values, Budget()), units=channel_units(model), grads=found, prunable=("conv1.weight",))
    with torch.no_grad():
        torch.testing.assert_close(
            SNIP().update(view, State(), Clock(1, 1, 1)).tensors["conv1"], torch.autograd.grad(loss, gate)[0].flatten()
        )


def test_every_layer_of_a_rectified_network_without_biases_is_as_sensitive_as_the_next() -> None:
    """Scaling a layer scales the output, whichever it is (Tanaka et al. 2020, arXiv:2006.05467)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))
    nn.functional.cross_entropy(model(torch.randn(16, 5)), torch.arange(16) % 3).backward()
    values = dict(model.named_parameters())
    view = replace(view_of(values, Budget()), grads={n: v.grad for n, v in values.items() if v.grad is not None})
    first, second = (amount.sum().item() for amount in saliency(view, view.prunable).values())
    assert first == pytest.approx(second, rel=1e-4)
    assert abs(first) > 1e-3


def test_a_step_without_epochs_is_refused() -> None:
    with pytest.raises(UsageError, match="set epochs = 1"):
        SNIP().check(Budget(), 0)
