"""Compaction is proved on the reference networks, for random patterns of zeros and dead units with constants."""

import pytest
import torch
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st
from torch import nn

from compress import cost
from compress.compaction import Compaction, compact
from compress.compaction.verify import NothingShown
from compress.errors import CompactionError
from compress_models import load

PROVED = 1e-9
"""Error of the float64 copy, relative to the output's scale."""


def zero_patterns(model: nn.Module, seed: int, filters: float, scattered: float) -> None:
    """Random weights, random running statistics, then zero filters (their biases stay) and scattered zeros."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: torch.Tensor, fraction: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) < fraction

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
                module.bias.normal_(generator=generator)
        *hidden, output = cost.prunable(model)
        for name in (*hidden, output):
            weight = model.get_parameter(name)
            weight[drawn(weight, scattered)] = 0.0
            if name != output:
                weight[drawn(weight[:, :1].flatten(1)[:, 0], filters)] = 0.0


def proved(model: nn.Module, shape: tuple[int, ...]) -> Compaction:
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        result = compact(model, inputs)
    except NothingShown:
        with torch.no_grad():
            first, second = model.double().eval()(inputs.double())
        assert (first - second).abs().max() < 1e-6 * first.abs().max()  # next to nothing reaches the output
        reject()
    assert result.max_error_relative < PROVED
    assert cost.nonzero_count(result.model) <= cost.nonzero_count(model)
    return result


def test_nothing_is_proved_where_nothing_reaches_the_output() -> None:
    model = load("lenet5")
    with torch.no_grad():
        model.get_parameter("fc1.weight").zero_()
    with pytest.raises(CompactionError, match="dead"):
        compact(model, torch.randn(2, 1, 28, 28))


FOUND = (Phase.explicit, Phase.reuse, Phase.generate)
"""Large networks are not shrunk: hundreds of them, held by their tracebacks, fill the memory."""

fractions = st.sampled_from([0.0, 0.3, 0.6, 0.9])
sparse = st.sampled_from([0.0, 0.5, 0.9, 0.99])


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize(("name", "shape"), [("lenet5", (1, 28, 28)), ("lenet300", (1, 28, 28))])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), filters=fractions, scattered=sparse)
def test_lenet(name: str, shape: tuple[int, ...], activation: str, seed: int, filters: float, scattered: float) -> None:
    torch.manual_seed(seed)
    model = load(name, {"activation": activation})
    zero_patterns(model, seed, filters, scattered)
    result = proved(model, shape)
    if filters:
        assert result.channels_removed > 0


@settings(max_examples=5, deadline=None, phases=FOUND)
@given(seed=st.integers(0, 10**6), filters=fractions, scattered=sparse)
def test_resnet20(seed: int, filters: float, scattered: float) -> None:
    """Convolutions are zero-padded and batch norm turns a zero filter into a constant: borders must be exact."""
    torch.manual_seed(seed)
    model = load("resnet20")
    zero_patterns(model, seed, filters, scattered)
    proved(model, (3, 32, 32))


@settings(max_examples=2, deadline=None, phases=FOUND)
@given(seed=st.integers(0, 10**6), filters=st.sampled_from([0.5, 0.9]), scattered=sparse)
def test_vgg16(seed: int, filters: float, scattered: float) -> None:
    torch.manual_seed(seed)
    model = load("vgg16")
    zero_patterns(model, seed, filters, scattered)
    assert proved(model, (3, 32, 32)).channels_removed > 1000
