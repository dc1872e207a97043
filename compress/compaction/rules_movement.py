"""Operators that only move elements: they are executed on the ids and on the values.

Whether the model's own code still means the same with fewer channels is not asked here: sizes and positions that
are written in it are rewritten afterwards where they must (`rewrite.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compress.compaction.ids import Tagged, collapse, squash
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace


def moved(x: Tagged, move: Callable[[Tensor], Tensor]) -> Tagged:
    """The same movement on ids and values."""
    return Tagged(collapse(move(x.ids)), collapse(move(x.value)))


@rule(
    aten.permute, aten.transpose, aten.t, aten.numpy_T, aten.mT, aten.swapaxes, aten.movedim, aten.squeeze,
    aten.unsqueeze, aten.flatten, aten.flip, aten.expand_as, aten.ravel,
    aten.swapdims, aten.moveaxis, aten.adjoint, aten.mH, aten.diagonal, aten.unfold,
    is_view=True, moves=True,
)  # fmt: skip
@rule(
    aten.rot90, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.native_channel_shuffle,
    moves=True,
)  # fmt: skip
def move(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """Movements that follow the tensor's own sizes."""
    if trace.target.overloadpacket is aten.expand_as:
        return moved(x, lambda t: t.expand(trace.shape))
    return moved(x, lambda t: trace.target(t, *args, **kwargs))


@rule(aten.alias, aten.detach, aten.contiguous, is_view=True, moves=True)
@rule(aten.clone, aten.lift_fresh_copy, moves=True)
def same(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """The same elements in the same places."""
    return replace(x)


@rule(aten.to, aten._to_copy, aten.type_as, is_view=True)
def convert(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """A change of number type or memory: known values are rounded to the new type."""
    dtype = trace.node.meta["val"].dtype
    rounded = x.value if dtype.is_floating_point else x.value.nan_to_num().to(dtype).to(torch.float64)
    value = rounded if dtype == x.dtype else torch.where(x.value.isnan(), torch.nan, rounded.to(dtype).double())
    return Tagged(x.ids, value, averages=x.averages)


@rule(aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout, is_view=True)
def dropout(trace: Trace, x: Tagged, p: float, train: bool) -> Any:
    """The identity in evaluation mode."""
    return trace.unknown(x) if train else replace(x)


@rule(aten._assert_tensor_metadata)
def assertion(trace: Trace, *args: Any, **kwargs: Any) -> None:
    """A check of number type and device, nothing flows through it."""


@rule(aten.native_dropout)
def native_dropout(trace: Trace, x: Tagged, p: float, train: bool | None) -> Any:
    """The identity in evaluation mode, and a mask of ones."""
    if train:
        return trace.unknown(x)
    return replace(x), Tagged(x.ids, torch.ones((), dtype=torch.float64).expand(trace.shape))


@rule(aten.cat, aten.concat, aten.concatenate, aten.stack)
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


@rule(aten.roll, moves=True)
def roll(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Tagged:
    """Positions turn around an axis."""
    return moved(x, lambda t: trace.target(t, *args, **kwargs))


@rule(aten.hstack, aten.vstack, aten.dstack)
def stacked(trace: Trace, tensors: Sequence[Tagged]) -> Tagged:
    """Ids side by side along the axis that the operator's name stands for."""
    return Tagged(collapse(trace.target([t.ids for t in tensors])), collapse(trace.target([t.value for t in tensors])))


@rule(
    aten.chunk, aten.split, aten.split_with_sizes, aten.tensor_split, aten.unbind, aten.hsplit, aten.vsplit,
    is_view=True, moves=True,
)  # fmt: skip
def split(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> tuple[Tagged, ...]:
    """Pieces along one axis."""
    pieces = zip(trace.target(x.ids, *args, **kwargs), trace.target(x.value, *args, **kwargs), strict=True)
    result = tuple(Tagged(collapse(ids), collapse(value)) for ids, value in pieces)
    for piece in result:
        trace.piece(piece.ids)
    return result


@rule(aten.slice, aten.narrow, aten.select, aten.index_select, is_view=True, moves=True)
def pick(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """Positions along one axis."""
    if any(isinstance(a, Tagged) and not a.known for a in args):
        return trace.unknown(x, why="picks positions that depend on the input")
    args = tuple(a.value.to(a.dtype) if isinstance(a, Tagged) else a for a in args)
    result = moved(x, lambda t: trace.target(t, *args, **kwargs))
    trace.piece(result.ids)
    return result


@rule(aten.repeat_interleave, moves=True)
def repeat_interleave(trace: Trace, x: Tagged, *args: Any, **kwargs: Any) -> Any:
    """Every position along one axis several times over."""
    if trace.target._overloadname == "Tensor":  # numbers of repeats to positions
        return trace.unknown(x)
    return pick(trace, x, *args, **kwargs)


@rule(aten.index)
def index(trace: Trace, x: Tagged, indices: Sequence[Tagged | None]) -> Any:
    """A table looked up: x[i, j, ...]; known positions are moved, unknown ones must lie within each channel."""
    given = [axis for axis, i in enumerate(indices) if i is not None]
    known = all(i is None or i.known for i in indices)
    mask = any(i is not None and i.dtype == torch.bool for i in indices)
    if mask or (not known and any(x.vary(axis) for axis in given)):
        return trace.unknown(x, indices, why="picks positions that depend on the input")
    lead = [torch.zeros((), dtype=torch.int64).expand(i.ids.shape) if i is not None else None for i in indices]
    positions = [i if i is None else i.value.long() for i in indices] if known else lead
    picked: Tensor = aten.index.Tensor(x.ids, positions)
    value = aten.index.Tensor(x.value, positions) if known else torch.full((), torch.nan).double().expand(trace.shape)
    return Tagged(collapse(picked), collapse(value))


@rule(aten.expand, aten.broadcast_to, aten.repeat, aten.tile, is_view=True, moves=True)
def spread(trace: Trace, x: Tagged, sizes: Sequence[int], **kwargs: Any) -> Any:
    """Copies along an axis."""
    return moved(x, lambda t: trace.target(t, sizes, **kwargs))


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.unflatten, aten.view_as, aten.reshape_as, is_view=True,
      moves=True)  # fmt: skip
def view(trace: Trace, x: Tagged, *args: Any) -> Any:
    """A new shape."""
    if isinstance(args[0], torch.dtype):
        return trace.unknown(x)
    same_rows = x.averages and x.ids.shape[-1:] == trace.shape[-1:]
    return Tagged(reshaped(x.ids, trace.shape), reshaped(x.value, trace.shape), averages=same_rows)


def reshaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """`tensor.reshape(shape)` without filling the axes along which nothing changes."""
    small, inner = squash(tensor), []
    outer: list[int] = []
    for left, right in aligned_axes(tensor.shape, shape):
        part = [small.shape[axis] for axis in left]
        full = [tensor.shape[axis] for axis in left]
        still = all(length == 1 for length in part)
        inner += part if still else full
        outer += [1] * len(right) if still else [shape[axis] for axis in right]
    return collapse(small.expand(inner).reshape(outer)).expand(shape)


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
    if any(mode != "constant" or min(moving[axis]) < 0 for axis in along_channels):
        return trace.unknown(x, why="repeats or cuts channels")
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
