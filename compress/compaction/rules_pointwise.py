"""Element-wise operators: the channels that meet are tied, known values are computed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from compress.compaction.analysis import Grid
from compress.compaction.ids import Tagged, collapse, squash, varies
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace


@rule(
    aten.hardtanh,
    aten.relu6,
    aten.hardswish,
    aten.hardsigmoid,
    aten.silu,
    aten.mish,
    aten.gelu,
    aten.softplus,
)
def pointwise(trace: Trace, *args: Any, **kwargs: Any) -> Tagged:
    """y[e] = f(a[e], b[e], ...): constant where every operand is, or where one is 0 in a product."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tagged)]
    return Tagged(joined_ids(trace, tensors, trace.shape), computed_value(trace, tensors, args, kwargs))


def joined_ids(trace: Trace, tensors: list[Tagged], shape: Sequence[int]) -> Tensor:
    """Tie the operands' ids element by element under broadcasting to `shape`.

    An operand of length 1 along an axis where another has channels belongs to none of them and stays out (a
    spatial attention map times features). Where a channel meets an element that has none, as in a region
    padded with zeros, the code has fixed the number of channels: `tie` freezes it.
    """
    lifted = [t.ids.reshape((1,) * (len(shape) - t.ids.dim()) + t.ids.shape) for t in tensors]
    axes = [axis for axis in range(len(shape)) if any(varies(ids, axis) for ids in lifted)]
    short = [ids for ids in lifted if any(ids.shape[axis] == 1 for axis in axes)]
    result = torch.zeros([1] * len(shape), dtype=torch.int64)
    first = True
    for ids in lifted:
        if not any(ids is other for other in short):
            small = squash(ids)
            if not first:
                trace.ids.tie(result, small)
            result = torch.where(result == 0, small, result)
            first = False
    for ids in short:
        _stay_out(trace, ids, result, axes)
    return trace.settle(result.expand(shape)) if len(axes) > 1 else result.expand(shape)


def _stay_out(trace: Trace, ids: Tensor, result: Tensor, axes: list[int]) -> None:
    """What an operand of length 1 along an axis of channels asks of the result along the other axes."""
    long = [axis for axis in axes if ids.shape[axis] > 1]
    heads = axes[0]
    if long == [heads] and varies(ids, heads):  # one number per head: it lives with any channel of the head
        trace.link(result, ids)
        rows = [squash(t).movedim(heads, 0).reshape(ids.shape[heads], -1) for t in (ids, result)]
        trace.grids.append(Grid((rows[0], rows[1])))
        return
    trace.ids.freeze(ids)
    for axis in long:  # as long as the operand, which has the same numbers for every head: only whole heads go
        trace.ids.tie_along(result, axis)


def computed_value(trace: Trace, tensors: list[Tagged], args: Any, kwargs: Any) -> Tensor:
    """The operator on the known values; NaN where an operand is unknown or the result is not finite."""
    unknown = torch.zeros((), dtype=torch.bool)
    for tagged in tensors:
        unknown = unknown | squash(tagged.value).isnan()
    if bool(unknown.all()) and trace.target is not aten.mul.Tensor:
        return torch.full((), torch.nan, dtype=torch.float64).expand(trace.shape)
    args, kwargs = tree_map_only(Tagged, operand, (args, kwargs))
    result: Tensor = trace.target(*args, **kwargs).to(torch.float64)
    # comparisons with NaN answer False, which would look like knowledge
    result = torch.where(unknown | ~result.isfinite(), torch.nan, result)
    if trace.target is aten.mul.Tensor:
        for tagged in tensors:
            result = torch.where(squash(tagged.value) == 0, 0.0, result)
    return collapse(result).expand(trace.shape)


def operand(tagged: Tagged) -> Tensor:
    """The value in the tensor's own type, stride-0 axes cut to length 1; NaN becomes 0 in whole numbers."""
    value = squash(tagged.value)
    return value.to(tagged.dtype) if tagged.dtype.is_floating_point else value.nan_to_num().to(tagged.dtype)
