"""Operators that only move elements: they are executed on the ids and on the values.

The narrowed model runs the same Python code, so a rule also asks whether the operator still means the same
with fewer channels. A size or position written in the code does not shrink; where the graph cannot tell a
written size from one computed from a tensor, `Trace.trusts` decides.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compress.compaction.ids import Tagged, collapse, squash
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace

WRITTEN = "the number of channels is written in the code"
SPLITS = "splits the channels over several axes"


def moved(x: Tagged, move: Callable[[Tensor], Tensor]) -> Tagged:
    """The same movement on ids and values."""
    return Tagged(collapse(move(x.ids)), collapse(move(x.value)))


@rule(
    aten.permute, aten.transpose, aten.t, aten.numpy_T, aten.mT, aten.swapaxes, aten.movedim, aten.squeeze,
    aten.unsqueeze, aten.flatten, aten.flip, aten.expand_as, aten.alias, aten.detach, aten.contiguous,
    is_view=True,
)  # fmt: skip
@rule(aten.clone, aten.lift_fresh_copy)
def move(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """Movements that follow the tensor's own sizes."""
    if trace.target.overloadpacket is aten.expand_as:
        return moved(x, lambda t: t.expand(trace.shape))
    return moved(x, lambda t: trace.target(t, *args, **kwargs))


@rule(aten.to, aten._to_copy, aten.type_as, is_view=True)
def convert(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """A change of number type or memory: known values are rounded to the new type."""
    dtype = trace.node.meta["val"].dtype
    rounded = x.value if dtype.is_floating_point else x.value.nan_to_num().to(dtype).to(torch.float64)
    value = rounded if dtype == x.dtype else torch.where(x.value.isnan(), torch.nan, rounded.to(dtype).double())
    return Tagged(x.ids, value)


@rule(aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout, is_view=True)
def dropout(trace: Trace, x: Tagged, p: float, train: bool) -> Any:
    """The identity in evaluation mode."""
    return trace.unknown(x) if train else Tagged(x.ids, x.value)


@rule(aten._assert_tensor_metadata)
def assertion(trace: Trace, *args: Any, **kwargs: Any) -> None:
    """A check of number type and device, nothing flows through it."""


@rule(aten.cat, aten.concat, aten.stack)
def cat(trace: Trace, tensors: Sequence[Tagged], dim: int = 0) -> Tagged:
    """Ids side by side."""
    return Tagged(_join(trace, [t.ids for t in tensors], dim), _join(trace, [t.value for t in tensors], dim))


def _join(trace: Trace, parts: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate with the axes that are uniform in every part left out of memory."""
    axes = range(parts[0].dim())
    along = dim % len(trace.shape)
    stacking = len(trace.shape) > parts[0].dim()
    still = [axis for axis in axes if (stacking or axis != along) and all(p.stride(axis) == 0 for p in parts)]
    for axis in still:
        parts = [part.narrow(axis, 0, 1) for part in parts]
    joined: Tensor = trace.target(list(parts), dim)
    return collapse(joined).expand(trace.shape)


@rule(aten.chunk, aten.split, aten.split_with_sizes, is_view=True)
def split(trace: Trace, x: Tagged, sizes: Any, dim: int = 0) -> Any:
    """Pieces stay equal: positions are tied over the pieces; unequal pieces are written in the code."""
    pieces = [
        Tagged(*pair) for pair in zip(trace.target(x.ids, sizes, dim), trace.target(x.value, sizes, dim), strict=True)
    ]
    if not x.vary(dim):
        return tuple(pieces)
    equal = len({piece.ids.shape[dim] for piece in pieces}) == 1
    by_count = trace.target.overloadpacket is aten.chunk
    if not equal or not (by_count or trace.trusts(x)):
        return trace.unknown(x, why=WRITTEN)
    for piece in pieces[1:]:
        trace.ids.tie(trace.vector(pieces[0], dim), trace.vector(piece, dim))
    return tuple(pieces)


@rule(
    aten.slice,
    aten.narrow,
    aten.select,
    aten.index_select,
    aten.unbind,
    is_view=True,
)
def pick(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """Positions along one axis; positions of channels are written in the code."""
    packet = trace.target.overloadpacket
    dim = kwargs.get("dim", args[0] if args else 0)
    whole = packet is aten.slice and trace.shape == x.ids.shape
    if x.vary(dim) and not whole:
        return trace.unknown(x, why=WRITTEN)
    if packet is aten.unbind:
        return tuple(Tagged(*pair) for pair in zip(x.ids.unbind(dim), x.value.unbind(dim), strict=True))
    args = tuple(a.value.to(a.dtype) if isinstance(a, Tagged) else a for a in args)
    return moved(x, lambda t: trace.target(t, *args, **kwargs))


@rule(aten.expand, aten.repeat, aten.tile, is_view=True)
def spread(trace: Trace, x: Tagged, sizes: Sequence[int], **kwargs: Any) -> Any:
    """Copies along an axis; an axis of channels must keep its length."""
    new = len(trace.shape) - x.ids.dim()
    channel_axes = [axis for axis in range(x.ids.dim()) if x.vary(axis)]
    expands = trace.target.overloadpacket is aten.expand
    for axis in channel_axes:
        if trace.shape[axis + new] != x.ids.shape[axis]:
            return trace.unknown(x, why=WRITTEN)
        if expands and sizes[axis + new] != -1 and not trace.trusts(x):
            return trace.unknown(x, why=WRITTEN)
    return moved(x, lambda t: trace.target(t, sizes, **kwargs))


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.unflatten, is_view=True)
def view(trace: Trace, x: Tagged, *args: Any) -> Any:
    """A new shape. Channels may be merged with other axes, not split: how many would go in which part?"""
    sizes = args[-1]
    start = args[0] % x.ids.dim() if len(args) == 2 else 0
    if isinstance(sizes, torch.dtype):
        return trace.unknown(x)
    written = [*range(start), *sizes] if len(args) == 2 else list(sizes)
    for long in channel_blocks(x, trace.shape):
        if len(long) > 1:
            return trace.unknown(x, why=SPLITS)
        explicit = [axis for axis in long if axis >= len(written) or written[axis] != -1]
        if explicit and not trace.trusts(x):
            return trace.unknown(x, why=WRITTEN)
    return moved(x, lambda t: t.reshape(trace.shape))


@rule(aten.view_as, aten.reshape_as, is_view=True)
def view_as(trace: Trace, x: Tagged, other: Tagged) -> Any:
    """A new shape taken from another tensor, which must lose the same channels."""
    blocks = channel_blocks(x, trace.shape)
    if any(len(long) > 1 for long in blocks):
        return trace.unknown(x, why=SPLITS)
    result = moved(x, lambda t: t.reshape(trace.shape))
    if blocks:
        trace.ids.tie(result.ids, other.ids)
    return result


def channel_blocks(x: Tagged, shape: Sequence[int]) -> list[list[int]]:
    """For each block of axes with channels that a reshape moves: the axes longer than 1 it ends in."""
    blocks = aligned_axes(x.ids.shape, shape)
    return [
        [axis for axis in outside if shape[axis] > 1]
        for inside, outside in blocks
        if any(x.vary(axis) for axis in inside)
    ]


def aligned_axes(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest blocks of axes that a reshape maps onto each other.

    >>> aligned_axes((1, 6, 4, 4), (1, 2, 3, 16))
    [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    """
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = ([i], [j])
        left, right = left[: len(old) - i], right[: len(new) - j]
        while math.prod(old[axis] for axis in left) != math.prod(new[axis] for axis in right):
            grow_left = math.prod(old[axis] for axis in left) < math.prod(new[axis] for axis in right)
            (left if grow_left else right).append(i + len(left) if grow_left else j + len(right))
        i, j = i + len(left), j + len(right)
        blocks.append((left, right))
    return blocks


@rule(aten.pad, aten.constant_pad_nd, is_view=False)
def pad(
    trace: Trace,
    x: Tagged,
    amounts: Sequence[int],
    mode: str | float = "constant",
    value: float | None = None,
) -> Any:
    """Zeros (or copies) around the edges belong to the channel, except along the channel axis itself."""
    if isinstance(mode, (int, float)):  # constant_pad_nd has no mode
        mode, value = "constant", float(mode)
    count = len(amounts) // 2
    axes = [x.ids.dim() - 1 - index for index in range(count)]
    moving = {axis: amounts[2 * i : 2 * i + 2] for i, axis in enumerate(axes) if any(amounts[2 * i : 2 * i + 2])}
    along_channels = [axis for axis in moving if x.vary(axis)]
    if mode != "constant" and along_channels:
        return trace.unknown(x, why="repeats channels")
    only_channels = [
        n for i, axis in enumerate(axes) for n in (amounts[2 * i : 2 * i + 2] if axis in along_channels else (0, 0))
    ]
    ids = squash(x.ids)
    for axis in moving:
        if axis not in along_channels:
            ids = ids.narrow(axis, 0, 1)
    if any(only_channels):
        ids = torch.nn.functional.pad(ids, only_channels)
    known = torch.nn.functional.pad(x.value.contiguous(), list(amounts), str(mode), value)
    return Tagged(ids.expand(trace.shape), collapse(known))
