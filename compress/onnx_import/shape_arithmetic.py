"""The arithmetic of sizes: what graphs compute from shapes, done on plain numbers while the network runs.

A free batch size is among the numbers as torch's symbol for it, so that it stays free in what is exported.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import Tensor

from compress.onnx_import.table import Call, Numbers, axes_of, on_numbers, whole

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Sub": np.subtract, "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Pow": np.power, "Floor": np.floor,
    "Ceil": np.ceil, "Round": np.round, "Exp": np.exp, "Log": np.log, "Equal": np.equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal, "And": np.logical_and,
    "Or": np.logical_or, "Xor": np.logical_xor, "Not": np.logical_not, "Reciprocal": np.reciprocal, "Sign": np.sign,
    "Where": lambda condition, x, y: np.where(condition.astype(bool), x, y),
}  # fmt: skip

_FOLDS = {"Add": np.add, "Sum": np.add, "Mul": np.multiply, "Min": np.minimum, "Max": np.maximum}


def tidy(result: Any) -> Numbers:
    """An array, of whole numbers wherever no free size is among them."""
    if isinstance(result, _SYMBOLS):
        array: Numbers = np.empty((), dtype=object)
        array[()] = result
        return array
    array = np.asarray(result)
    if array.dtype == object and not any(isinstance(item, _SYMBOLS) for item in array.reshape(-1)):
        kinds = {type(item) for item in array.reshape(-1)}
        return array.astype(np.float32 if any(issubclass(kind, float) for kind in kinds) else np.int64)
    return array


def sizes_of(x: Tensor) -> Numbers:
    """A tensor's shape as numbers."""
    array = np.empty(x.dim(), dtype=object)
    array[:] = list(x.shape)
    return tidy(array)


@on_numbers(*_ELEMENTWISE)
def elementwise(call: Call, *values: Numbers) -> Numbers:
    """Element by element, with broadcasting."""
    return tidy(_ELEMENTWISE[call.node.operator](*values))


@on_numbers(*_FOLDS)
def fold(call: Call, *values: Numbers) -> Numbers:
    """Element by element, over any number of operands."""
    result: Any = values[0]
    for value in values[1:]:
        result = _FOLDS[call.node.operator](result, value)
    return tidy(result)


@on_numbers("Div")
def divide(call: Call, x: Numbers, y: Numbers) -> Numbers:
    """Whole numbers are divided towards zero."""
    if x.dtype.kind == "f" or y.dtype.kind == "f":
        return tidy(np.divide(x, y))
    if x.dtype == object or y.dtype == object:  # sizes: not negative
        return tidy(np.floor_divide(x, y))
    return tidy(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)))


@on_numbers("Mod")
def modulo(call: Call, x: Numbers, y: Numbers) -> Numbers:
    """The remainder, with the divisor's sign unless `fmod` asks for the dividend's."""
    return tidy(np.fmod(x, y) if call.get("fmod", 0) else np.mod(x, y))


@on_numbers("Cast")
def cast(call: Call, x: Numbers) -> Numbers:
    """Another number type."""
    if x.dtype != object:
        return x.astype(helper.tensor_dtype_to_np_dtype(call.get("to")))
    real = call.dtype(call.get("to")).is_floating_point
    convert = torch.sym_float if real else lambda v: v if isinstance(v, (int, torch.SymInt)) else torch.sym_int(v)
    return tidy(np.frompyfunc(convert, 1, 1)(x))


@on_numbers("CastLike")
def cast_like(call: Call, x: Numbers, like: Numbers) -> Numbers:
    """The number type of another."""
    return x if object in (x.dtype, like.dtype) else x.astype(like.dtype)


@on_numbers("Shape")
def shape(call: Call, x: Numbers) -> Numbers:
    """Sizes, all or from `start` to `end`."""
    return np.array(x.shape, np.int64)[call.get("start", 0) : call.get("end")]


@on_numbers("Size")
def size(call: Call, x: Numbers) -> Numbers:
    """How many elements."""
    return np.asarray(x.size)


@on_numbers("Identity", "Dropout")
def identity(call: Call, x: Numbers, *_: Any) -> Numbers:
    """The same."""
    return x


@on_numbers("Gather")
def gather(call: Call, x: Numbers, indices: Numbers) -> Numbers:
    """Picked along an axis."""
    return tidy(np.take(x, indices.astype(np.int64), call.get("axis", 0)))


@on_numbers("Concat")
def concat(call: Call, *values: Numbers) -> Numbers:
    """Side by side."""
    return tidy(np.concatenate(values, call.get("axis")))


@on_numbers("Slice")
def pick(call: Call, x: Numbers, *given: Numbers | None) -> Numbers:
    """From starts to ends along axes, in steps."""
    index: list[Any] = [slice(None)] * x.ndim
    for axis, part in slices(call, x.ndim, *given):
        index[axis] = part
    return tidy(x[tuple(index)])


def slices(
    call: Call,
    rank: int,
    starts: Numbers | None = None,
    ends: Numbers | None = None,
    axes: Numbers | None = None,
    steps: Numbers | None = None,
) -> list[tuple[int, slice]]:
    """(axis, slice) for each axis that a Slice cuts; inputs, or attributes in old files."""
    begin = whole(starts) if starts is not None else list(call.get("starts"))
    end = whole(ends) if ends is not None else list(call.get("ends"))
    along = axes_of(call, axes, rank) or list(range(len(begin)))
    step = whole(steps) or [1] * len(begin)
    parts = zip(along, begin, end, step, strict=True)
    return [(axis, slice(_bound(b), None if s < 0 and _before(e) else _bound(e), s)) for axis, b, e, s in parts]


def _bound(value: Any) -> Any:
    """An end beyond every size is none: a free size need not be compared with it."""
    return None if isinstance(value, int) and value >= 2**31 - 1 else value


def _before(end: Any) -> bool:
    """An end of a backward slice that lies before the first element."""
    return isinstance(end, int) and end < -(2**31) + 1


@on_numbers("Unsqueeze")
def unsqueeze(call: Call, x: Numbers, given: Numbers | None = None) -> Numbers:
    """New axes of length 1."""
    count = len(whole(given) or call.get("axes", ()))
    return np.expand_dims(x, tuple(axes_of(call, given, x.ndim + count) or ()))


@on_numbers("Squeeze")
def squeeze(call: Call, x: Numbers, given: Numbers | None = None) -> Numbers:
    """Without the axes of length 1."""
    axes = axes_of(call, given, x.ndim)
    return np.squeeze(x, None if axes is None else tuple(axes))


@on_numbers("Reshape")
def reshape(call: Call, x: Numbers, target: Numbers) -> Numbers:
    """Another shape; 0 keeps a size, -1 takes what is left."""
    keep = not call.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(whole(target))])


@on_numbers("Transpose")
def transpose(call: Call, x: Numbers) -> Numbers:
    """Axes in another order."""
    return x.transpose(call.get("perm"))


@on_numbers("Split")
def split(call: Call, x: Numbers, given: Numbers | None = None) -> tuple[Numbers, ...]:
    """Pieces along an axis."""
    axis = call.get("axis", 0)
    lengths = piece_lengths(call, x.shape[axis], given)
    return tuple(tidy(part) for part in np.split(x, np.cumsum(lengths)[:-1], axis))


def piece_lengths(call: Call, length: int, given: Numbers | None) -> list[int]:
    """How long each piece of a Split is; the last one may be shorter where only their number is said."""
    said = whole(given) if given is not None else call.get("split")
    if said is not None:
        return list(said)
    each = -(-length // len(call.node.outputs))
    return [min(each, length - each * index) for index in range(len(call.node.outputs))]


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceMin": np.min,
    "ReduceMax": np.max,
}


@on_numbers(*_REDUCTIONS)
def reduce(call: Call, x: Numbers, given: Numbers | None = None) -> Numbers:
    """Over axes."""
    axes = axes_of(call, given, x.ndim)
    return tidy(
        _REDUCTIONS[call.node.operator](
            x, axis=None if axes is None else tuple(axes), keepdims=bool(call.get("keepdims", 1))
        )
    )


@on_numbers("Range")
def count(call: Call, start: Numbers, limit: Numbers, delta: Numbers) -> Numbers | Tensor:
    """start, start + delta ... below limit."""
    first, last, step = (value.reshape(-1)[0] for value in (start, limit, delta))
    if object in (start.dtype, limit.dtype, delta.dtype):
        return torch.arange(first, last, step)
    return np.arange(first, last, step, dtype=start.dtype)


@on_numbers("ConstantOfShape")
def constant_of_shape(call: Call, target: Numbers) -> Numbers | Tensor:
    """One number everywhere."""
    value = call.get("value", np.zeros(1, np.float32)).reshape(-1)
    return filled(call, whole(target), value)


def filled(call: Call, sizes: Sequence[Any], value: Numbers) -> Numbers | Tensor:
    """One number everywhere; a tensor where a size is free."""
    if any(isinstance(size, torch.SymInt) for size in sizes):
        return call.tensor(value).reshape(()).expand(list(sizes))
    return np.full(sizes, value[0], value.dtype)


@on_numbers("Expand")
def expand(call: Call, x: Numbers, target: Numbers) -> Numbers | Tensor:
    """Broadcast to a shape, or to what both together need."""
    sizes = whole(target)
    if any(isinstance(size, torch.SymInt) for size in sizes):
        tensor = call.tensor(x)
        return tensor.expand(broadcast_sizes(tensor.shape, sizes))
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(sizes))).copy()


def broadcast_sizes(shape: Sequence[Any], target: Sequence[Any]) -> list[Any]:
    """The shape that both together need, as `Tensor.expand` takes it: -1 where the tensor keeps its size."""
    rank = max(len(shape), len(target))
    wanted = [1] * (rank - len(target)) + list(target)
    held = [None] * (rank - len(shape)) + list(shape)
    return [-1 if h is not None and (_is_one(w) or not _is_one(h)) else w for h, w in zip(held, wanted, strict=True)]


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


@on_numbers("Tile")
def tile(call: Call, x: Numbers, repeats: Numbers) -> Numbers:
    """Copies along each axis."""
    return np.tile(x, tuple(whole(repeats)))


@on_numbers("NonZero")
def nonzero(call: Call, x: Numbers) -> Numbers:
    """The places of what is not zero, one column each; old exporters count with it."""
    return np.stack(np.nonzero(x))


@on_numbers("CumSum")
def cumsum(call: Call, x: Numbers, axis: Numbers) -> Numbers:
    """Running sum."""
    if call.get("exclusive", 0) or call.get("reverse", 0):
        raise call.refused("an exclusive or reversed sum of sizes is not supported")
    return tidy(np.cumsum(x, int(axis)))
