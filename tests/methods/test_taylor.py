from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Values
from compress.method import Clock, State, View
from compress.methods.taylor import Taylor
from tests.support import FunctionProbe, TinyNet, TinyNormedNet, tiny_data, view_of
from tests.test_units import channel_units


def test_squares_are_averaged_over_mini_batches_and_not_the_sums_squared() -> None:
    """g w of weight 0 is 2 and -2, which cancel; of weight 1 it is 1 and 1: 8 against 2, and 0 against 4."""
    view = view_of({"a.weight": torch.tensor([2.0, 1.0])}, Budget(keep={"a": 1}))
    state = State()
    for step, grad in enumerate((torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])), 1):
        state = Taylor().update(replace(view, grads={"a.weight": grad}), state, Clock(step, 2, 2))
    assert [8.0, 2.0] == state.tensors["a"].tolist()
    assert [True, False] == Taylor().finish(view, state).masks["a.weight"].tolist()


def test_products_of_one_unit_are_summed_before_they_are_squared() -> None:
    model = TinyNet()
    values = {name: torch.ones_like(value) for name, value in model.named_parameters()}
    grads = {name: torch.zeros_like(value) for name, value in values.items()}
    grads["conv1.weight"][0, 0, 0] = torch.tensor([1.0, 2.0, -3.0])  # a filter whose products cancel
    grads["conv1.weight"][1, 0, 0] = torch.tensor([1.0, 2.0, 0.0])
    grads["conv1.bias"][0] = 2.0
    view = replace(view_of(values, Budget()), units=channel_units(model), grads=grads, prunable=("conv1.weight",))
    assert [0.0, 3.0, 0.0, 0.0] == Taylor(gate="weights").derivatives(view)["conv1"].tolist()
    assert [2.0, 3.0, 0.0, 0.0] == Taylor().derivatives(view)["conv1"].tolist()  # no normalisation: bias as well


@pytest.mark.parametrize("gate", ["output", "weights"])
@pytest.mark.parametrize("network", [TinyNet, TinyNormedNet])
def test_it_is_the_derivative_by_a_gate_put_into_the_network(gate: str, network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = network().eval()
    for name, parameter in model.named_parameters():
        if name.startswith("norm"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    images, labels = next(tiny_data().train.batches(16))
    gates = {"1": torch.ones(4, requires_grad=True), "2": torch.ones(6, requires_grad=True)}
    normed = network is TinyNormedNet
    where = "norm" if normed and gate == "output" else "conv"
    before_bias = not normed and gate == "weights"

    def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        number = next(n for n, m in ((n, model.get_submodule(f"{where}{n}")) for n in gates) if m is module)
        opened = gates[number].view(-1, 1, 1)
        bias = module.get_parameter("bias").view(-1, 1, 1) if before_bias else 0.0
        return (out - bias) * opened + bias

    handles = [model.get_submodule(f"{where}{n}").register_forward_hook(hook) for n in gates]
    nn.functional.cross_entropy(model(images), labels).backward()
    for handle in handles:
        handle.remove()
    view = _view(model)
    found = Taylor(gate=gate).derivatives(view)  # type: ignore[arg-type]  # a parameter of the test
    for number, opened in gates.items():
        torch.testing.assert_close(found[f"conv{number}"], opened.grad)


def _view(model: nn.Module) -> View:
    """With the gradients that the model holds."""
    values: Values = {name: value.detach() for name, value in model.named_parameters()}
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    units = channel_units(model)
    scales = tuple(name for name in values if name.startswith("norm") and name.endswith("weight"))
    return View(values, tuple(units.positions), units, Budget(), grads, lambda kept: kept, FunctionProbe(), scales)


def test_a_parameter_without_a_gradient_ranks_last() -> None:
    values = {"a.weight": torch.ones(2), "unused.weight": torch.ones(2)}
    view = replace(view_of(values, Budget(sparsity=0.25)), grads={"a.weight": torch.tensor([1.0, -1.0])})
    masks = Taylor().finish(view, Taylor().update(view, State(), Clock(1, 1, 1))).masks
    assert [True, True] == masks["a.weight"].tolist()
    assert [True, False] == masks["unused.weight"].tolist()  # one unit per layer stays


def test_a_step_without_epochs_is_refused() -> None:
    with pytest.raises(UsageError, match="set epochs = 1"):
        Taylor().check(Budget(), 0)
