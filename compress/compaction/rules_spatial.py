"""Operators that work inside each channel (pooling, resizing) and reductions over axes."""

from typing import Any

import torch
from torch import Tensor

from compress.compaction.ids import Tagged, collapse, squash
from compress.compaction.rules_pointwise import pointwise
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace

# operator -> number of trailing axes it works on
SPATIAL = {
    getattr(aten, f"{name}{axes}d{suffix}"): axes
    for axes in (1, 2, 3)
    for name, suffix in (
        ("max_pool", ""), ("max_pool", "_with_indices"), ("avg_pool", ""), ("adaptive_avg_pool", ""),
        ("adaptive_max_pool", ""), ("upsample_nearest", ""), ("_upsample_nearest_exact", ""),
    )
} | {
    aten.upsample_linear1d: 1, aten.upsample_bilinear2d: 2, aten.upsample_bicubic2d: 2, aten.upsample_trilinear3d: 3,
    aten._upsample_bilinear2d_aa: 2, aten._upsample_bicubic2d_aa: 2,
}  # fmt: skip


@rule(*SPATIAL)
def spatial(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """y[n, c, ...] is a function of x[n, c, ...] alone; a channel is constant if all of it is."""
    axes = SPATIAL[trace.target.overloadpacket]
    lead = x.ids.dim() - axes
    ids = per_channel(x, lead)
    if ids is None:
        return trace.unknown(x)
    value = nothing(trace.shape[:lead] + (1,) * axes).expand(trace.shape)
    known = ~squash(x.value).isnan().flatten(lead).any(-1)
    if bool(known.any()):
        picked = known.expand(x.value.shape[:lead])
        # a batch axis in front, because pooling wants one
        run = trace.target(x.value[picked].unsqueeze(0), *args, **kwargs)
        maps = run[0] if isinstance(run, tuple) else run
        value = value.contiguous()
        value[picked] = maps.squeeze(0)
    result = Tagged(ids.expand(trace.shape), collapse(value))
    positions = Tagged(result.ids, nothing(trace.shape))
    return (result, positions) if isinstance(trace.node.meta["val"], tuple) else result


def per_channel(x: Tagged, lead: int) -> Tensor | None:
    """The ids with length 1 along all axes from `lead` on; None if they vary along one of these."""
    ids = squash(x.ids)
    for axis in range(lead, x.ids.dim()):
        if x.vary(axis):
            return None
        ids = ids.narrow(axis, 0, 1)
    return ids


def nothing(shape: torch.Size) -> Tensor:
    """No value is known."""
    return torch.full((), torch.nan, dtype=torch.float64).expand(shape)


@rule(aten.max_unpool2d, aten.max_unpool3d)
def unpool(trace: Trace, x: Tagged, positions: Tagged, *_: Any) -> Any:
    """y[n, c, positions[n, c, p]] = x[n, c, p], 0 elsewhere."""
    lead = 2 if trace.target.overloadpacket is aten.max_unpool2d else 3
    ids = per_channel(x, x.ids.dim() - lead)
    if ids is None:
        return trace.unknown(x, positions)
    trace.ids.tie(x.ids, positions.ids)
    return Tagged(ids.expand(trace.shape), zero_where(trace, x, x.ids.dim() - lead))


@rule(aten.grid_sampler)
def grid_sampler(trace: Trace, x: Tagged, grid: Tagged, *_: Any) -> Any:
    """y[n, c, p] is interpolated from x[n, c, ...] around grid[n, p], zeros outside: 0 stays 0."""
    ids = per_channel(x, 2)
    if ids is None:
        return trace.unknown(x, grid)
    trace.freeze_all(grid)
    return Tagged(ids.expand(trace.shape), zero_where(trace, x, 2))


def zero_where(trace: Trace, x: Tagged, lead: int) -> Tensor:
    """0 for channels of zeros, nothing known of others, in the operator's shape."""
    small = squash(x.value)
    zero = (small == 0).flatten(lead).all(-1).reshape(*small.shape[:lead], *[1] * (small.dim() - lead))
    return torch.where(zero, 0.0, torch.nan).double().expand(trace.shape)


@rule(aten.im2col)
def unfold(trace: Trace, x: Tagged, *args: Any) -> Tagged:
    """y[n, c * k + q, p] = x[n, c, q + p], k elements of a window: a channel once for each."""
    ids = trace.vector(x, x.ids.dim() - 3).repeat_interleave(trace.shape[-2] // x.ids.shape[-3])
    value = nothing(trace.shape) if x.unknown else collapse(trace.target(x.value.contiguous(), *args))
    return Tagged(ids[:, None].expand(trace.shape), value)


@rule(aten.col2im)
def fold(trace: Trace, x: Tagged, *args: Any) -> Tagged:
    """y[n, c, q + p] = sum over q of x[n, c * k + q, p]: the k elements of a window go together."""
    windows = trace.vector(x, x.ids.dim() - 2).reshape(trace.shape[-3], -1)
    trace.ids.tie_along(windows, 1)
    value = nothing(trace.shape) if x.unknown else collapse(trace.target(x.value.contiguous(), *args))
    return Tagged(windows[:, 0].reshape(-1, 1, 1).expand(trace.shape), value)


@rule(
    aten.mean, aten.sum, aten.nansum, aten.prod, aten.amax, aten.amin, aten.var, aten.std, aten.var_mean, aten.std_mean,
    aten.logsumexp, aten.linalg_vector_norm, aten.norm, aten.any, aten.all, aten.count_nonzero,
)  # fmt: skip
def reduction(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """A reduction over axes; one over channels mixes them."""
    arguments = trace.arguments(x, *args, **kwargs)
    dim = arguments.get("dim")
    named = [dim] if isinstance(dim, int) else list(dim or range(x.ids.dim()))
    axes = sorted(axis % x.ids.dim() for axis in named) if x.ids.dim() else []
    ids = trace.mix(x, axes)
    keep = len(trace.shape) == x.ids.dim()
    for axis in () if keep else reversed(axes):
        ids = ids.squeeze(axis)
    ids = ids.expand(trace.shape)
    several = isinstance(trace.node.meta["val"], tuple)
    if x.unknown:
        results: list[Tensor] = [nothing(trace.shape)] * (2 if several else 1)
    else:
        run = trace.target(x.value, *args, **kwargs)
        unknown = x.value.isnan().amax(axes, keepdim=keep)  # any(NaN) answers True, which would look like knowledge
        results = [torch.where(unknown, torch.nan, result.double()) for result in (run if several else [run])]
    tagged = tuple(Tagged(ids, collapse(result)) for result in results)
    return tagged if several else tagged[0]


@rule(aten.max, aten.min, aten.median)
def extreme(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """The largest element along an axis and where it is, of the whole tensor, or of two tensors."""
    if trace.target._overloadname == "other":
        return pointwise(trace, x, *args, **kwargs)
    if trace.target._overloadname == "default":
        return reduction(trace, x)
    largest, _ = reduction(trace, x, *args, **kwargs)
    return largest, Tagged(largest.ids, nothing(trace.shape))


@rule(aten.topk, aten.sort, aten.argmax, aten.argmin, aten.argsort, aten.cummax, aten.cummin, aten.kthvalue)
def ordered(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """What comes where in an order along one axis; the place of a channel says something else without the others."""
    flat = trace.target.overloadpacket in (aten.argmax, aten.argmin)
    dim = trace.arguments(x, *args, **kwargs).get("dim", None if flat else -1)
    axes = range(x.ids.dim()) if dim is None else [dim % x.ids.dim()]
    if any(x.vary(axis) for axis in axes):
        return trace.unknown(x, why="the order of channels")
    ids = x.ids
    for axis in reversed(axes):
        ids = ids.narrow(axis, 0, 1) if len(trace.shape) == ids.dim() else ids.select(axis, 0)
    places = Tagged(ids.expand(trace.shape), nothing(trace.shape))
    if not isinstance(trace.node.meta["val"], tuple):
        return places
    if x.unknown:
        return places, places
    unknown = x.value.isnan().any(axes[0], keepdim=len(trace.shape) == x.ids.dim())
    value = torch.where(unknown, torch.nan, trace.target(x.value, *args, **kwargs)[0])
    return Tagged(places.ids, collapse(value)), places


@rule(aten.glu)
def glu(trace: Trace, x: Tagged, dim: int = -1) -> Tagged:
    """Y = a * sigmoid(b), the halves of an axis: channel j of one goes with channel j of the other."""
    a, b = x.ids.chunk(2, dim)
    trace.ids.tie(a, b)
    left, right = x.value.chunk(2, dim)
    return Tagged(a, collapse(torch.where(left == 0, 0.0, left * right.sigmoid())))


@rule(aten.tril, aten.triu)
def triangle(trace: Trace, x: Tagged, *args: Any) -> Any:
    """Zeros above or below the diagonal of the last two axes."""
    if x.vary(-1) or x.vary(-2):
        return trace.unknown(x)
    return Tagged(x.ids, collapse(trace.target(x.value, *args)))


@rule(aten.softmax, aten.log_softmax, aten.cumsum, aten.cumprod)
def along_axis(trace: Trace, x: Tagged, dim: int, *args: Any, **kwargs: Any) -> Any:
    """Over positions each channel stays itself; over channels they are mixed."""
    trace.mix(x, [dim % x.ids.dim()] if x.ids.dim() else [])
    value = nothing(trace.shape) if x.unknown else collapse(trace.target(x.value, dim).double())
    averages = trace.target.overloadpacket is aten.softmax and dim in (-1, x.ids.dim() - 1)
    return Tagged(x.ids, value, averages=averages)
