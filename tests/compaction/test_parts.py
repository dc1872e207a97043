"""Ids, the rule table, movements on ids, restoring, and export of the result."""

import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.compaction import compact, restore
from compress.compaction.ids import ChannelIds, collapse, squash
from compress.compaction.rules_movement import aligned_axes
from compress.compaction.table import aten, functional, rule
from compress.errors import UsageError
from tests.compaction.nets import build, example, prepared, zero_rows
from tests.compaction.zoo import ZOO

PAIRS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12)


@given(pairs=PAIRS)
def test_ties_are_the_smallest_equivalence(pairs: list[tuple[int, int]]) -> None:
    ids = ChannelIds()
    ids.fresh(12)
    ids.tie(*(torch.tensor(side) for side in zip(*pairs, strict=True)))
    classes = {i: {i} for i in range(1, 13)}
    for a, b in pairs:
        union = classes[a] | classes[b]
        classes.update(dict.fromkeys(union, union))
    roots = ids.find(torch.arange(13)).tolist()
    assert [min(classes[i]) for i in range(1, 13)] == roots[1:]


def test_meeting_no_channel_freezes_the_class() -> None:
    ids = ChannelIds()
    a, b = ids.fresh(2), ids.fresh(2)
    ids.tie(a, b)
    ids.tie(b, torch.tensor([0, 4]))
    assert [True, False] == ids.frozen(exact=True)[ids.find(a)].tolist()
    ids.freeze(a[1:], exact_only=True)
    assert [True, False] == ids.frozen(exact=False)[ids.find(b)].tolist()
    assert [True, True] == ids.frozen(exact=True)[ids.find(b)].tolist()


def test_collapse_and_squash_keep_the_values() -> None:
    tensor = torch.tensor([[1.0, torch.nan], [1.0, torch.nan]]).reshape(2, 1, 2, 1).repeat(1, 3, 1, 4)
    assert (1, 1, 2, 1) == tuple(squash(collapse(tensor)).shape)
    assert torch.equal(tensor.nan_to_num(7), collapse(tensor).nan_to_num(7))


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), cuts=st.sets(st.integers(1, 3)))
def test_merged_axes_are_aligned_with_their_parts(shape: list[int], cuts: set[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(shape)), len(shape)]
    new = [int(np.prod(shape[a:b])) for a, b in pairwise(edges)]
    blocks = aligned_axes(shape, new)
    assert list(range(len(shape))) == [axis for inside, _ in blocks for axis in inside]
    assert list(range(len(new))) == [axis for _, outside in blocks for axis in outside]
    for inside, outside in blocks:
        assert np.prod([shape[i] for i in inside]) == np.prod([new[i] for i in outside])


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(ValueError, match=r"aten\.linear already has a rule: linear"):
        rule(aten.linear)(lambda trace: None)


def test_in_place_operators_follow_the_rule_of_their_twin() -> None:
    assert functional(aten.relu_.default) is aten.relu.default
    assert functional(aten.add_.Tensor) is aten.add.Tensor
    assert functional(aten.add.Tensor) is aten.add.Tensor


def narrowed_vgg() -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[str, int]]]:
    model, x = build("vgg")
    zero_rows(model, 0.5, 1)
    result = compact(model, x)
    return build("vgg", seed=1)[0], result.model.state_dict(), result.attributes


def test_restore_leaves_no_strides_of_another_memory_format() -> None:
    """A 1x1 kernel in channels_last counts as contiguous, and its strides would cost the exported graph a Gather."""
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    state = {
        name: value.contiguous() for name, value in model.to(memory_format=torch.channels_last).state_dict().items()
    }
    assert state["0.weight"].stride() == (4, 1, 4, 4)
    rebuilt = restore(nn.Sequential(nn.Conv2d(4, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), state, {})
    assert rebuilt.state_dict()["0.weight"].stride() == (4, 1, 1, 1)
    graph = torch.export.export(rebuilt.eval(), (torch.zeros(1, 4, 2, 2),)).run_decompositions().graph
    assert "as_strided" not in str(graph)


def test_restore_names_the_key_that_does_not_fit() -> None:
    fresh, state, attributes = narrowed_vgg()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(UsageError, match=r"features\.0\.scale has no place"):
        restore(fresh, {**state, "features.0.scale": torch.ones(3)}, attributes)
    with pytest.raises(UsageError, match=r"the state has no features\.3\.weight"):
        restore(fresh, {k: v for k, v in state.items() if k != "features.3.weight"}, attributes)
    with pytest.raises(UsageError, match=r"features\.0\.weight does not fit"):
        restore(fresh, {**state, "features.0.weight": torch.ones(3, 3)}, attributes)
    with pytest.raises(UsageError, match=r"attribute features\.77\.groups does not belong"):
        restore(fresh, state, {**attributes, "features.77": {"groups": 2}})
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


def test_restore_keeps_tied_names_tied_and_takes_a_state_with_one_of_them() -> None:
    model = prepared(ZOO["tied"])
    zero_rows(model, 0.4, 5)
    result = compact(model, example((3, 8, 8)))
    state = result.model.state_dict()
    del state["middle.two.weight"]
    rebuilt = restore(prepared(ZOO["tied"], seed=9), state, result.attributes)
    assert rebuilt.middle.one.weight is rebuilt.middle.two.weight
    assert torch.equal(result.model(example((3, 8, 8))), rebuilt(example((3, 8, 8))))


def test_the_result_exports_to_onnx_and_runs(tmp_path: Path) -> None:
    model, x = build("mobilenet")
    zero_rows(model, 0.5, 1)
    narrow = compact(model, x).model
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(narrow, (x,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, narrow(x).detach().numpy(), atol=1e-5)  # float32, outputs near 1
