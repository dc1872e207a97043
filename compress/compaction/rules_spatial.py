"""Operators that work inside each channel (pooling, resizing) and reductions over axes."""

from collections.abc import Sequence
from typing import Any

import torch

from compress.compaction.ids import Tagged, collapse, squash
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace

# operator -> number of trailing axes it works on
SPATIAL = {
    getattr(aten, f"{name}{axes}d{suffix}"): axes
    for axes in (1, 2, 3)
    for name, suffix in (
        ("max_pool", ""), ("avg_pool", ""), ("adaptive_avg_pool", ""), ("adaptive_max_pool", ""),
        ("upsample_nearest", ""), ("_upsample_nearest_exact", ""),
    )
} | {aten.upsample_linear1d: 1, aten.upsample_bilinear2d: 2, aten.upsample_bicubic2d: 2}  # fmt: skip


@rule(*SPATIAL)
def spatial(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """y[n, c, ...] is a function of x[n, c, ...] alone; a channel is constant if all of it is."""
    axes = SPATIAL[trace.target.overloadpacket]
    lead = x.ids.dim() - axes
    if any(x.vary(axis) for axis in range(lead, x.ids.dim())):
        return trace.unknown(x)
    ids = squash(x.ids)
    for axis in range(lead, x.ids.dim()):
        ids = ids.narrow(axis, 0, 1)
    value = torch.full(trace.shape[:lead] + (1,) * axes, torch.nan, dtype=torch.float64).expand(trace.shape)
    known = ~squash(x.value).isnan().flatten(lead).any(-1)
    if bool(known.any()):
        picked = known.expand(x.value.shape[:lead])
        # a batch axis in front, because pooling wants one
        run = trace.target(x.value[picked].unsqueeze(0), *args, **kwargs)
        maps = run[0] if isinstance(run, tuple) else run
        value = value.contiguous()
        value[picked] = maps.squeeze(0)
    result = Tagged(ids.expand(trace.shape), collapse(value))
    meta = trace.node.meta["val"]
    return (result, *trace.unknown()[1:]) if isinstance(meta, tuple) else result


@rule(aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std)
def reduction(trace: Trace, x: Tagged, dim: int | Sequence[int] | None = None, *args: Any, **kwargs: Any) -> Any:
    """A reduction over axes of positions; one over channels mixes them and freezes them."""
    named = [dim] if isinstance(dim, int) else list(dim or range(x.ids.dim()))
    axes = sorted(axis % x.ids.dim() for axis in named) if x.ids.dim() else []
    if any(x.vary(axis) for axis in axes):
        return trace.unknown(x, why="mixes channels")
    ids = x.ids
    for axis in reversed(axes):
        ids = ids.narrow(axis, 0, 1) if ids.shape[axis] else ids
        ids = ids if len(trace.shape) == x.ids.dim() else ids.squeeze(axis)
    operands = (dim, *args) if dim is not None else args
    return Tagged(ids.expand(trace.shape), collapse(trace.target(x.value, *operands, **kwargs).double()))


@rule(aten.softmax, aten.log_softmax)
def softmax(trace: Trace, x: Tagged, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Over positions each channel stays itself; over channels they are mixed and frozen."""
    if x.vary(dim):
        return trace.unknown(x, why="mixes channels")
    return Tagged(x.ids, collapse(trace.target(x.value, dim)))
