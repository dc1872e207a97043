"""Modules in the styles of other libraries: half of their groups zeroed, removed, exact, trained, restored."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.compaction import channel_groups, compact, remove, restore, survey
from compress.compaction.inputs import Example
from tests.compaction.nets import prepared
from tests.compaction.test_groups import lengths, zero
from tests.compaction.zoo_transformers import TRANSFORMERS
from tests.compaction.zoo_vision import VISION

MODULES = {**TRANSFORMERS, **VISION}


def results(model: nn.Module, inputs: Any) -> list[Tensor]:
    call = Example.of(inputs)
    return [leaf for leaf in tree_leaves(model(*call.args, **call.kwargs)) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_half_of_the_groups_go_and_the_rest_is_the_same_network(name: str) -> None:
    factory, inputs = MODULES[name]
    model = prepared(factory).double()
    chosen = [group for group in channel_groups(model, inputs()) if group.removable_exactly][::2]
    assert chosen
    expected = lengths(model)
    for part in (part for group in chosen for part in group.slices):
        expected[part.name, part.axis] -= len(part.indices)
    zero(model, chosen)
    result = compact(model, inputs())
    found = lengths(result.model)
    assert [] == [key for key, length in expected.items() if found[key] > length]

    unseen = inputs(3, seed=5)  # another batch size
    with torch.no_grad():
        for before, after in zip(results(model, unseen), results(result.model, unseen), strict=True):
            assert float((before - after).abs().max()) <= 1e-12 * float(before.abs().max())
    rebuilt = restore(prepared(factory, seed=4).double(), result.model.state_dict(), restored(result.attributes))
    assert all(map(torch.equal, results(result.model, unseen), results(rebuilt, unseen)))

    narrow = result.model.train()
    torch.stack([leaf.square().sum() for leaf in results(narrow, unseen)]).sum().backward()
    assert [] == [key for key, parameter in narrow.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", ["bert", "bit", "crnn", "generator", "swin"])
def test_structural_removal_of_zeros_changes_nothing(name: str) -> None:
    factory, inputs = MODULES[name]
    model = prepared(factory).double()
    chosen = [group for group in channel_groups(model, inputs()) if group.removable_exactly][1::2]
    zero(model, chosen)
    narrow = remove(model, inputs(), chosen).model
    unseen = inputs(3, seed=5)
    for before, after in zip(results(model, unseen), results(narrow, unseen), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)  # float64 rounding


def restored(attributes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The attributes after a way through a file."""
    return json.loads(json.dumps(attributes))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vit-fused", {"attn.qkv": 2, "mlp.fc1": 16}),  # two heads, each with its queries, keys and values
        ("vit-written-out", {"attn.qkv": 2, "mlp.fc1": 16}),
        ("vit-einsum", {"attn.q": 2, "mlp.fc1": 16}),
        ("bert", {"attention.query": 2, "intermediate": 16, "pooler": 8}),
        ("gpt", {"c_attn": 2, "c_fc": 16}),
        ("llama", {"q_proj": 2, "gate_proj": 12}),  # four heads share two keys
        ("swin", {"attn.qkv": 2, "mlp.fc1": 16, "reduction": 16}),
        ("mixer", {"channels.fc1": 16}),
        ("convnext", {"mlp.fc1": 16}),
        ("unet", {"first.0": 6, "first.3": 6, "second.0": 8, "second.3": 8, "up": 6, "third.0": 6, "third.3": 6}),
        ("pyramid", {"stages.0": 6, "stages.1": 8, "stages.2": 10, "inner.2": 6}),  # the inner maps are added
        ("shufflenet", {"stem": 8, "branch.0": 4, "branch.5": 4, "last": 6}),
        ("bit", {"hidden": 5}),
        ("parametrised", {"hidden": 8}),
        ("efficientnet", {"stem": 8, "expand": 16, "reduce": 4}),
        ("crnn", {"conv": 6, "lstm": 5}),
        ("generator", {"down.1": 8, "up.0": 8, "up.3": 3}),  # four filters make one channel of the large image
    ],
)
def test_groups_that_can_go_exactly(name: str, layers: dict[str, int]) -> None:
    factory, inputs = MODULES[name]
    counts: dict[str, int] = {}
    for group in channel_groups(prepared(factory).double(), inputs()):
        if group.removable_exactly:
            layer = next(part.name for part in group.slices if part.producer).rpartition(".")[0]
            counts[layer] = counts.get(layer, 0) + 1
    assert layers == counts


def test_computed_weights_are_frozen_and_named() -> None:
    for name, operators in (
        ("bit", ("aten.conv2d in conv1 (its weight is computed in the forward pass)",)),
        ("parametrised", (
            "aten.conv2d in first (its weight is computed in the forward pass)",
            "aten._weight_norm in conv.parametrizations.weight.0 (no rule)",
            "aten.conv2d in conv (its weight is computed in the forward pass)",
        )),
    ):  # fmt: skip
        factory, inputs = MODULES[name]
        assert operators == survey(prepared(factory).double(), inputs()).frozen_operators


def test_stochastic_depth_still_drops_in_training() -> None:
    factory, inputs = MODULES["efficientnet"]
    model = prepared(factory).double()
    zero(model, [g for g in channel_groups(model, inputs()) if g.removable_exactly][::2])
    narrow = compact(model, inputs()).model
    for module in narrow.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    narrow.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = inputs(64)
        kept = (narrow(batch) - narrow(batch)).abs().amax(1)
    assert 0 < int((kept > 1e-9).sum()) < 64  # dropped with probability 0.1, another draw each time


def test_tied_tables_stay_one_tensor() -> None:
    factory, inputs = MODULES["gpt"]
    model = prepared(factory).double()
    zero(model, [g for g in channel_groups(model, inputs()) if g.removable_exactly][:1])
    narrow = compact(model, inputs()).model
    assert narrow.lm_head.weight is narrow.wte.weight
