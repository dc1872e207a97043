"""Laws of `compact`: the same function, nothing left to remove, nothing of the original touched."""

import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.compaction import compact, restore
from compress.errors import CompactionError
from tests.compaction.nets import REFERENCE, build, example, layers, prepared, zero_norms, zero_rows, zero_weights
from tests.compaction.zoo import ZOO
from tests.compaction.zoo_operators import OPERATORS

PATTERNS: dict[str, Callable[[nn.Module, float, int], None]] = {
    "filters": zero_rows,
    "filters-and-biases": lambda model, share, seed: zero_rows(model, share, seed, bias=True),
    "weights": zero_weights,
    "norms": zero_norms,
}


def difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """max |a - b| / max |a|."""
    with torch.no_grad():
        a, b = model(x), other(x)
    return float((a - b).abs().max() / a.abs().max())


def assert_same_function(model: nn.Module, x: Tensor) -> int:
    """Compact, compare on an input that the proof never saw; returns the channels removed."""
    try:
        result = compact(model, x)
    except CompactionError as error:
        if "the network is dead" not in str(error):  # all zeros: refused, not wrong
            raise
        return 0
    fresh = torch.randn(3, *x.shape[1:], dtype=x.dtype, generator=torch.Generator().manual_seed(99))
    assert result.max_error_relative < 1e-9
    assert difference(model, result.model, fresh) < 1e-9  # the model is float64: rounding is near 1e-16
    # wide groups that became narrow may then go as a whole; all else is found at once
    if not any(getattr(layer, "groups", 1) > 1 for layer in layers(model)):
        assert 0 == compact(result.model, x).channels_removed
    return result.channels_removed


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(REFERENCE)),
    pattern=st.sampled_from(sorted(PATTERNS)),
    share=st.sampled_from([0.2, 0.5, 0.8, 0.95]),
    seed=st.integers(0, 1000),
)
def test_random_zeros_leave_the_function_unchanged(name: str, pattern: str, share: float, seed: int) -> None:
    model, x = build(name, seed % 3)
    PATTERNS[pattern](model, share, seed)
    assert_same_function(model.double(), x.double())


@pytest.mark.parametrize("name", sorted({**ZOO, **OPERATORS}))
def test_every_trap_is_exact(name: str) -> None:
    model = prepared({**ZOO, **OPERATORS}[name]).double()
    zero_rows(model, 0.4, 5)
    assert assert_same_function(model, example((3, 8, 8)).double()) > 0


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_original_is_untouched_and_the_result_restores(name: str) -> None:
    model, x = build(name)
    zero_rows(model, 0.6, 1)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = compact(model, x)
    assert model.training
    assert result.model.training
    assert isinstance(result.model, type(model))
    assert result.rewritten == (type(result.model) is not type(model))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert result.channels_removed > 0
    fresh, _ = build(name, seed=5)
    rebuilt = restore(fresh, result.model.state_dict(), json.loads(json.dumps(result.attributes)))
    with torch.no_grad():
        assert torch.equal(result.model.eval()(x), rebuilt.eval()(x))


@pytest.mark.parametrize("name", ["lenet5", "resnet-a", "mobilenet"])
def test_narrowed_model_trains(name: str) -> None:
    model, x = build(name)
    zero_rows(model, 0.4, 1)
    result = compact(model, x)
    narrow = result.model.train()
    narrow(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in narrow.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shipped_error_is_rounding_of_the_own_number_type(dtype: torch.dtype) -> None:
    model, x = build("vgg")
    zero_rows(model, 0.5, 1)
    result = compact(model.to(dtype), x.to(dtype))
    assert {dtype} == {p.dtype for p in result.model.parameters()}
    assert result.max_error_relative < 1e-9
    # outputs are near 1; sums of up to 100 products, each rounded once
    assert result.max_abs_error < 100 * torch.finfo(dtype).eps
