"""From an ONNX graph to the text of a C file and its header."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compress_exporters._c import movement, operators
from compress_exporters._c.net import Net, Value, place
from compress_exporters._c.node import ACTIVATIONS, Node, number_of
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

HEAD = """\
#include "{header}"
#include <math.h>
#include <stdint.h>
#include <string.h>

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


def source_of(model: onnx.ModelProto, path: Path, *, int8: bool = False, title: str = "") -> Source:
    """Write a graph as C.

    Args:
        model: one input of batch 1, one output.
        path: of the .c file; its name is the prefix of what the linker sees.
        int8: keep weights as 8-bit integers.
        title: said at the top of the header.

    Raises:
        ExportError: an operator, or a form of one, that has no C; it is named.
    """
    graph = model.graph
    constants: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    consumers: dict[str, int] = {}
    for used in [name for node in graph.node for name in node.input] + [value.name for value in graph.output]:
        consumers[used] = consumers.get(used, 0) + 1
    net = Net(identifier(path), int8, constants, consumers)
    shape = tuple(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    if len(shape) < 2 or shape[0] != 1 or 0 in shape:
        raise ExportError(f"C code takes one image of known size; the graph's input is {list(shape)}")
    start = Value(net.buffer(int(np.prod(shape[1:]))), shape[1:])
    net.values[graph.input[0].name] = start
    _translate(net, list(graph.node))
    result = net.values[graph.output[0].name]
    net.keep(result, len(net.calls))
    return _write(net, start, result, title or path.stem, path.with_suffix(".h").name)


def _translate(net: Net, nodes: list[onnx.NodeProto]) -> None:
    done: set[int] = set()
    for number, node in enumerate(nodes):
        if number in done:
            continue
        if node.op_type == "Constant":
            _constant(net, node)
            continue
        joined = _activation_behind(net, node, nodes) if node.op_type in JOINED else None
        activation = "@" if joined is None else _expression(net, nodes[joined])
        if node.op_type in ACTIVATIONS:
            value = operators.activation(_node(net, node, _expression(net, node)))
        elif node.domain or node.op_type not in _RULES:
            raise ExportError(f"operator {node.op_type} is not written as C; known: {', '.join(known())}")
        else:
            value = _RULES[node.op_type](_node(net, node, activation))
        if joined is not None:
            done.add(joined)
            node = nodes[joined]
        net.values[node.output[0]] = value


def known() -> list[str]:
    """Names of the operators that have C."""
    return sorted([*_RULES, *ACTIVATIONS])


_RULES: dict[str, Callable[[Node], Value]] = {
    name: rule
    for module in (operators, movement)
    for name, rule in vars(module).items()
    if name[0].isupper() and getattr(rule, "__annotations__", {}).get("node") is Node
}
"""What `operators` and `movement` define under an operator's name."""


def _activation_behind(net: Net, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> int | None:
    """The activation that alone reads a node's result."""
    if net.consumers.get(node.output[0], 0) != 1:
        return None
    for number, other in enumerate(nodes):
        if other.op_type in ACTIVATIONS and other.input[0] == node.output[0]:
            return number
    return None


def _expression(net: Net, node: onnx.NodeProto) -> str:
    further = [number_of(net.constants.get(name)) if name else None for name in node.input[1:]]
    return ACTIVATIONS[node.op_type](_attributes(node), further)


def _node(net: Net, node: onnx.NodeProto, activation: str) -> Node:
    return Node(net, node.op_type, list(node.input), _attributes(node), activation)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _constant(net: Net, node: onnx.NodeProto) -> None:
    value = _attributes(node).get("value")
    if value is None:
        raise ExportError("a Constant without a tensor is not written as C")
    net.constants[node.output[0]] = numpy_helper.to_array(value)


def _write(net: Net, start: Value, result: Value, title: str, header_name: str) -> Source:
    arena = place(net.buffers)
    guard = net.name.upper()
    offset = net.buffers[start.buffer].offset
    run = [
        f"void {net.name}_run(const float input[{guard}_INPUT], float output[{guard}_OUTPUT],",
        f"  float arena[{guard}_ARENA])",
        "{",
        f"  memcpy(arena + {offset}, input, {start.size} * sizeof *input);",
        *(f"  {call()}" for call in net.calls),
        f"  memcpy(output, arena + {net.buffers[result.buffer].offset}, {result.size} * sizeof *output);",
        "}\n",
    ]
    code = HEAD.format(header=header_name) + "\n".join([*net.arrays, *net.functions, *run])
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
