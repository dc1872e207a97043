"""Take the mean error of each channel out of the biases of a quantized graph, in one pass through it.

The graph is cut after every layer, and each piece runs once on what the pieces before it gave: their biases are
corrected by then, so that an error is corrected where it arises and not again behind it.
"""

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress_exporters._calibration import run, upto
from compress_exporters._images import Array

Nodes = list[onnx.NodeProto]
Values = dict[str, list[Array]]
"""Values in the middle of a graph by name, one array for each feed."""


def correct(quantized: onnx.ModelProto, model: onnx.ModelProto, operators: Collection[str], feeds: list[Array]) -> None:
    """Change the quantized biases in place.

    Args:
        quantized: in QDQ form, operators in an order in which they can run, layers named as in the model.
        model: in float32.
        operators: types of the layers.
        feeds: inputs, one for each inference.
    """
    held = {tensor.name: tensor for tensor in quantized.graph.initializer}
    made_by = {name: node for node in quantized.graph.node for name in node.output}
    expected = _means(model, operators, feeds)
    values: Values = {quantized.graph.input[0].name: feeds}
    for piece, rest in _pieces(quantized, operators):
        values = _advance(quantized, piece, rest, values)
        last = piece[-1]
        bias = made_by.get(last.input[2]) if len(last.input) == 3 else None
        if bias is None or bias.op_type != "DequantizeLinear":
            continue
        tensor, scale = held[bias.input[0]], numpy_helper.to_array(held[bias.input[1]])
        error = _mean(values[last.output[0]]) - expected[last.name]
        if tensor.data_type != TensorProto.INT32 or tuple(tensor.dims) != error.shape:
            continue
        steps = np.rint(error / scale)
        corrected = np.clip(numpy_helper.to_array(tensor) - steps, -(2**31), 2**31 - 1).astype(np.int32)
        tensor.CopyFrom(numpy_helper.from_array(corrected, tensor.name))
        shift = (steps * scale).astype(np.float32)
        for value in values[last.output[0]]:
            value -= shift.reshape(-1, *[1] * (value.ndim - 2))


def _means(model: onnx.ModelProto, operators: Collection[str], feeds: list[Array]) -> dict[str, Array]:
    """Mean of each channel that each layer gives, over images and places."""
    layers = {node.name: node.output[0] for node in model.graph.node if node.op_type in operators}
    means = [
        [_mean([value]) for value in outputs]
        for outputs in run(upto(model, list(layers.values())), feeds, optimise=False)
    ]
    return {name: np.asarray(np.mean(column, 0)) for name, column in zip(layers, zip(*means, strict=True), strict=True)}


def _mean(values: list[Array]) -> Array:
    """Mean of each channel, axis 1, of feeds of one size."""
    means = [v.mean(tuple(i for i in range(v.ndim) if i != 1), dtype=np.float64) for v in values]
    return np.asarray(np.mean(means, 0))


def _pieces(model: onnx.ModelProto, operators: Collection[str]) -> Iterator[tuple[Nodes, Nodes]]:
    """Operators up to and with each layer, and all behind it; what follows the last layer is of no interest."""
    nodes, start = list(model.graph.node), 0
    for end, node in enumerate(nodes, 1):
        if node.op_type in operators:
            yield nodes[start:end], nodes[end:]
            start = end


def _advance(model: onnx.ModelProto, piece: Nodes, rest: Nodes, values: Values) -> Values:
    """Run a piece; gives the values that are still needed behind it, its layer's among them."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    reads = {name for node in piece for name in node.input}
    makes = [name for node in piece for name in node.output]
    later = {name for node in rest for name in node.input}
    outputs = [name for name in makes if name in later or name == piece[-1].output[0]]
    inputs = [name for name in values if name in reads]
    graph = helper.make_graph(
        piece,
        "piece",
        [helper.make_tensor_value_info(name, _type(values[name][0]), None) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [held[name] for name in sorted(reads & held.keys())],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    count = len(next(iter(values.values())))
    feeds = [{name: values[name][i] for name in inputs} for i in range(count)]
    found = list(run(part, feeds, optimise=False))
    kept = {name: arrays for name, arrays in values.items() if name in later}
    return kept | {name: [answers[i] for answers in found] for i, name in enumerate(outputs)}


def _type(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
