from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.method import State, View
from compress.methods.pfec import PFEC
from tests.support import TinyNet, view_of
from tests.test_units import Residual, channel_units


def view(model: nn.Module, budget: Budget) -> View:
    values = {name: value.detach() for name, value in model.named_parameters()}
    units = channel_units(model)
    return replace(view_of(values, budget), prunable=tuple(units.positions), units=units)


def kept(method: PFEC, given: View, layer: str, masks: dict[str, Tensor] | None = None) -> list[bool]:
    mask = method.finish(given, State(masks=masks or {})).masks[f"{layer}.weight"]
    assert torch.equal(mask.flatten(1).any(1), mask.flatten(1).all(1))
    return mask.flatten(1).all(1).tolist()


def rows(*amounts: float, shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(amounts).view(-1, *[1] * len(shape)).expand(-1, *shape).clone()


@torch.no_grad()
def test_filters_of_smallest_l1_norm_go() -> None:
    """Filter 0: nine weights of 1, L1 9, L2 3; filter 1: one weight of 5, L1 5, L2 5."""
    model = TinyNet()
    model.conv1.weight.copy_(rows(1, 0, 2, -3, shape=(1, 3, 3)))
    model.conv1.weight[1, 0, 0, 0] = 5
    model.conv1.bias.copy_(torch.tensor([0.0, 100, 0, 0]))  # the bias does not count
    assert [True, False, True, True] == kept(PFEC(), view(model, Budget(keep={"conv1": 3})), "conv1")


@torch.no_grad()
def test_coupled_filters_are_ranked_by_the_sum_of_their_norms() -> None:
    model = Residual()
    model.a.weight.copy_(rows(4, 1, 2, 3, shape=(1, 3, 3)))
    model.b.weight.copy_(rows(1, 1, 4, 1, shape=(4, 3, 3)))  # 9 * 4 weights a filter
    assert [True, False, True, True] == kept(PFEC(), view(model, Budget(keep={"a": 3})), "a")
    assert [True, False, True, False] == kept(PFEC(), view(model, Budget(keep={"a": 2})), "b")  # 72, 45, 162, 63


@torch.no_grad()
def test_greedy_does_not_count_kernels_that_read_removed_maps() -> None:
    """conv1 loses map 0; of conv2, filter 0 has most of its weight there: 9 (5 + 3) = 72 against 9 * 7 = 63."""
    model = TinyNet()
    model.conv1.weight.copy_(rows(1, 2, 3, 4, shape=(1, 3, 3)))
    model.conv2.weight.copy_(torch.full_like(model.conv2.weight, 3.0))
    model.conv2.weight[0] = rows(5, 1, 1, 1, shape=(3, 3))
    model.conv2.weight[1] = rows(1, 2, 2, 2, shape=(3, 3))
    given = view(model, Budget(keep={"conv1": 3, "conv2": 5}))
    assert [True, False, True, True, True, True] == kept(PFEC(), given, "conv2")
    assert [False, True, True, True, True, True] == kept(PFEC(selection="greedy"), given, "conv2")
    assert [False, True, True, True] == kept(PFEC(selection="greedy"), given, "conv1")


class Backwards(nn.Module):
    """The layer that runs last is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.second, self.first = nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


@torch.no_grad()
def test_greedy_goes_in_the_order_in_which_layers_run() -> None:
    """Unit 0 of the first layer goes; then unit 0 of the second has 3 left, unit 1 has 4, though 0 had 8 against 5."""
    model = Backwards()
    model.first.weight.copy_(rows(1, 2, 3, 4, shape=(64,)))
    model.second.weight.copy_(torch.tensor([[5.0, 1, 1, 1], [1, 2, 1, 1], [9, 9, 9, 9]]))
    given = view(model, Budget(keep={"first": 3, "second": 2}))
    assert ["first", "second"] == list(given.units.blocks)
    assert [True, False, True] == kept(PFEC(), given, "second")
    assert [False, True, True] == kept(PFEC(selection="greedy"), given, "second")


@pytest.mark.parametrize("budget", [Budget(keep={"conv1": 2, "conv2": 3}), Budget(macs=0.4), Budget(sparsity=0.5)])
def test_greedy_keeps_as_many_of_every_layer_as_independent_selection(budget: Budget) -> None:
    given = view(TinyNet(), budget)
    for layer in ("conv1", "conv2"):
        counts = [sum(kept(PFEC(selection=s), given, layer)) for s in ("independent", "greedy")]  # type: ignore[arg-type]
        assert counts[0] == counts[1]


@torch.no_grad()
def test_greedy_leaves_alone_what_an_earlier_step_took() -> None:
    model = TinyNet()
    model.conv1.weight[2] = 0
    gone = {"conv1.weight": torch.ones(4, 1, 3, 3, dtype=torch.bool), "conv1.bias": torch.ones(4, dtype=torch.bool)}
    for mask in gone.values():
        mask[2] = False
    found = kept(PFEC(selection="greedy"), view(model, Budget(keep={"conv1": 3})), "conv1", gone)
    assert [True, True, False, True] == found
