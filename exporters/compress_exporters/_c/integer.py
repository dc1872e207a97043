"""Operators on 8-bit integers: sums are 32-bit integers, and a result is scaled once, when it is written.

The functions have the names of `operators`; one gives None where it has no integer form: the operator then computes
in float. How a real number is stored is said by the graph (QuantizeLinear); see `fixed_point` for the arithmetic.
"""

from math import inf, isinf, prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress_exporters._c import fixed_point, operators
from compress_exporters._c.convolution import Geometry, activated
from compress_exporters._c.integer_convolution import Layer, Scaled, convolution
from compress_exporters._c.net import Quant, Value, real
from compress_exporters._c.node import Finish, Node


def Conv(node: Node) -> Value | None:
    kept, x = node.kept(1), node.tensor()
    if kept is None or kept.axis != 0 or kept.stored.ndim != 4:
        return None
    return _layer(node, x, kept.stored, kept.scale, operators.geometry_of(node, x.shape, kept.stored))


def Gemm(node: Node) -> Value | None:
    a = node.attributes
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1:
        return None
    return _linear(node, outputs=0 if a.get("transB", 0) else 1)


def MatMul(node: Node) -> Value | None:
    return _linear(node, outputs=1)


def _linear(node: Node, outputs: int) -> Value | None:
    kept, x = node.kept(1), node.row()
    if kept is None or kept.stored.ndim != 2 or (kept.scale.size > 1 and kept.axis != outputs):
        return None
    weight = kept.stored if outputs == 0 else kept.stored.T
    geometry = Geometry(weight.shape[1], (1, 1), (1, 1), (1, 1))
    y = _layer(node, node.net.alias(x, (x.size, 1, 1)), weight[..., None, None], kept.scale, geometry)
    return None if y is None else node.net.alias(y, (len(weight),))


def _layer(node: Node, x: Value, weight: np.ndarray, scale: np.ndarray, geometry: Geometry) -> Value | None:
    assert x.quant is not None
    weight = weight.astype(np.int8)
    unit = x.quant.scale * np.broadcast_to(scale.astype(np.float64).reshape(-1), len(weight))
    bias = node.constant(2)
    start = np.zeros(len(weight)) if bias is None else np.rint(np.asarray(bias, np.float64).reshape(-1) / unit)
    weights = weight.reshape(len(weight), -1).astype(np.int64)
    largest = np.abs(start) + 256 * np.abs(weights).sum(1)
    scaled = _scaled(node, unit, largest, "o")
    if scaled is None:
        return None
    start = start.astype(np.int64) - x.quant.zero * weights.sum(1)
    layer = Layer(weight, start.astype(np.int32), scaled, node.finish.quant, node.finish.pool)
    return convolution(node.net, node.op, x, layer, geometry)


def MaxPool(node: Node) -> Value | None:
    x = node.tensor()
    if node.finish.bounds is None or x.quant is None:
        return None
    low, high = _limits(node.finish, x.quant)
    end = "v" if (low, high) == (-128, 127) else f"net_int8(v, {low}, {high})"
    return operators.pool(node, x, ("int32_t v = -128", "v = v > x[at] ? v : x[at];", f"(int8_t){end}"), quant=x.quant)


def AveragePool(node: Node) -> Value | None:
    x = node.tensor()
    assert x.quant is not None
    places = prod(node.attributes["kernel_shape"])
    counts = np.arange(1, places + 1)
    scaled = _scaled(node, x.quant.scale / counts, 256 * counts, "n - 1")
    if scaled is None:
        return None
    add = f"v += x[at] - {x.quant.zero};"
    code = ("int32_t v = 0", add, scaled.of("v", scaled.factor))
    return operators.pool(node, x, code, counts=True, quant=node.finish.quant)


def GlobalAveragePool(node: Node) -> Value | None:
    return _mean(node, keep=True)


def ReduceMean(node: Node) -> Value | None:
    return _mean(node, keep=operators.over_maps(node))


def _mean(node: Node, *, keep: bool) -> Value | None:
    x, inner = node.tensor(), prod(node.tensor().shape[1:])
    assert x.quant is not None
    scaled = _scaled(node, np.array([x.quant.scale / inner]), np.array([256 * inner]), "0")
    if scaled is None:
        return None
    body = f"""for (int c = 0; c < {x.shape[0]}; ++c) {{
  int32_t v = {-x.quant.zero * inner};
  for (int i = 0; i < {inner}; ++i)
    v += x[c * {inner} + i];
  y[c] = {scaled.of("v", scaled.factor)};
}}"""
    result = node.net.step("mean", [x], (x.shape[0], 1, 1), body, node.finish.quant)
    return result if keep else node.net.alias(result, (x.shape[0],))


def Add(node: Node) -> Value | None:
    return _sum(node, (1.0, 1.0))


def Sub(node: Node) -> Value | None:
    return _sum(node, (1.0, -1.0))


def _sum(node: Node, signs: tuple[float, float]) -> Value | None:
    if any(name in node.net.constants for name in node.inputs):
        return table(node)
    result, values = node.finish.quant, [node.tensor(0), node.tensor(1)]
    if result is None or values[0].shape != values[1].shape:
        return None
    quants = [value.quant for value in values if value.quant]
    factors = np.array([sign * q.scale / result.scale for sign, q in zip(signs, quants, strict=True)])
    weighted = fixed_point.weighted(factors, [q.zero for q in quants], result.zero)
    if weighted is None:
        return None
    (a, b), start, shift = weighted
    sum = f"({a} * x0[i] + {b} * x1[i] + {start}) >> {shift}"
    return _map(node, values, f"net_int8({sum}, {_words(node.finish, result)})")


def Mul(node: Node) -> Value | None:
    if any(name in node.net.constants for name in node.inputs):
        return table(node)
    values = sorted((node.tensor(0), node.tensor(1)), key=lambda v: -v.size)
    shape, quants = values[0].shape, [value.quant for value in values if value.quant]
    places = {shape: "i", (shape[0], *[1] * (len(shape) - 1)): f"i / {prod(shape[1:])}"}
    if node.finish.quant is None or values[1].shape not in places:
        return None
    scaled = _scaled(node, np.array([quants[0].scale * quants[1].scale]), np.array([2**16]), "0")
    if scaled is None:
        return None
    product = f"(x0[i] - {quants[0].zero}) * (x1[{places[values[1].shape]}] - {quants[1].zero})"
    return _map(node, values, scaled.of(product, scaled.factor))


def Div(node: Node) -> Value | None:
    return table(node) if any(name in node.net.constants for name in node.inputs) else None


def Concat(node: Node) -> Value | None:
    result, values = node.finish.quant, [node.tensor(i) for i in range(len(node.inputs))]
    if result is None or node.attributes["axis"] % (len(values[0].shape) + 1) != 1:
        return None
    lines, at = [], 0
    for i, value in enumerate(values):
        name = f"x{i}" if len(values) > 1 else "x"
        if value.quant == result:
            lines.append(f"memcpy(y + {at}, {name}, {value.size});")
        elif value.quant:
            stored = _rescaled(value.quant, result, f"{name}[i]")
            if stored is None:
                return None
            lines.append(f"for (int i = 0; i < {value.size}; ++i)\n  y[{at} + i] = {stored};")
        at += value.size
    shape = (sum(v.shape[0] for v in values), *values[0].shape[1:])
    return node.net.step("concat", values, shape, "\n".join(lines), result)


def table(node: Node) -> Value | None:
    """An operator of one number at a time: its results for all 256 integers are a table.

    What it computes is what ONNX's own reference says.
    """
    position = next(i for i, name in enumerate(node.inputs) if name in node.net.values)
    x, result = node.tensor(position), node.finish.quant
    constants = {n: np.asarray(node.net.constants[n]) for n in node.inputs if n in node.net.constants}
    if result is None or x.quant is None or any(c.size != 1 for c in constants.values()):
        return None
    given = ((np.arange(-128, 128) - x.quant.zero) * x.quant.scale).astype(np.float32)
    answers = _reference(node, node.inputs[position], given, constants)
    entries = np.clip(np.rint(answers.astype(np.float64) / result.scale) + result.zero, *_limits(node.finish, result))
    return _map(node, [x], f"{node.net.signed('table', entries.astype(np.int8))}[x[i] + 128]")


def _reference(node: Node, name: str, given: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    made = helper.make_node(node.op, node.inputs, ["y"], **node.attributes)
    held = [numpy_helper.from_array(value.reshape(()), n) for n, value in constants.items()]
    entries = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [256]) for n in (name, "y")]
    graph = helper.make_graph([made], "table", entries[:1], entries[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return np.asarray(next(iter(ReferenceEvaluator(model).run(None, {name: given}))))


def quantise(node: Node, quant: Quant) -> Value:
    """QuantizeLinear of floats, or of integers that are stored otherwise.

    Floats are rounded in integers, because what compilers make of a product and a sum of floats differs.
    """
    x = node.tensor()
    stored = _rescaled(x.quant, quant, "x[i]") if x.quant else None
    if stored:
        body = f"for (int i = 0; i < {x.size}; ++i)\n  y[i] = {stored};"
    else:
        x = node.value()
        factor = real(2.0**16 / quant.scale)
        body = f"""for (int i = 0; i < {x.size}; ++i) {{
  float v = x[i] * {factor};
  v = v > -0x1p25f ? v : -0x1p25f;
  v = v < 0x1p25f ? v : 0x1p25f;
  y[i] = net_int8(((int32_t)v + {(quant.zero << 16) + (1 << 15)}) >> 16, -128, 127);
}}"""
    return node.net.step("quantise", [x], x.shape, body, quant)


def _rescaled(given: Quant, result: Quant, value: str) -> str | None:
    """C of a stored integer as it is stored elsewhere; None where 32 bits are too few."""
    weighted = fixed_point.weighted(np.array([given.scale / result.scale]), [given.zero], result.zero)
    if weighted is None:
        return None
    (m,), start, shift = weighted
    return f"net_int8(({m} * {value} + {start}) >> {shift}, -128, 127)"


def _map(node: Node, values: list[Value], expression: str) -> Value:
    """An expression of every entry ``i``."""
    size = prod(values[0].shape)
    body = f"for (int i = 0; i < {size}; ++i)\n  y[i] = {expression};"
    return node.net.step(node.op, values, values[0].shape, body, node.finish.quant)


def _scaled(node: Node, units: np.ndarray, largest: np.ndarray, index: str) -> Scaled | None:
    """How sums in these units, of at most these sizes, become results; None where 32 bits are too few."""
    finish, net = node.finish, node.net
    result = finish.quant
    if not (largest < fixed_point.LARGEST).all():
        return None
    if result is None:
        each = net.floats("scale", units.astype(np.float32)) if len(units) > 1 else real(float(units[0]))
        factor = f"{each}[{index}]" if len(units) > 1 else each
        return Scaled("float", factor, lambda v, f: activated(finish.activation, f"(float)({v}) * {f}"))
    factors = units / result.scale
    if finish.bounds is None or not fixed_point.fits(factors, largest):
        return None
    m, shift = fixed_point.multipliers(factors)
    factor = f"{net.signed('m', m)}[{index}]" if len(set(m.tolist())) > 1 else str(m[0])
    half, limits = fixed_point.rounding(result.zero, shift), _words(node.finish, result)
    if shift > 32:  # the product's upper half is enough: what rounds is above it
        half, shift = half >> 32, shift - 32
        return Scaled("int32_t", factor, lambda v, f: f"net_int8((net_high({v}, {f}) + {half}) >> {shift}, {limits})")
    return Scaled("int32_t", factor, lambda v, f: f"net_int8(net_scaled({v}, {f}, {half}, {shift}), {limits})")


def _limits(finish: Finish, quant: Quant) -> tuple[int, int]:
    """The least and the largest integer within the bounds that a result has."""
    low, high = (b if isinf(b) else round(b / quant.scale) + quant.zero for b in finish.bounds or (-inf, inf))
    return int(max(-128, min(low, 127))), int(min(127, max(high, -128)))


def _words(finish: Finish, quant: Quant) -> str:
    low, high = _limits(finish, quant)
    return f"{low}, {high}"
