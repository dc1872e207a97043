"""Tensors that the code makes after the likeness of another, or fills: who gives the size, and what is known."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.compaction.ids import Tagged, collapse, squash, unlabelled
from compress.compaction.rules_pointwise import joined_ids, operand
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace


@rule(aten.zeros_like, aten.ones_like, aten.full_like)
def filled_like(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """y[e] = c in the shape of x: as long as x's channels are."""
    value = trace.target(operand(x), *args, **kwargs).double()
    return Tagged(x.ids, collapse(value).expand(trace.shape))


@rule(aten.empty_like, aten.rand_like, aten.randn_like, aten.randint_like)
def unknown_like(trace: Trace, x: Tagged, *_: Any, **__: Any) -> Tagged:
    """Anything in the shape of x."""
    return Tagged(x.ids, torch.full((), torch.nan, dtype=torch.float64).expand(trace.shape))


@rule(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty)
def new(trace: Trace, x: Tagged, size: Sequence[int], *args: Any, **kwargs: Any) -> Tagged:
    """y[e] = c in a given size; x lends its number type and device.

    The size of x itself most likely follows x. Where it does not, the rewritten code makes it follow.
    """
    ids = x.ids if x.ids.shape == trace.shape else torch.zeros((), dtype=torch.int64).expand(trace.shape)
    if trace.target.overloadpacket is aten.new_empty:
        return Tagged(ids, unlabelled(trace.shape).value)
    scalar: Tensor = trace.target(torch.zeros((), dtype=x.dtype), [], *args, **kwargs)
    return Tagged(ids, scalar.double().expand(trace.shape))


@rule(aten.fill, aten.zero)
def fill(trace: Trace, x: Tagged, value: float | Tagged = 0.0) -> Tagged:
    """y[e] = c."""
    scalar = operand(value) if isinstance(value, Tagged) else torch.tensor(value)
    return Tagged(x.ids, scalar.to(x.dtype).double().expand(trace.shape))


@rule(aten.copy)
def copy(trace: Trace, x: Tagged, source: Tagged, *_: Any) -> Tagged:
    """y[e] = source[e], rounded to the number type of x."""
    value = squash(source.value)
    rounded = torch.where(value.isnan(), torch.nan, operand(source).to(x.dtype).double())
    return Tagged(joined_ids(trace, [x, source], trace.shape), collapse(rounded.expand(trace.shape)))
