"""From an ONNX graph to the text of a C file and its header."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compress_exporters._c import integer, movement, operators, qdq
from compress_exporters._c.net import INPUT, Net, Value, place
from compress_exporters._c.node import ACTIVATIONS, Finish, Node, bounds_of, number_of
from compress_exporters._versions import opset_of
from compress_exporters.artifact import ExportError

JOINED = (
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "BatchNormalization",
    "AveragePool",
    "MaxPool",
    "GlobalAveragePool",
    "ReduceMean",
)
"""Operators that apply the activation behind them while they write their result."""

OLDEST_OPSET = 13
"""Before it Clip, Slice and Softmax said otherwise what they do."""

HEAD = """\
#include "{header}"
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if INT_MAX < 2147483647
#error "an int has to have 32 bits"
#endif
/* Rows are computed NET_LANES columns at a time where the compiler knows vectors; -DNET_LANES=0 leaves that out. */
#ifndef NET_LANES
#ifndef __GNUC__
#define NET_LANES 0
#elif defined(__AVX__)
#define NET_LANES 8
#else
#define NET_LANES 4
#endif
#endif
#if NET_LANES
typedef float net_v __attribute__((vector_size(4 * NET_LANES), aligned(4), may_alias));
#endif

"""

INTEGERS = """\
#if (-1 >> 1) != -1
#error "integers are scaled by arithmetic shifts, as all known compilers have them"
#endif
/* A sum times m / 2^shift, to the nearest; the zero of the result is in half. */
#define net_high(sum, m) ((int32_t)((int64_t)(m) * (sum) >> 32))
#define net_scaled(sum, m, half, shift) ((int32_t)(((int64_t)(m) * (sum) + (half)) >> (shift)))
#if defined(__ARM_FEATURE_SAT) && __ARM_FEATURE_SAT
#include <arm_acle.h>
#define net_saturated(v) __ssat(v, 8)
#else
#define net_saturated(v) ((v) < -128 ? -128 : (v) > 127 ? 127 : (v))
#endif
static inline int8_t net_int8(int32_t v, int32_t low, int32_t high)
{
  if (low > -128 || high < 127)
    return (int8_t)(v < low ? low : v > high ? high : v);
  return (int8_t)net_saturated(v);
}

"""
"""Results as 8-bit integers."""

HEADER = """\
/* {title} */
#ifndef {guard}_H
#define {guard}_H

/* One image, float, {order}, normalised: {input_shape}. */
#define {guard}_INPUT {input_size}
/* Scores, float: {output_shape}. */
#define {guard}_OUTPUT {output_size}
/* Floats of working memory: {arena_bytes} bytes. */
#define {guard}_ARENA {arena}

#ifdef __cplusplus
extern "C" {{
#endif

/* Computes the scores of one image. The arena may be used for anything else between two calls. */
void {name}_run(const float input[{guard}_INPUT], float output[{guard}_OUTPUT], float arena[{guard}_ARENA]);

#ifdef __cplusplus
}}
#endif
#endif
"""


@dataclass(frozen=True)
class Source:
    """A network as C.

    Attributes:
        code: of the .c file.
        header: of the .h file.
        arena: floats of working memory.
        macs: multiply-accumulates that the code performs.
    """

    code: str
    header: str
    arena: int
    macs: int


def source_of(model: onnx.ModelProto, path: Path, *, title: str = "") -> Source:
    """Write a graph as C; what it keeps as 8-bit integers (QuantizeLinear) is computed in integers.

    Args:
        model: one input of batch 1, one output.
        path: of the .c file; its name is the prefix of what the linker sees.
        title: said at the top of the header.

    Raises:
        ExportError: an operator, or a form of one, that has no C, which is named; or an opset below 13.
    """
    if opset_of(model) < OLDEST_OPSET:
        raise ExportError(f"C needs opset {OLDEST_OPSET} or later, the model has {opset_of(model)}; export it again")
    graph = model.graph
    constants: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = qdq.direct(list(graph.node), {*_INTEGER, *_MOVEMENT})
    consumers: dict[str, int] = {}
    for used in [name for node in nodes for name in node.input] + [value.name for value in graph.output]:
        consumers[used] = consumers.get(used, 0) + 1
    net = Net(identifier(path), constants, consumers)
    shape = tuple(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    if len(shape) < 2 or shape[0] != 1 or 0 in shape:
        raise ExportError(f"C code takes one image of known size; the graph's input is {list(shape)}")
    qdq.constants_of(net, nodes)
    given = graph.input[0].name
    start = Value(INPUT if qdq.only_quantised(given, nodes) else net.buffer(int(np.prod(shape[1:]))), shape[1:])
    net.values[given] = start
    _translate(net, nodes)
    result = net.floats_of(net.values[graph.output[0].name])
    net.keep(result, len(net.calls))
    return _write(net, start, result, title or path.stem, path.with_suffix(".h").name)


def _translate(net: Net, nodes: list[onnx.NodeProto]) -> None:
    done: set[int] = set()
    for number, node in enumerate(nodes):
        if number in done or (node.op_type == "DequantizeLinear" and node.output[0] in net.constants):
            continue
        if node.op_type == "Constant":
            _constant(net, node)
            continue
        joined = _activation_behind(net, node, nodes) if node.op_type in JOINED else None
        behind = None if joined is None else nodes[joined]
        finish = _finish(net, node, behind, nodes)
        made = Node(net, node.op_type, list(node.input), _attributes(node), finish)
        last = behind or node
        pool = qdq.pool_behind(net, last.output[0], nodes) if node.op_type == "Conv" and finish.quant else None
        value = _integer(made.with_pool(pool[1])) if pool else None
        if pool and value:
            last = nodes[pool[0][-1]]
            done.update(pool[0])
        net.values[last.output[0]] = value or _value(made, node)
        if joined is not None:
            done.add(joined)


def _value(node: Node, written: onnx.NodeProto) -> Value:
    """The result of a node."""
    if node.op == "QuantizeLinear":
        quant = qdq.quant_of(written, node.net.constants)
        return node.tensor() if node.tensor().quant == quant else integer.quantise(node, quant)
    if node.op == "DequantizeLinear":
        return node.tensor()
    if written.domain or node.op not in known():
        raise ExportError(f"operator {node.op} is not written as C; known: {', '.join(known())}")
    result: Value = _integer(node) or (_FLOAT | _MOVEMENT)[node.op](node)
    return result


def _integer(node: Node) -> Value | None:
    """The result of a node in integers; None where it has no such form."""
    read = [node.net.values[name] for name in node.inputs if name in node.net.values]
    integers = node.op in _INTEGER and bool(read) and all(value.quant for value in read)
    return _INTEGER[node.op](node) if integers else None


def _finish(net: Net, node: onnx.NodeProto, joined: onnx.NodeProto | None, nodes: list[onnx.NodeProto]) -> Finish:
    """What becomes of a node's result: its activation, and 8-bit integers where nothing else reads it."""
    activation = joined or (node if node.op_type in ACTIVATIONS else None)
    expression = "@" if activation is None else _expression(net, activation)
    bounds = (-inf, inf) if joined is None else bounds_of(joined.op_type, _further(net, joined))
    name = (joined or node).output[0]
    reader = next((other for other in nodes if name in other.input), None)
    asked = bounds and reader and reader.op_type == "QuantizeLinear" and net.consumers[name] == 1
    return Finish(expression, bounds, qdq.quant_of(reader, net.constants) if reader and asked else None)


def known() -> list[str]:
    """Names of the operators that have C."""
    return sorted(_FLOAT | _MOVEMENT)


def _rules(module: ModuleType) -> dict[str, Callable[[Node], Any]]:
    """What a module defines under an operator's name."""
    return {
        name: rule
        for name, rule in vars(module).items()
        if name[0].isupper() and getattr(rule, "__annotations__", {}).get("node") is Node
    }


_FLOAT = _rules(operators) | dict.fromkeys(ACTIVATIONS, operators.activation)
_MOVEMENT = _rules(movement)
_INTEGER = dict.fromkeys(ACTIVATIONS, integer.table) | _rules(integer)


def _activation_behind(net: Net, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> int | None:
    """The activation that alone reads a node's result."""
    if net.consumers.get(node.output[0], 0) != 1:
        return None
    for number, other in enumerate(nodes):
        if other.op_type in ACTIVATIONS and other.input[0] == node.output[0]:
            return number
    return None


def _expression(net: Net, node: onnx.NodeProto) -> str:
    return ACTIVATIONS[node.op_type](_attributes(node), _further(net, node))


def _further(net: Net, node: onnx.NodeProto) -> list[float | None]:
    for name in node.input[1:]:
        if name and name not in net.constants:
            raise ExportError(f"operator {node.op_type} with computed limits is not written as C")
    return [number_of(net.constants[name]) if name else None for name in node.input[1:]]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _constant(net: Net, node: onnx.NodeProto) -> None:
    value = _attributes(node).get("value")
    if value is None:
        raise ExportError("a Constant without a tensor is not written as C")
    net.constants[node.output[0]] = numpy_helper.to_array(value)


def _write(net: Net, start: Value, result: Value, title: str, header_name: str) -> Source:
    arena_bytes = place(net.buffers)
    arena, guard = arena_bytes // 4, net.name.upper()
    copied = [] if start.buffer == INPUT else [f"  memcpy({net.where(start)}, input, {start.size} * sizeof *input);"]
    run = [
        f"void {net.name}_run(const float input[{guard}_INPUT], float output[{guard}_OUTPUT],",
        f"  float arena[{guard}_ARENA])",
        "{",
        *copied,
        *(f"  {call()}" for call in net.calls),
        f"  memcpy(output, {net.where(result)}, {result.size} * sizeof *output);",
        "}\n",
    ]
    body = "\n".join([*net.arrays, *net.functions, *run])
    code = HEAD.format(header=header_name) + (INTEGERS if "net_int8(" in body else "") + body
    header = HEADER.format(
        title=title, guard=guard, name=net.name, order="channels first" if len(start.shape) == 3 else "flat",
        input_shape=" x ".join(map(str, start.shape)), input_size=start.size,
        output_shape=" x ".join(map(str, result.shape)), output_size=result.size, arena=arena, arena_bytes=4 * arena,
    )  # fmt: skip
    return Source(code, header, arena, net.macs)


def identifier(path: Path) -> str:
    """A name for the linker from a file's name."""
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    return name if name and not name[0].isdigit() else f"net_{name}"
