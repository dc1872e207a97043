"""Element-wise operators: the channels that meet are tied, known values are computed."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from compress.compaction.ids import Tagged, collapse, squash
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
    return Tagged(joined_ids(trace, tensors), computed_value(trace, tensors, args, kwargs))


def joined_ids(trace: Trace, tensors: list[Tagged]) -> Tensor:
    """Tie the operands' ids element by element under broadcasting.

    An operand of length 1 along an axis where another has channels does not belong to any of them: it is
    frozen and stays out (a spatial attention map times features). Where a channel meets an element that has
    none, as in a region padded with zeros, the code has fixed the number of channels: `tie` freezes it.
    """
    shape = trace.shape
    lifted = [Tagged(t.ids.reshape((1,) * (len(shape) - t.ids.dim()) + t.ids.shape), t.value) for t in tensors]
    channel_axes = [axis for axis in range(len(shape)) if any(tagged.vary(axis) for tagged in lifted)]
    result: Tensor | None = None
    for tagged in lifted:
        if any(tagged.ids.shape[axis] == 1 for axis in channel_axes):
            trace.ids.freeze(tagged.ids)
            continue
        ids = squash(tagged.ids)
        if result is None:
            result = ids
            continue
        trace.ids.tie(result, ids)
        result = torch.where(result == 0, ids, result)
    return torch.zeros((), dtype=torch.int64).expand(shape) if result is None else result.expand(shape)


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
