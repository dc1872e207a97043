"""A graph in QDQ form computed with exact integers: what C code of 8-bit integers has to give, bit for bit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

Array = np.ndarray
MOVES = ("Reshape", "Slice", "Pad", "Flatten", "Squeeze")


@dataclass(frozen=True)
class Stored:
    """Integers: scale * (q - zero)."""

    q: Array
    scale: float
    zero: int

    @property
    def centred(self) -> Array:
        return self.q - self.zero

    @property
    def floats(self) -> Array:
        return self.centred.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class Sums:
    """Exact results before they are rounded: sum * unit, the units by channel, axis 1."""

    sum: Array
    unit: Array

    @property
    def units(self) -> Array:
        return self.unit.reshape(1, -1, *[1] * (self.sum.ndim - 2))

    @property
    def floats(self) -> Array:
        return self.sum.astype(np.float32) * self.units.astype(np.float32)

    def stored(self, scale: float, zero: int) -> Stored:
        """One product, one shift, halves up."""
        factors = self.unit / scale
        shift = 31
        while factors.max() * 2.0**shift < 2**30:
            shift += 1
        while factors.max() * 2.0**shift >= 2**31:
            shift -= 1
        m = np.rint(self.units / scale * 2.0**shift).astype(np.int64)
        return Stored(np.clip((self.sum * m + (zero << shift) + (1 << (shift - 1))) >> shift, -128, 127), scale, zero)


@dataclass(frozen=True)
class Weighted:
    """A sum of stored values, each with its sign."""

    values: tuple[Stored, ...]
    signs: tuple[int, ...]

    def stored(self, scale: float, zero: int) -> Stored:
        factors = [sign * value.scale / scale for value, sign in zip(self.values, self.signs, strict=True)]
        shift = 0
        while (256 * sum(map(abs, factors)) + 130) * 2 ** (shift + 1) <= 2**31:
            shift += 1
        total = (zero << shift) + (1 << (shift - 1))
        sums = sum(round(f * 2**shift) * v.centred for f, v in zip(factors, self.values, strict=True))
        return Stored(np.clip((sums + total) >> shift, -128, 127), scale, zero)

    @property
    def floats(self) -> Array:
        return sum(s * v.floats for v, s in zip(self.values, self.signs, strict=True))


@dataclass(frozen=True)
class Limited:
    """Results between two ends."""

    value: Any
    low: float
    high: float

    @property
    def floats(self) -> Array:
        return np.clip(self.value.floats, self.low, self.high)

    def stored(self, scale: float, zero: int) -> Stored:
        low, high = (np.rint(end / scale) + zero for end in (self.low, self.high))
        return Stored(np.clip(self.value.stored(scale, zero).q, low, high).astype(np.int64), scale, zero)


@dataclass(frozen=True)
class Looked:
    """What an operator of one number gives for the stored integers."""

    node: onnx.NodeProto
    value: Stored
    constants: dict[str, Array]

    def of(self, given: Array) -> Array:
        feeds = {n: self.constants.get(n, given).reshape(-1) for n in self.node.input}
        return _evaluated(self.node, feeds).reshape(given.shape)

    @property
    def floats(self) -> Array:
        return self.of(self.value.floats)

    def stored(self, scale: float, zero: int) -> Stored:
        q = np.clip(np.rint(self.floats.astype(np.float64) / scale) + zero, -128, 127).astype(np.int64)
        return Stored(q, scale, zero)


def integer_answer(model: onnx.ModelProto, image: Array) -> Array:
    """Scores of one image; what is read as floats only is not rounded before."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values: dict[str, Any] = {model.graph.input[0].name: image.astype(np.float32)}
    kept: dict[str, tuple[Array, Array]] = {}
    for node in model.graph.node:
        name, out = node.input[0], node.output[0]
        if node.op_type == "DequantizeLinear" and name in constants:
            q, scale = constants[name].astype(np.int64), constants[node.input[1]].astype(np.float64)
            kept[out] = (q, scale)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            shape = [-1 if i == axis and scale.size > 1 else 1 for i in range(q.ndim)]
            zeros = constants[node.input[2]].astype(np.int64)
            constants[out] = ((q - zeros.reshape(shape)) * scale.reshape(shape)).astype(np.float32)
        elif node.op_type == "QuantizeLinear":
            scale, zero = float(constants[node.input[1]]), int(constants[node.input[2]])
            values[out] = _rounded(values[name], scale, zero, last=_read_as_floats(model, out))
        elif node.op_type == "DequantizeLinear":
            values[out] = values[name]
        else:
            values[out] = _answer(node, values, constants, kept)
    last = values[model.graph.output[0].name]
    return last if isinstance(last, np.ndarray) else last.floats


def _read_as_floats(model: onnx.ModelProto, name: str) -> bool:
    answers = [n.output[0] for n in model.graph.node if name in n.input]
    return not any(set(answers) & set(n.input) and n.op_type != "Softmax" for n in model.graph.node)


def _rounded(value: Any, scale: float, zero: int, *, last: bool) -> Any:
    if isinstance(value, (Sums, Averages, Limited)) and last:
        return value.floats
    if isinstance(value, Stored):
        return value if (value.scale, value.zero) == (scale, zero) else Weighted((value,), (1,)).stored(scale, zero)
    if isinstance(value, np.ndarray):
        fine = np.clip(value * np.float32(2.0**16 / scale), -(2.0**25), 2.0**25).astype(np.int64)
        return Stored(np.clip((fine + (zero << 16) + (1 << 15)) >> 16, -128, 127), scale, zero)
    return value.stored(scale, zero)


def _answer(node: onnx.NodeProto, values: Any, constants: dict[str, Array], kept: Any) -> Any:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = [values[name] for name in node.input if name in values]
    x = given[0]
    if node.op_type in ("Relu", "Clip") and isinstance(x, (Sums, Averages, Weighted)):
        ends = [float(constants[name]) for name in node.input[1:]] or [0.0, np.inf]
        return Limited(x, ends[0], ends[1])
    if node.op_type in ("Conv", "Gemm"):
        weight, scale = kept[node.input[1]]
        unit = x.scale * scale * np.ones(len(weight))
        bias = np.rint(constants[node.input[2]].astype(np.float64) / unit).astype(np.int64)
        return Sums(_layer(node.op_type, x.centred, weight, attributes) + _by_channel(bias, node.op_type), unit)
    if node.op_type in ("Add", "Sub") and len(given) == 2:
        return Weighted((given[0], given[1]), (1, 1 if node.op_type == "Add" else -1))
    if node.op_type == "Mul" and len(given) == 2:
        return Sums(given[0].centred * given[1].centred, np.array([given[0].scale * given[1].scale]))
    if node.op_type == "MaxPool":
        border = tuple(attributes["pads"])
        padded = np.pad(x.q, [(0, 0), (0, 0), border[0::2], border[1::2]], constant_values=-128)
        pool = functional.max_pool2d(torch.tensor(padded).double(), attributes["kernel_shape"], attributes["strides"])
        return Stored(pool.long().numpy(), x.scale, x.zero)
    if node.op_type == "AveragePool":
        return _averages(x, attributes)
    if node.op_type == "ReduceMean":
        total = x.centred.sum((2, 3), keepdims=bool(attributes.get("keepdims", 1)))
        return Sums(total, np.array([x.scale / np.prod(x.q.shape[2:])]))
    if node.op_type == "Concat":
        return Joined(tuple(given))
    if node.op_type in MOVES:
        return _moved(node, x, constants)
    if node.op_type == "Softmax":
        e = np.exp(_floats(x) - _floats(x).max())
        return e / e.sum()
    return Looked(node, x, constants)


def _moved(node: onnx.NodeProto, x: Any, constants: dict[str, Array]) -> Any:
    """By ONNX's reference, on numbers around 0, so that a border of zeros is one."""
    names = [*node.input, *(["fill"] if node.op_type == "Pad" else [])]
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    whole = x if isinstance(x, np.ndarray) else x.centred.astype(np.float32)
    feeds = {n: constants.get(n, np.float32(0)) for n in names} | {node.input[0]: whole}
    result = _evaluated(helper.make_node(node.op_type, names, node.output, **settings), feeds)
    return result if isinstance(x, np.ndarray) else Stored(result.astype(np.int64) + x.zero, x.scale, x.zero)


def _evaluated(node: onnx.NodeProto, feeds: dict[str, Array]) -> Array:
    entries = [helper.make_tensor_value_info(n, 1, None) for n in (*node.input, node.output[0])]
    graph = helper.make_graph([node], "one", entries[:-1], entries[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return ReferenceEvaluator(model).run(None, feeds)[0]


@dataclass(frozen=True)
class Averages:
    """Sums, and how many places each is the mean of."""

    sum: Array
    count: Array
    scale: float
    most: int

    @property
    def floats(self) -> Array:
        return self.sum.astype(np.float32) * (self.scale / self.count).astype(np.float32)

    def stored(self, scale: float, zero: int) -> Stored:
        of_one = Sums(self.sum[:, None], np.array([self.scale / n for n in range(1, self.most + 1)])).stored(
            scale, zero
        )
        return Stored(np.take_along_axis(of_one.q, self.count[:, None] - 1, 1)[:, 0], scale, zero)


def _averages(x: Stored, attributes: dict[str, Any]) -> Averages:
    top, left, bottom, right = attributes["pads"]
    edges = [(0, 0), (0, 0), (top, bottom), (left, right)]
    ones = np.pad(np.ones_like(x.q), edges, constant_values=attributes.get("count_include_pad", 0))
    totals = [
        functional.avg_pool2d(
            torch.tensor(image).double(), attributes["kernel_shape"], attributes["strides"], divisor_override=1
        )
        for image in (np.pad(x.centred, edges), ones)
    ]
    sums, counts = (np.rint(total.numpy()).astype(np.int64) for total in totals)
    return Averages(sums, counts, x.scale, int(np.prod(attributes["kernel_shape"])))


def _floats(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else value.floats


@dataclass(frozen=True)
class Joined:
    """Stored values behind each other."""

    parts: tuple[Stored, ...]

    def stored(self, scale: float, zero: int) -> Stored:
        parts = [_rounded(part, scale, zero, last=False).q for part in self.parts]
        return Stored(np.concatenate(parts, 1), scale, zero)


def _by_channel(bias: Array, op: str) -> Array:
    return bias.reshape(1, -1, *[1] * (2 if op == "Conv" else 0))


def _layer(op: str, x: Array, weight: Array, attributes: dict[str, Any]) -> Array:
    """Exact: sums of doubles below 2^53."""
    if op == "Gemm":
        return x.reshape(1, -1) @ (weight.T if attributes.get("transB") else weight)
    top, left, bottom, right = attributes["pads"]
    padded = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
    given, filters = torch.tensor(padded).double(), torch.tensor(weight).double()
    settings = attributes["strides"], 0, attributes["dilations"], attributes["group"]
    return functional.conv2d(given, filters, None, *settings).long().numpy()
