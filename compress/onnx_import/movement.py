"""Operators that only move elements: shapes, axes, pieces, picking, padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.onnx_import.reshape import from_input
from compress.onnx_import.shape_arithmetic import broadcast_sizes, piece_lengths, sizes_of, slices
from compress.onnx_import.table import Call, Numbers, axes_of, operator, to_tensor, whole


@operator("Shape")
def shape(call: Call, x: Tensor) -> Numbers:
    """Sizes, all or from `start` to `end`, as known numbers."""
    return sizes_of(x)[call.get("start", 0) : call.get("end")]


@operator("Size")
def size(call: Call, x: Tensor) -> Numbers:
    """How many elements."""
    return np.asarray(x.numel())


@operator("Reshape", numbers=(1,))
def reshape(call: Call, x: Tensor, target: Numbers) -> Tensor:
    """Another shape; 0 keeps a size, -1 takes what is left."""
    keep = not call.get("allowzero", 0)
    written = [x.shape[i] if _is(n, 0) and keep else n for i, n in enumerate(whole(target))]
    return x.reshape(written if call.sizes is None else from_input(call.sizes, x.shape, written))


def _is(size: Any, number: int) -> bool:
    return isinstance(size, int) and size == number


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """A matrix: the axes before `axis`, and the others."""
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    front = x.flatten(0, axis - 1) if axis > 1 else x
    return front.flatten(1) if front.dim() > 1 else front.unsqueeze(1)


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Axes in another order, reversed where none is given."""
    return x.permute(call.get("perm") or list(range(x.dim()))[::-1])


@operator("Squeeze", numbers=(1,))
def squeeze(call: Call, x: Tensor, given: Numbers | None = None) -> Tensor:
    """Without some axes of length 1, or without any."""
    axes = axes_of(call, given, x.dim())
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze", numbers=(1,))
def unsqueeze(call: Call, x: Tensor, given: Numbers | None = None) -> Tensor:
    """New axes of length 1."""
    count = len(whole(given) or call.get("axes", ()))
    for axis in sorted(axes_of(call, given, x.dim() + count) or ()):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(call: Call, *values: Tensor | Numbers) -> Tensor:
    """Side by side along an axis."""
    return torch.cat([call.tensor(value) for value in values], call.get("axis", 1))


@operator("Split", numbers=(1,))
def split(call: Call, x: Tensor, given: Numbers | None = None) -> tuple[Tensor, ...]:
    """Pieces along an axis."""
    axis, count = call.get("axis", 0), len(call.node.outputs)
    lengths = piece_lengths(call, int(x.shape[axis]), given)
    if len(set(lengths)) == 1:
        return torch.chunk(x, count, axis)  # by their number, which holds whatever their length
    return tuple(torch.split(x, lengths, axis))


@operator("Slice", numbers=(1, 2, 3, 4))
def pick(call: Call, x: Tensor, *given: Numbers | None) -> Tensor:
    """From starts to ends along axes, in steps; backwards where a step is negative."""
    for axis, part in slices(call, x.dim(), *given):
        if (part.start, part.stop, part.step) in ((0, None, 1), (None, None, 1)):
            continue
        index: list[slice] = [slice(None)] * x.dim()
        if part.step > 0:
            index[axis] = part
            x = x[tuple(index)]
            continue
        # torch has no negative steps: the same elements in the other order, then turned
        chosen = range(int(x.shape[axis]))[part]
        index[axis] = slice(chosen[-1], chosen[0] + 1, -part.step) if len(chosen) else slice(0, 0)
        x = x[tuple(index)].flip(axis)
    return x


@operator("Gather")
def gather(call: Call, x: Tensor | Numbers, indices: Tensor | Numbers) -> Tensor:
    """Elements of one axis, picked by number."""
    axis = call.get("axis", 0)
    if isinstance(indices, Tensor):
        table = call.tensor(x)
        if axis == 0 and table.dim() == 2 and table.dtype.is_floating_point:
            return F.embedding(indices, table)
        return _picked(table, axis % table.dim(), indices)
    tensor = call.tensor(x)
    axis %= tensor.dim()
    if indices.ndim == 0:
        return tensor.select(axis, int(indices))
    if (indices < 0).any():
        indices = np.where(indices < 0, indices + int(tensor.shape[axis]), indices)
    if indices.ndim == 1 and indices.size and bool((np.diff(indices) == 1).all()):
        return tensor.narrow(axis, int(indices[0]), int(indices.size))
    return _picked(tensor, axis, to_tensor(indices.astype(np.int64)))


def _picked(x: Tensor, axis: int, indices: Tensor) -> Tensor:
    flat = x.index_select(axis, indices.reshape(-1))
    return flat if indices.dim() == 1 else flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor | Numbers, indices: Tensor | Numbers) -> Tensor:
    """One element for each index."""
    return torch.gather(call.tensor(x), call.get("axis", 0), call.tensor(indices).long())


@operator("GatherND")
def gather_nd(call: Call, x: Tensor | Numbers, indices: Tensor | Numbers) -> Tensor:
    """Elements at places given by several numbers each."""
    if call.get("batch_dims", 0):
        raise call.refused("batch_dims is not supported")
    return call.tensor(x)[tuple(call.tensor(indices).unbind(-1))]


@operator("ScatterElements")
def scatter_elements(call: Call, x: Tensor, indices: Tensor | Numbers, updates: Tensor | Numbers) -> Tensor:
    """A copy with some elements of one axis replaced."""
    _plain_scatter(call)
    return torch.scatter(call.tensor(x), call.get("axis", 0), call.tensor(indices).long(), call.tensor(updates))


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, indices: Tensor | Numbers, updates: Tensor | Numbers) -> Tensor:
    """A copy with the elements at some places replaced."""
    _plain_scatter(call)
    places = tuple(call.tensor(indices).unbind(-1))
    return call.tensor(x).index_put(places, call.tensor(updates))


def _plain_scatter(call: Call) -> None:
    if call.get("reduction", "none") != "none":
        raise call.refused(f"reduction {call.get('reduction')!r} is not supported")


@operator("Expand", numbers=(1,))
def expand(call: Call, x: Tensor | Numbers, target: Numbers) -> Tensor:
    """Broadcast to a shape, or to what both together need."""
    tensor = call.tensor(x)
    return tensor.expand(broadcast_sizes(tensor.shape, whole(target)))


@operator("Tile", numbers=(1,))
def tile(call: Call, x: Tensor, repeats: Numbers) -> Tensor:
    """Copies along each axis."""
    counts = whole(repeats)
    return x if all(_is(count, 1) for count in counts) else x.repeat(counts)


@operator("ConstantOfShape", numbers=(0,))
def constant_of_shape(call: Call, target: Numbers) -> Tensor:
    """One number everywhere; only the arithmetic of sizes comes here with anything but numbers."""
    raise call.refused("its shape is computed from the data")


@operator("Range", numbers=(0, 1, 2))
def count(call: Call, start: Numbers, limit: Numbers, delta: Numbers) -> Tensor:
    """As ConstantOfShape."""
    raise call.refused("its ends are computed from the data")


@operator("NonZero")
def nonzero(call: Call, x: Tensor) -> Tensor:
    """As ConstantOfShape."""
    raise call.refused("how many places it finds depends on the data")


@operator("Trilu", numbers=(1,))
def triangle(call: Call, x: Tensor | Numbers, diagonal: Numbers | None = None) -> Tensor:
    """The part above or below a diagonal, 0 elsewhere."""
    k = 0 if diagonal is None else int(diagonal.reshape(-1)[0])
    return torch.triu(call.tensor(x), k) if call.get("upper", 1) else torch.tril(call.tensor(x), k)


@operator("OneHot", numbers=(1, 2))
def one_hot(call: Call, indices: Tensor, depth: Numbers, values: Numbers) -> Tensor:
    """A new axis that is `on` at the index and `off` elsewhere."""
    off, on = values.tolist()
    classes = torch.arange(int(depth.reshape(-1)[0]))
    axis = call.get("axis", -1)
    hit = (indices.long() % len(classes)).unsqueeze(-1) == classes
    made = torch.where(hit, on, off).to(call.tensor(values).dtype)
    return made if axis == -1 else made.movedim(-1, axis)


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad", numbers=(1, 2, 3))
def pad(
    call: Call, x: Tensor, pads: Numbers | None = None, value: Numbers | None = None, axes: Numbers | None = None
) -> Tensor:
    """A border around the edges; negative amounts cut."""
    amounts = whole(pads) if pads is not None else list(call.get("pads"))
    along = axes_of(call, axes, x.dim()) if axes is not None else list(range(x.dim()))
    assert along is not None  # they were given
    before, after = amounts[: len(along)], amounts[len(along) :]
    number = value.reshape(-1)[0].item() if value is not None and value.size else call.get("value", 0.0)
    mode = call.get("mode", "constant")
    if mode not in _PAD_MODES:
        raise call.refused(f"mode {mode!r} is not supported")
    return padded(x, dict(zip(along, zip(before, after, strict=True), strict=True)), _PAD_MODES[mode], number)


def padded(x: Tensor, amounts: dict[int, tuple[int, int]], mode: str = "constant", value: float = 0.0) -> Tensor:
    """The tensor with so much before and after each axis; as it is where that is nothing."""
    touched = [axis for axis, pair in amounts.items() if pair != (0, 0)]
    if not touched:
        return x
    first = min(touched)
    if mode != "constant":  # torch wants amounts for all axes but the first two
        first = 2
    flat = [n for axis in range(x.dim() - 1, first - 1, -1) for n in amounts.get(axis, (0, 0))]
    return F.pad(x, flat, mode, value) if mode == "constant" else F.pad(x, flat, mode)


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Blocks of channels become blocks of pixels."""
    block = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Blocks of pixels become blocks of channels."""
    block = call.get("blocksize")
    n, c, h, w = x.shape
    parts: Sequence[int] = (n, c, h // block, block, w // block, block)
    return x.reshape(parts).permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)
