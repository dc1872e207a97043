"""Laws of compaction on networks that nobody designed, under zero patterns that nobody chose."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from compress.compaction import channel_groups, compact, remove
from tests.compaction.nets import example, prepared
from tests.compaction.random_nets import BLOCKS, RandomNet, networks
from tests.compaction.test_exactness import PATTERNS, assert_same_function, difference
from tests.compaction.test_groups import lengths, zero

# shrinking traces every line of torch.export and takes minutes; the drawn blocks are short enough to read
QUICK = {"deadline": None, "derandomize": True, "phases": (Phase.explicit, Phase.generate)}


def network(drawn: tuple[list[str], int], seed: int) -> tuple[nn.Module, torch.Tensor]:
    blocks, width = drawn
    return prepared(lambda: RandomNet(blocks, width), seed).double(), example((3, 8, 8)).double()


@settings(max_examples=20, **QUICK)
@given(networks(), st.sampled_from(sorted(PATTERNS)), st.sampled_from([0.3, 0.6, 0.9]), st.integers(0, 99))
def test_random_zeros_in_random_networks(drawn, pattern: str, share: float, seed: int) -> None:
    model, x = network(drawn, seed % 3)
    PATTERNS[pattern](model, share, seed)
    assert_same_function(model, x)


@settings(max_examples=12, **QUICK)
@given(networks(), st.integers(0, 99))
def test_zeroed_groups_of_random_networks_are_removed_and_equal_removal(drawn, seed: int) -> None:
    model, x = network(drawn, seed % 3)
    groups = [group for group in channel_groups(model, x) if group.removable_exactly]
    chosen = [group for k, group in enumerate(groups) if (k * 7 + seed) % 5 < 2]
    expected = lengths(model)
    for group in chosen:
        for part in group.slices:
            expected[part.name, part.axis] -= len(part.indices)
    if min(expected.values(), default=1) < 1:
        return  # the draw took a whole layer
    zero(model, chosen)
    narrow = compact(model, x).model
    found = lengths(narrow)
    assert [] == [key for key, length in expected.items() if found[key] > length]
    if "concat" not in drawn[0]:  # there sigmoid(0) = 1/2 is folded, which structural removal does not do
        removed = remove(model, x, chosen).model
        assert difference(narrow, removed, example((3, 8, 8), batch=3).double()) < 1e-9


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_block_alone(name: str) -> None:
    model, x = network(([name], 8), 1)
    PATTERNS["filters"](model, 0.4, 3)
    assert assert_same_function(model, x) > 0
