"""QuantizeLinear and DequantizeLinear: what a graph says is kept as 8-bit integers."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compress_exporters._c.net import Integers, Net, Quant
from compress_exporters.artifact import ExportError

WRITES_FLOATS = ("Conv", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool", "ReduceMean")
"""Operators on integers that can scale their 32-bit sums to floats as well as to 8 bits."""

LIMITS = ("Relu", "Clip")
"""Activations that quantizing takes out: integers saturate where they would end."""

RENAMES = ("Reshape", "Flatten", "Squeeze", "Identity", "Dropout")
"""Operators that move nothing."""


def constants_of(net: Net, nodes: list[onnx.NodeProto]) -> None:
    """Take in constants that the graph keeps as integers: as such, and as the floats that they stand for."""
    for node in nodes:
        if node.op_type != "DequantizeLinear" or node.input[0] not in net.constants:
            continue
        stored, scale, *zero = (np.asarray(net.constants[name]) for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % max(1, stored.ndim)
        shape = [-1 if i == axis and scale.size > 1 else 1 for i in range(stored.ndim)]
        away = zero[0].astype(np.int64).reshape(shape) if zero else 0
        real = (stored.astype(np.int64) - away) * scale.astype(np.float64).reshape(shape)
        net.constants[node.output[0]] = real.astype(np.float32)
        if stored.dtype == np.int8 and not np.any(away):
            net.integers[node.output[0]] = Integers(stored, scale, axis)


def quant_of(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Quant:
    """How a QuantizeLinear stores numbers.

    Raises:
        ExportError: not with one scale and 8 signed bits.
    """
    scale, zero = (np.asarray(constants[name]) for name in [*node.input, node.input[1]][1:3])
    if scale.size != 1 or zero.dtype != np.int8:
        raise ExportError("operator QuantizeLinear to other than 8 signed bits with one scale is not written as C")
    return Quant(float(scale), int(zero))


def direct(nodes: list[onnx.NodeProto], integer: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes without rounding to integers between a layer and what reads floats.

    Args:
        nodes: of a graph, in order.
        integer: operators that read integers; anything else, and the graph's output, reads floats.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    made_by = {name: node for node in nodes for name in node.output}
    kept: list[onnx.NodeProto] = []
    gone: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in gone:
            kept.append(helper.make_node("Identity", [gone[node.input[0]]], list(node.output)))
            continue
        if node.op_type == "QuantizeLinear" and _writes_floats(made_by, node.input[0]):
            behind = [
                reader for answer in readers.get(node.output[0], []) for reader in readers.get(answer.output[0], [])
            ]
            if not any(reader.op_type in integer for reader in behind):
                gone[node.output[0]] = node.input[0]
                continue
        kept.append(node)
    return kept


def _writes_floats(made_by: Mapping[str, onnx.NodeProto], name: str) -> bool:
    """Whether a value comes from one of `WRITES_FLOATS`, directly or through limits."""
    node = made_by.get(name)
    while node is not None and node.op_type in LIMITS:
        node = made_by.get(node.input[0])
    return node is not None and node.op_type in WRITES_FLOATS


def with_limits(int8: onnx.ModelProto, given: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with the limits that quantizing took out: where a result stays a float, no saturation takes their place.

    Args:
        int8: in QDQ form; changed.
        given: what it was made from, its operators named alike.
    """
    kept = {node.name for node in int8.graph.node}
    held = {tensor.name for tensor in int8.graph.initializer}
    taken = {n.output[0]: n for n in given.graph.node if n.op_type in LIMITS and n.name not in kept}
    nodes: list[onnx.NodeProto] = []
    for node in int8.graph.node:
        nodes.append(node)
        name = node.output[0]
        chain: list[onnx.NodeProto] = []
        while name in taken:
            chain.insert(0, taken[name])
            name = taken[name].input[0]
        if chain:
            node.output[0] = name
        nodes += chain
    del int8.graph.node[:]
    int8.graph.node.extend(nodes)
    read = {name for node in taken.values() for name in node.input} - held
    int8.graph.initializer.extend(tensor for tensor in given.graph.initializer if tensor.name in read)
    return int8


def only_quantised(name: str, nodes: list[onnx.NodeProto]) -> bool:
    """Whether a value is read by QuantizeLinear alone, directly or under another shape."""
    readers = [node for node in nodes if name in node.input]
    return bool(readers) and all(
        node.op_type == "QuantizeLinear" or (node.op_type in RENAMES and only_quantised(node.output[0], nodes))
        for node in readers
    )


def pool_behind(net: Net, name: str, nodes: list[onnx.NodeProto]) -> tuple[list[int], tuple[int, int]] | None:
    """A maximum over windows that touch and do not overlap, where nothing else reads a value once it is rounded.

    Returns:
        Numbers of the nodes from the value to the pool, and the window; None where there is no such pool.
    """
    chain: list[int] = []
    for wanted in ("QuantizeLinear", "DequantizeLinear", "MaxPool"):
        reader = next((i for i, node in enumerate(nodes) if name in node.input), None)
        if reader is None or nodes[reader].op_type != wanted or net.consumers[name] != 1:
            return None
        chain.append(reader)
        name = nodes[reader].output[0]
    a = {entry.name: helper.get_attribute_value(entry) for entry in nodes[chain[-1]].attribute}
    window = tuple(a["kernel_shape"])
    plain = a.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and not a.get("ceil_mode", 0)
    apart = tuple(a.get("strides", (1, 1))) == window and set(a.get("dilations", (1,))) == {1}
    if len(window) != 2 or not plain or not apart or any(a.get("pads", ())) or len(nodes[chain[-1]].output) > 1:
        return None
    return chain, (window[0], window[1])
