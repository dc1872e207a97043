"""Operators that work inside each channel (pooling, resizing) and reductions over axes."""

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


@rule(aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.linalg_vector_norm, aten.any, aten.all)
def reduction(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """A reduction over axes; one over channels mixes them."""
    arguments = trace.arguments(x, *args, **kwargs)
    dim = arguments.get("dim")
    named = [dim] if isinstance(dim, int) else list(dim or range(x.ids.dim()))
    axes = sorted(axis % x.ids.dim() for axis in named) if x.ids.dim() else []
    ids = trace.mix(x, axes)
    if len(trace.shape) != x.ids.dim():
        for axis in reversed(axes):
            ids = ids.squeeze(axis)
    nothing = torch.full((), torch.nan, dtype=torch.float64).expand(trace.shape)
    value = nothing if x.unknown else collapse(trace.target(x.value, *args, **kwargs).double())
    return Tagged(ids.expand(trace.shape), value)


@rule(aten.softmax, aten.log_softmax, aten.cumsum, aten.cumprod)
def along_axis(trace: Trace, x: Tagged, dim: int, *args: Any, **kwargs: Any) -> Any:
    """Over positions each channel stays itself; over channels they are mixed."""
    trace.mix(x, [dim % x.ids.dim()] if x.ids.dim() else [])
    nothing = torch.full((), torch.nan, dtype=torch.float64).expand(trace.shape)
    return Tagged(x.ids, nothing if x.unknown else collapse(trace.target(x.value, dim).double()))
