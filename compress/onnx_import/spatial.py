"""Convolution, pooling and what else works on positions; their pads."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.onnx_import.movement import padded
from compress.onnx_import.table import Call, operator

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE_POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class Window:
    """How a kernel moves over an input: strides, dilations, and pads at the begin and end of each axis."""

    def __init__(self, call: Call, kernel: Sequence[int]) -> None:
        axes = len(kernel)
        if axes not in (1, 2, 3):
            raise call.refused(f"{axes} axes of positions; 1, 2 and 3 are supported")
        self.kernel = [int(n) for n in kernel]
        self.strides: list[int] = list(call.get("strides") or [1] * axes)
        self.dilations: list[int] = list(call.get("dilations") or [1] * axes)
        self.auto = call.get("auto_pad", "NOTSET")
        pads = list(call.get("pads") or [0] * 2 * axes) if self.auto in ("NOTSET", "") else [0] * 2 * axes
        self.begin, self.end = pads[:axes], pads[axes:]

    @property
    def span(self) -> list[int]:
        """Positions that a dilated kernel covers."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def same(self) -> bool:
        """Pads depend on the input's size, so that the output has one position per stride."""
        return self.auto in ("SAME_UPPER", "SAME_LOWER")

    def fixed_pads(self) -> list[int] | None:
        """Pads that are equal at both ends whatever the input's size, or None."""
        if not self.same:
            return self.begin if self.begin == self.end else None
        centred = all(s == 1 and n % 2 for s, n in zip(self.strides, self.span, strict=True))
        return [n // 2 for n in self.span] if centred else None

    def pads(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """(begin, end) of each axis for an input of these sizes."""
        if not self.same:
            return list(zip(self.begin, self.end, strict=True))
        found = []
        for size, stride, span in zip(sizes, self.strides, self.span, strict=True):
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            small = total // 2
            found.append((small, total - small) if self.auto == "SAME_UPPER" else (total - small, small))
        return found


def _positions(x: Tensor) -> list[int]:
    return [int(size) for size in x.shape[2:]]


def _around(pads: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    return {axis + 2: pair for axis, pair in enumerate(pads)}


@operator("Conv")
def convolution(call: Call, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """y[n, o, ...] = sum of x[n, i, ...] * weight[o, i, ...] + bias[o], within each of the groups."""
    if call.layer is not None:
        held = call.layer.weight
        assert isinstance(held, Tensor)
        window = Window(call, held.shape[2:])
        if window.fixed_pads() is None:
            x = padded(x, _around(window.pads(_positions(x))))
        result: Tensor = call.layer(x)
        return result
    assert weight is not None  # ONNX's checker refuses a Conv without
    window = Window(call, weight.shape[2:])
    x = padded(x, _around(window.pads(_positions(x))))
    function = _CONVOLUTIONS[len(window.kernel) - 1]
    return function(x, weight, bias, window.strides, 0, window.dilations, call.get("group", 1))


@operator("ConvTranspose")
def transposed_convolution(call: Call, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The gradient of a convolution; its pads are cut from the output."""
    if isinstance(call.layer, nn.modules.conv._ConvTransposeNd):
        weight, bias = call.layer.weight, call.layer.bias
    assert weight is not None  # ONNX's checker refuses a ConvTranspose without
    window = Window(call, weight.shape[2:])
    axes = len(window.kernel)
    extra: list[int] = list(call.get("output_padding") or [0] * axes)
    pads = _cut(call, window, _positions(x), extra)
    even = all(begin == end for begin, end in pads)
    if isinstance(call.layer, nn.modules.conv._ConvTransposeNd) and list(call.layer.padding) == [b for b, _ in pads]:
        result: Tensor = call.layer(x)
    else:
        padding = [begin for begin, _ in pads] if even else [0] * axes
        function = _TRANSPOSED[axes - 1]
        result = function(
            x, weight, bias, window.strides, padding, extra, call.get("group", 1), window.dilations
        )  # fmt: skip
    return result if even else padded(result, {axis + 2: (-begin, -end) for axis, (begin, end) in enumerate(pads)})


def _cut(call: Call, window: Window, sizes: Sequence[int], extra: Sequence[int]) -> list[tuple[int, int]]:
    """What a transposed convolution cuts from each end."""
    wanted = call.get("output_shape")
    if wanted is not None:
        wanted = list(wanted)[-len(window.kernel) :]
    elif window.same:
        wanted = [size * stride for size, stride in zip(sizes, window.strides, strict=True)]
    else:
        return list(zip(window.begin, window.end, strict=True))
    pads = []
    for size, stride, span, more, want in zip(sizes, window.strides, window.span, extra, wanted, strict=True):
        total = stride * (size - 1) + more + span - want
        if total < 0:
            raise call.refused(f"an output of {want} positions is larger than the kernel reaches")
        small = total // 2
        pads.append((small, total - small) if window.auto == "SAME_UPPER" else (total - small, small))
    return pads


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor:
    """The largest element under the kernel."""
    if call.wanted(1):
        raise call.refused("the places of the largest elements are read, which is not supported")
    window = Window(call, call.get("kernel_shape"))
    pads = window.pads(_positions(x))
    padding = _pool_padding(window, pads)
    if padding is None:
        x, padding = padded(x, _around(pads), value=-math.inf), [0] * len(pads)
    function = _MAX_POOLS[len(pads) - 1]
    ceil = bool(call.get("ceil_mode", 0))
    return function(x, window.kernel, window.strides, padding, window.dilations, ceil)


def _pool_padding(window: Window, pads: Sequence[tuple[int, int]]) -> list[int] | None:
    """Pads as torch's pooling takes them: equal at both ends, at most half the kernel; or None."""
    fits = all(begin == end and 2 * begin <= k for (begin, end), k in zip(pads, window.kernel, strict=True))
    return [begin for begin, _ in pads] if fits else None


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean of the elements under the kernel, with or without the pads."""
    window = Window(call, call.get("kernel_shape"))
    if any(d != 1 for d in window.dilations):
        raise call.refused("dilations are not supported")
    pads = window.pads(_positions(x))
    padding = _pool_padding(window, pads)
    counted, ceil = bool(call.get("count_include_pad", 0)), bool(call.get("ceil_mode", 0))
    function: Any = _AVERAGE_POOLS[len(pads) - 1]
    if padding is not None:
        return function(x, window.kernel, window.strides, padding, ceil, counted)  # type: ignore[no-any-return]

    def pooled(values: Tensor) -> Tensor:
        return function(padded(values, _around(pads)), window.kernel, window.strides, 0, ceil)  # type: ignore[no-any-return]

    if counted:
        return pooled(x)
    # the share of real elements under each position of the kernel
    return pooled(x) / pooled(torch.ones(1, 1, *_positions(x), dtype=x.dtype))


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean over all positions."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """The largest over all positions."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


@operator("LRN")
def local_response_normalisation(call: Call, x: Tensor) -> Tensor:
    """Divided by what the neighbouring channels hold."""
    size = call.get("size")
    if size % 2 == 0:
        raise call.refused(f"an even size, {size}, is not supported")
    return F.local_response_norm(x, size, call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0))


@operator("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Pixels read at given places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.get("mode", "bilinear"), call.get("mode", "bilinear"))
    padding = call.get("padding_mode", "zeros")
    return F.grid_sample(x, grid, mode, padding, bool(call.get("align_corners", 0)))
