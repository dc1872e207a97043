"""One function for every ONNX operator, by its name: it writes C and gives the values of the node's outputs.

Values are without their batch of 1, so axis 1 of the graph is axis 0 here.
"""

from math import prod
from typing import Any

import numpy as np

from compress_exporters._c.convolution import Geometry, activated, convolution, linear
from compress_exporters._c.net import Quant, Value
from compress_exporters._c.node import Node


def Conv(node: Node) -> Value:
    weight = node.constant(1)
    geometry = geometry_of(node, node.value().shape, weight)
    bias = node.constant(2)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    return convolution(node.net, "conv", node.value(), weight, bias, geometry, node.activation)


def geometry_of(node: Node, shape: tuple[int, ...], weight: Any) -> Geometry:
    """Sizes of a convolution of an input (C, H, W)."""
    if weight is None or weight.ndim != 4:
        raise node.refuse("of other than two dimensions")
    size = (shape[1], shape[2])
    kernel = (weight.shape[2], weight.shape[3])
    dilation = tuple(node.attributes.get("dilations", (1, 1)))
    stride = tuple(node.attributes.get("strides", (1, 1)))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    pad = _pads(node, size, reach, stride)
    out = tuple((size[i] + pad[i] + pad[i + 2] - reach[i]) // stride[i] + 1 for i in (0, 1))
    return Geometry(shape[0], size, out, kernel, stride, pad, dilation, node.attributes.get("group", 1))


def Gemm(node: Node) -> Value:
    a = node.attributes
    weight, bias = node.constant(1), node.constant(2)
    if a.get("transA", 0):
        raise node.refuse("with a transposed input")
    weight = a.get("alpha", 1.0) * (weight if a.get("transB", 0) else weight.T)
    bias = (
        np.zeros(len(weight), np.float32)
        if bias is None
        else a.get("beta", 1.0) * np.broadcast_to(bias.reshape(-1), len(weight))
    )
    return linear(
        node.net,
        "linear",
        node.net.floats_of(node.row()),
        weight.astype(np.float32),
        bias.astype(np.float32),
        node.activation,
    )


def MatMul(node: Node) -> Value:
    weight = node.constant(1)
    if weight.ndim != 2:
        raise node.refuse("of more than two dimensions")
    return linear(
        node.net,
        "linear",
        node.net.floats_of(node.row()),
        weight.T,
        np.zeros(weight.shape[1], np.float32),
        node.activation,
    )


def MaxPool(node: Node) -> Value:
    window = "v = v > x[at] ? v : x[at];"
    return pool(node, node.value(), ("float v = -INFINITY", window, activated(node.activation, "v")))


def AveragePool(node: Node) -> Value:
    return pool(node, node.value(), ("float v = 0", "v += x[at];", activated(node.activation, "v / n")), counts=True)


def GlobalAveragePool(node: Node) -> Value:
    return _mean(node, keep=True)


def ReduceMean(node: Node) -> Value:
    return _mean(node, keep=over_maps(node))


def over_maps(node: Node) -> bool:
    """Whether a ReduceMean, over height and width, keeps these axes.

    Raises:
        ExportError: it is over other axes.
    """
    axes = node.constant(1)
    axes = node.attributes.get("axes") if axes is None else axes.tolist()
    rank = len(node.tensor().shape) + 1
    if sorted(a % rank for a in axes or ()) != [2, 3] or rank != 4:
        raise node.refuse(f"over axes {axes}")
    return bool(node.attributes.get("keepdims", 1))


def Add(node: Node) -> Value:
    return _pairwise(node, "+")


def Sub(node: Node) -> Value:
    return _pairwise(node, "-")


def Mul(node: Node) -> Value:
    return _pairwise(node, "*")


def Div(node: Node) -> Value:
    return _pairwise(node, "/")


def BatchNormalization(node: Node) -> Value:
    scale, shift, mean, variance = (node.constant(i) for i in range(1, 5))
    gain = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    x = node.value()
    a, b = node.net.floats("gain", gain), node.net.floats("shift", shift - mean * gain)
    inner = prod(x.shape[1:])
    body = f"""for (int c = 0; c < {x.shape[0]}; ++c)
  for (int i = 0; i < {inner}; ++i)
    y[c * {inner} + i] = {activated(node.activation, f"x[c * {inner} + i] * {a}[c] + {b}[c]")};"""
    return node.net.step("norm", [x], x.shape, body)


def Softmax(node: Node) -> Value:
    x = node.value()
    if len(x.shape) != 1 or node.attributes.get("axis", -1) not in (1, -1):
        raise node.refuse("other than over one row of scores")
    body = f"""float most = x[0], sum = 0;
for (int i = 1; i < {x.size}; ++i)
  most = x[i] > most ? x[i] : most;
for (int i = 0; i < {x.size}; ++i)
  sum += y[i] = expf(x[i] - most);
for (int i = 0; i < {x.size}; ++i)
  y[i] /= sum;"""
    return node.net.step("softmax", [x], x.shape, body)


def _pads(
    node: Node, size: tuple[int, int], reach: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[int, int, int, int]:
    auto = node.attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto == "NOTSET":
        a, b, c, d = node.attributes.get("pads", (0, 0, 0, 0))
        return a, b, c, d
    if auto == "VALID":
        return 0, 0, 0, 0
    whole = [max(0, (-(-size[i] // stride[i]) - 1) * stride[i] + reach[i] - size[i]) for i in (0, 1)]
    first = [n // 2 if auto == "SAME_UPPER" else n - n // 2 for n in whole]
    return first[0], first[1], whole[0] - first[0], whole[1] - first[1]


def pool(
    node: Node, x: Value, code: tuple[str, str, str], *, counts: bool = False, quant: Quant | None = None
) -> Value:
    """Emit a pool.

    Args:
        node: the operator.
        x: input.
        code: declaration of the sum ``v``, the statement that takes ``x[at]`` in, and the finished result.
        counts: whether the result needs ``n``, the places that the window counts.
        quant: of the result.
    """
    if len(x.shape) != 3:
        raise node.refuse("of other than two dimensions")
    channels, rows, columns = x.shape
    (kh, kw), (sy, sx) = node.attributes["kernel_shape"], node.attributes.get("strides", (1, 1))
    if any(d != 1 for d in node.attributes.get("dilations", (1, 1))):
        raise node.refuse("with dilation")
    top, left, bottom, right = _pads(node, (rows, columns), (kh, kw), (sy, sx))
    rounds_up = bool(node.attributes.get("ceil_mode", 0))
    height = _windows(rows, kh, sy, (top, bottom), rounds_up=rounds_up)
    width = _windows(columns, kw, sx, (left, right), rounds_up=rounds_up)
    inside = top + left == 0 and (height - 1) * sy + kh <= rows and (width - 1) * sx + kw <= columns
    row, column = f"r * {sy} + j - {top}", f"i * {sx} + l - {left}"
    within = f"if ({row} >= 0 && {row} < {rows} && {column} >= 0 && {column} < {columns})"
    check = "" if inside else within
    # An average counts the border where it is told to, but never what lies behind it.
    counted = f"if ({row} < {rows + bottom} && {column} < {columns + right}) ++n;"
    if not node.attributes.get("count_include_pad", 0):
        counted = f"{check} ++n;"
    start, add, end = code
    if counts and inside:
        start += f"; const int n = {kh * kw}"
    elif counts:
        start += "; int n = 0"
    counted = counted if counts and not inside else ""
    body = f"""for (int c = 0; c < {channels}; ++c)
  for (int r = 0; r < {height}; ++r)
    for (int i = 0; i < {width}; ++i) {{
      {start};
      for (int j = 0; j < {kh}; ++j)
        for (int l = 0; l < {kw}; ++l) {{
          {counted}
          {check} {{
            const int at = (c * {rows} + {row}) * {columns} + {column};
            {add}
          }}
        }}
      y[(c * {height} + r) * {width} + i] = {end};
    }}"""
    return node.net.step("pool", [x], (channels, height, width), body, quant)


def _windows(size: int, kernel: int, stride: int, pads: tuple[int, int], *, rounds_up: bool) -> int:
    """How many windows a pool has along an axis; one that begins behind the image is left out.

    >>> _windows(9, 2, 2, (0, 0), rounds_up=False), _windows(9, 2, 2, (0, 0), rounds_up=True)
    (4, 5)
    >>> _windows(4, 2, 2, (1, 1), rounds_up=True), _windows(5, 3, 3, (0, 2), rounds_up=True)
    (3, 2)
    """
    rounded = -1 if rounds_up else 1
    count = rounded * (rounded * (size + sum(pads) - kernel) // stride) + 1
    return count - ((count - 1) * stride >= size + pads[0])


def _mean(node: Node, *, keep: bool) -> Value:
    x = node.value()
    inner = prod(x.shape[1:])
    body = f"""for (int c = 0; c < {x.shape[0]}; ++c) {{
  float v = 0;
  for (int i = 0; i < {inner}; ++i)
    v += x[c * {inner} + i];
  y[c] = {activated(node.activation, f"v / {inner}")};
}}"""
    result = node.net.step("mean", [x], (x.shape[0], 1, 1), body)
    return result if keep else node.net.alias(result, (x.shape[0],))


def _pairwise(node: Node, sign: str) -> Value:
    """Two values of one shape, or one with a number or a number for each channel."""
    if any(name in node.net.constants for name in node.inputs):
        return _with_constant(node, sign)
    a, b = node.value(0), node.value(1)
    shape = max(a.shape, b.shape, key=prod)
    places = []
    for value in (a, b):
        if value.shape == shape:
            places.append("i")
        elif value.shape == (shape[0],) + (1,) * (len(shape) - 1):
            places.append(f"i / {prod(shape[1:])}")  # squeeze and excitation
        else:
            raise node.refuse(f"of shapes {a.shape} and {b.shape}")
    result = activated(node.activation, f"x0[{places[0]}] {sign} x1[{places[1]}]")
    return node.net.step("join", [a, b], shape, f"for (int i = 0; i < {prod(shape)}; ++i)\n  y[i] = {result};")


def _with_constant(node: Node, sign: str) -> Value:
    first = node.inputs[0] in node.net.constants
    x, constant = node.value(int(first)), np.asarray(node.constant(0 if first else 1), np.float32)
    inner = prod(x.shape[1:])
    if constant.size == 1:
        other = f"{node.net.floats('c', constant)}[0]"
    elif constant.size == x.shape[0] and constant.shape[-len(x.shape) :] == (x.shape[0], *[1] * (len(x.shape) - 1)):
        other = f"{node.net.floats('c', constant)}[i / {inner}]"
    else:
        raise node.refuse(f"of shape {x.shape} with a constant of shape {constant.shape}")
    left, right = (other, "x[i]") if first else ("x[i]", other)
    value = activated(node.activation, f"{left} {sign} {right}")
    return node.net.step("map", [x], x.shape, f"for (int i = 0; i < {x.size}; ++i)\n  y[i] = {value};")


def activation(node: Node) -> Value:
    """An operator of `ACTIVATIONS` that could not be joined with the one before it."""
    x = node.value()
    return node.net.step(
        "map", [x], x.shape, f"for (int i = 0; i < {x.size}; ++i)\n  y[i] = {activated(node.activation, 'x[i]')};"
    )
