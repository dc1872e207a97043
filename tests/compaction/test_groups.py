"""Channel groups: the law that ties them to `compact`, and their costs by hand."""

import pytest
import torch
from torch import nn

from compress.compaction import ChannelGroup, channel_groups, compact
from tests.compaction.nets import REFERENCE, build, example, prepared
from tests.compaction.zoo import ZOO


@torch.no_grad()
def zero(model: nn.Module, groups: list[ChannelGroup]) -> None:
    tensors = dict(model.named_parameters())
    for group in groups:
        for part in group.slices:
            if part.producer:
                tensors[part.name].index_fill_(part.axis, torch.tensor(part.indices), 0.0)


def lengths(model: nn.Module) -> dict[tuple[str, int], int]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {(name, axis): length for name, t in named.items() for axis, length in enumerate(t.shape)}


def assert_law(model: nn.Module, x: torch.Tensor) -> None:
    """Every second group with its producers zero is cut from every slice, and exactly."""
    groups = channel_groups(model, x)
    chosen = [group for group in groups if group.removable_exactly][::2]
    assert chosen
    expected = lengths(model)
    for group in chosen:
        for part in group.slices:
            expected[part.name, part.axis] -= len(part.indices)
    zero(model, chosen)
    found = lengths(compact(model, x).model)
    assert [] == [key for key, length in expected.items() if found[key] > length]


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_zeroed_groups_are_removed_everywhere(name: str) -> None:
    assert_law(*build(name))


@pytest.mark.parametrize(
    "name", ["depthwise", "grouped", "prelu", "layer-scale", "tied", "shared-no-bias", "concat-self", "attention"]
)
def test_zeroed_groups_of_the_zoo_are_removed(name: str) -> None:
    assert_law(prepared(ZOO[name]), example((3, 8, 8)))


def test_costs_of_a_hidden_unit_and_of_a_residual_channel() -> None:
    (unit, *_) = channel_groups(*build("mlp"))
    assert ("fc1.weight", "fc1.bias", "fc2.weight") == tuple(part.name for part in unit.slices)
    assert (True, True, False) == tuple(part.producer for part in unit.slices)
    assert 16 + 8 == unit.weights == unit.macs  # a row of fc1 and a column of fc2
    (channel, *_) = channel_groups(*build("mobilenet"))
    # a filter 3 x 3 x 3 of the stem, a column of the expansion, a row of the projection, a column of the head
    assert 27 + 16 + 16 + 4 == channel.weights
    assert 27 * 16 + 16 * 16 + 16 * 16 + 4 == channel.macs  # the maps are 4 x 4, the head sees one position


def test_depthwise_rows_and_normalisation_are_producers_running_statistics_are_not() -> None:
    groups = channel_groups(*build("mobilenet"))
    (group,) = [g for g in groups if any(p.name == "block.3.weight" and p.indices == (2,) for p in g.slices)]
    producers = {part.name for part in group.slices if part.producer}
    assert {"block.0.weight", "block.1.weight", "block.1.bias", "block.3.weight"} <= producers
    others = {(part.name, part.axis) for part in group.slices if not part.producer}
    assert {("block.1.running_mean", 0), ("block.6.fc1.weight", 1), ("block.7.weight", 1)} <= others
    assert ("block.6.fc2.weight", 0) in {(part.name, part.axis) for part in group.slices if part.producer}


def test_outputs_inputs_and_padded_channels_are_in_no_group() -> None:
    model, x = build("resnet-a")
    axes = {(part.name, part.axis) for group in channel_groups(model, x) for part in group.slices}
    assert ("linear.weight", 0) not in axes
    assert ("conv1.weight", 1) not in axes
    parts = [part for group in channel_groups(model, x) for part in group.slices]
    rows = {i for p in parts if (p.name, p.axis) == ("layers.2.conv2.weight", 0) for i in p.indices}
    assert set(range(4, 12)) == rows  # 4 channels on either side are padded with zeros


def test_layer_norm_channels_can_not_go_exactly() -> None:
    groups = channel_groups(prepared(ZOO["layer-norm"]), example((3, 8, 8)))
    made_by = {part.name: group.removable_exactly for group in groups for part in group.slices if part.producer}
    assert {"conv1.weight": False, "conv2.weight": True} == {k: made_by[k] for k in ("conv1.weight", "conv2.weight")}


def test_gate_that_is_not_zero_at_zero_is_not_exact_before_padding() -> None:
    class Sigmoid(nn.Module):
        def __init__(self, padding: int) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 3, padding=padding)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.sigmoid(self.a(x)))

    for padding, exact in ((0, {True}), (1, {False})):
        groups = channel_groups(Sigmoid(padding), example((3, 6, 6)))
        assert 6 == len(groups)
        assert exact == {group.removable_exactly for group in groups}
