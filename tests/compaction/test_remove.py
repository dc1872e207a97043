"""Structural removal: published multiply-accumulates, what cannot go exactly, and what is refused."""

import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn

from compress import cost
from compress.compaction import ChannelGroup, channel_groups, compact, remove, restore
from compress.compaction.groups import Slice
from compress.errors import UsageError
from compress_models import load
from tests.compaction.nets import build, example, prepared
from tests.compaction.test_groups import zero
from tests.compaction.zoo import ZOO, Body


def made_by(groups: list[ChannelGroup], layer: str) -> list[ChannelGroup]:
    """Groups whose channels one layer makes, and no other convolution."""
    rows = [[p.name for p in g.slices if p.producer and p.axis == 0 and "conv" in p.name] for g in groups]
    return [group for group, names in zip(groups, rows, strict=True) if names == [f"{layer}.weight"]]


def pfec_macs(name: str, kept: dict[str, float]) -> int:
    """MACs after keeping int(channels * share) filters of each layer."""
    model = load(name).eval()
    x = torch.zeros(2, 3, 32, 32)
    groups = channel_groups(model, x)
    chosen: list[ChannelGroup] = []
    for layer, share in kept.items():
        own = made_by(groups, layer)
        assert own, layer
        chosen += own[int(len(own) * share) :]
    result = remove(model, x, chosen)
    assert not result.rewritten
    return cost.macs(result.model, (3, 32, 32))


def resnet56(shares: tuple[float, float, float], skip: set[int]) -> dict[str, float]:
    """First convolutions of the blocks, numbered 2, 4, ... 54 (Li et al. 2017, section 4.2)."""
    blocks = [(stage, block) for stage in range(3) for block in range(9)]
    return {
        f"layer{stage + 1}.{block}.conv1": shares[stage]
        for number, (stage, block) in zip(range(2, 56, 2), blocks, strict=True)
        if number not in skip
    }


def test_pfec_resnet56_a_and_b_to_the_digit() -> None:
    assert 112_435_840 == pfec_macs("resnet56", resnet56((0.9, 0.9, 0.9), {16, 20, 38, 54}))
    assert 90_907_264 == pfec_macs("resnet56", resnet56((0.4, 0.7, 0.9), {16, 18, 20, 34, 38, 54}))


def test_pfec_vgg16_a_to_the_digit() -> None:
    convolutions = [name for name, m in load("vgg16").named_modules() if isinstance(m, nn.Conv2d)]
    assert 13 == len(convolutions)
    halved = [convolutions[0], *convolutions[7:]]
    groups_of = {name.removesuffix(".weight"): 0.5 for name in halved}
    model = load("vgg16").eval()
    x = torch.zeros(2, 3, 32, 32)
    groups = channel_groups(model, x)
    chosen: list[ChannelGroup] = []
    for layer in groups_of:
        own = [g for g in groups if g.slices[0].name == f"{layer}.weight"]
        chosen += own[: len(own) // 2]
    result = remove(model, x, chosen)
    assert 313_463_808 == cost.macs(model, (3, 32, 32))
    assert 206_279_680 == cost.macs(result.model, (3, 32, 32))


def test_removal_of_zeroed_groups_is_compaction() -> None:
    model, x = build("mobilenet")
    groups = [group for group in channel_groups(model, x) if group.removable_exactly][::3]
    zero(model, groups)
    removed, compacted = remove(model, x, groups), compact(model, x)
    assert removed.layers == compacted.layers
    with torch.no_grad():
        torch.testing.assert_close(removed.model(x), compacted.model(x))


class Stream(nn.Module):
    """A residual stream through layer normalisation: nothing of it goes exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.norm, self.hidden, self.back = nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.back(torch.relu(self.hidden(self.norm(x))))
        return self.head(self.last(x))


def by_hand(model: Stream, kept: list[int], x: Tensor) -> Tensor:
    """The stream with only some of its channels."""

    def normal(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps)

    x = nn.functional.linear(x, model.embed.weight[kept], model.embed.bias[kept])
    h = torch.relu(nn.functional.linear(normal(model.norm, x), model.hidden.weight[:, kept], model.hidden.bias))
    x = x + nn.functional.linear(h, model.back.weight[kept], model.back.bias[kept])
    return nn.functional.linear(normal(model.last, x), model.head.weight[:, kept], model.head.bias)


def test_a_stream_through_layer_normalisation_is_cut_as_if_it_had_never_been() -> None:
    model = prepared(Stream)
    x = torch.randn(4, 5)
    stream = [group for group in channel_groups(model, x) if not group.removable_exactly]
    assert 8 == len(stream)
    result = remove(model, x, [stream[1], stream[6]])
    assert not result.rewritten
    assert (6,) == result.model.norm.normalized_shape
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), by_hand(model, [0, 2, 3, 4, 5, 7], x))


def test_an_attention_head_goes_with_all_that_belongs_to_it() -> None:
    model = prepared(lambda: Body(ZOO["attention"]().middle))
    x = example((3, 8, 8))
    heads = [g for g in channel_groups(model, x) if any("in_proj_weight" in p.name and p.axis == 0 for p in g.slices)]
    assert 2 == len(heads)
    rows = next(p for p in heads[0].slices if "in_proj_weight" in p.name and p.axis == 0)
    assert (0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19) == rows.indices  # queries, keys, values of the first head
    result = remove(model, x, heads[:1])
    assert result.rewritten
    attention = result.model.middle.attention
    assert ((12, 8), (8, 4)) == (tuple(attention.in_proj_weight.shape), tuple(attention.out_proj.weight.shape))
    with torch.no_grad():
        found = result.model(x)
        zero(model, heads[:1])
        torch.testing.assert_close(found, model(x))
        assert found.shape == result.model(x[:1]).repeat(2, 1).shape  # any batch size
    rebuilt = restore(
        prepared(lambda: Body(ZOO["attention"]().middle), seed=3),
        result.model.state_dict(),
        json.loads(json.dumps(result.attributes)),
    ).eval()
    with torch.no_grad():
        assert torch.equal(found, rebuilt(x))


def test_the_original_is_untouched_and_the_result_trains() -> None:
    model, x = build("resnet-a")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = made_by(channel_groups(model, x), "layers.0.conv1")
    narrow = remove(model, x, groups[:3]).model
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    narrow.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in narrow.parameters())


def test_groups_of_another_model_and_whole_layers_are_refused() -> None:
    model, x = build("mlp")
    groups = channel_groups(model, x)
    with pytest.raises(UsageError, match=r"take all of fc1\.weight axis 0"):
        remove(model, x, groups[:12])
    part = dataclasses.replace(groups[0], slices=groups[0].slices[:1])
    with pytest.raises(UsageError, match="the groups do not cover"):
        remove(model, x, [part])
    foreign = dataclasses.replace(groups[0], slices=(Slice("fc9.weight", 0, (0,), True),))
    with pytest.raises(UsageError, match=r"fc9\.weight axis 0 has no channels"):
        remove(model, x, [foreign])
