"""Reductions over axes, softmax, sorting, running sums."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.onnx_import.table import Call, Numbers, axes_of, operator

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "ReduceProd": _product,
}


@operator(*_REDUCTIONS, numbers=(1,))
def reduction(call: Call, x: Tensor, given: Numbers | None = None) -> Tensor:
    """Over axes: an input or, in old files, an attribute; over all where none are given."""
    axes = axes_of(call, given, x.dim())
    if not axes:
        if call.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    return _REDUCTIONS[call.node.operator](x, axes, bool(call.get("keepdims", 1)))


@operator("Softmax", "LogSoftmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Over one axis; before opset 13 over all axes from the given one on, taken together."""
    function = torch.softmax if call.node.operator == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return function(x, call.get("axis", -1))
    axis = call.get("axis", 1) % x.dim()
    if axis == x.dim() - 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


@operator("ArgMax", "ArgMin")
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    """Where along an axis the largest or least element is."""
    if call.get("select_last_index", 0):
        raise call.refused("the last of several equal elements is asked for, which is not supported")
    function = torch.argmax if call.node.operator == "ArgMax" else torch.argmin
    return function(x, call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))


@operator("TopK", numbers=(1,))
def top_k(call: Call, x: Tensor, count: Numbers | None = None) -> tuple[Tensor, Tensor]:
    """The k largest or least elements along an axis, and where they are."""
    k = int(count.reshape(-1)[0]) if count is not None else call.get("k")
    found = torch.topk(x, k, call.get("axis", -1), bool(call.get("largest", 1)), bool(call.get("sorted", 1)))
    return found.values, found.indices


@operator("CumSum", numbers=(1,))
def cumsum(call: Call, x: Tensor, axis: Numbers) -> Tensor:
    """Running sum along an axis."""
    along = int(axis.reshape(-1)[0])
    turned = x.flip(along) if call.get("reverse", 0) else x
    total = turned.cumsum(along, dtype=x.dtype)
    if call.get("exclusive", 0):
        total = total - turned
    return total.flip(along) if call.get("reverse", 0) else total


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """Divided by its norm along an axis."""
    norm: Tensor = torch.linalg.vector_norm(x, call.get("p", 2), call.get("axis", -1), keepdim=True)
    return x / norm


@operator("Einsum")
def einsum(call: Call, *operands: Any) -> Tensor:
    """Sums of products, in Einstein's notation."""
    return torch.einsum(call.get("equation"), *(call.tensor(operand) for operand in operands))
