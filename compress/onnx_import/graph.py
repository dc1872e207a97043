"""An ONNX file as plain nodes and constants, in the operators that the table has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference

from compress.errors import UsageError
from compress.onnx_file import OnnxFile, one_line, session
from compress.onnx_import.table import OPERATORS, Node, Numbers

OLDEST_OPSET = 7
"""The first that ONNX Runtime runs."""
NEWEST_OPSET = 28
"""The last whose changes were read through."""

QUANTISED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
}  # fmt: skip
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
MOST_ROUNDS = 5
"""An operator's definition may use operators that are defined themselves, not for ever."""


@dataclass(frozen=True)
class OnnxGraph:
    """What a file computes.

    nodes: in an order in which they can run.
    constants: every tensor that no input decides.
    origins: a constant that is another one (False) or the transpose of another matrix (True).
    inputs: names, in order.
    outputs: names, in order.
    opset: version of the operator set that the nodes follow.
    types: of the inputs, as numpy names them.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Numbers]
    origins: dict[str, tuple[str, bool]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    types: tuple[str, ...]

    def origin(self, name: str) -> tuple[str, bool]:
        """The constant that this one is, and whether it is its transpose."""
        turned = False
        while name in self.origins:
            name, turns = self.origins[name]
            turned ^= turns
        return name, turned


def read_graph(opened: OnnxFile) -> OnnxGraph:
    """Bring a file into the form that a network is built from.

    Local functions are inlined, operators without a function of ours are replaced by ONNX's own definition of
    them, and what depends on constants only is computed by ONNX Runtime.

    Raises:
        UsageError: quantised, control flow, an operator nobody knows, or an operator set out of range.
    """
    _check_opset(opened.model)
    model = _with_known_operators(_inlined(opened.model))
    for value in (*opened.inputs, *opened.outputs):
        _check_type(value.name, value.dtype)
    opset = _opset(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    origins: dict[str, tuple[str, bool]] = {}
    inputs, outputs = (tuple(value.name for value in values) for values in (opened.inputs, opened.outputs))
    nodes = _without_unread(list(_unfolded(model, constants, origins)), outputs)
    types = tuple(value.dtype for value in opened.inputs)
    return OnnxGraph(nodes, constants, origins, inputs, outputs, opset, types)


def _check_type(name: str, dtype: str) -> None:
    if dtype not in ("float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"):
        raise UsageError(f"{name!r} is {dtype}; only plain floating-point, whole and boolean numbers are followed")


def _opset(model: onnx.ModelProto) -> int:
    return max((s.version for s in model.opset_import if s.domain in ("", "ai.onnx")), default=0)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    _check_nodes(model)
    if not model.functions:
        return model
    try:
        inlined = inliner.inline_local_functions(model)
    except Exception as error:  # the library raises several kinds
        raise UsageError(f"the file's local functions cannot be inlined: {one_line(error)}") from None
    _check_nodes(inlined)
    return inlined


def _check_nodes(model: onnx.ModelProto) -> None:
    if model.graph.sparse_initializer:
        raise UsageError("the file holds sparse tensors, which are not followed; export it with dense ones")
    for node in model.graph.node:
        if node.op_type in QUANTISED:
            raise UsageError(
                f"the file is quantised ({node.op_type} at {node.name!r}): its zeros are codes; "
                "compact the floating-point file, then quantise the result"
            )
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UsageError(
                f"the file has control flow ({node.op_type!r} at {node.name!r}): which nodes run depends on the data; "
                "export it without"
            )


def _check_opset(model: onnx.ModelProto) -> None:
    opset = _opset(model)
    if opset < OLDEST_OPSET:
        raise UsageError(
            f"the file has opset {opset}; ONNX Runtime runs {OLDEST_OPSET} and later: export it again, or convert it "
            "with onnx.version_converter"
        )
    if opset > NEWEST_OPSET:
        raise UsageError(f"the file has opset {opset}; at most {NEWEST_OPSET} is known here, export it with that")


def _with_known_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace operators outside the table by their definition in ONNX, where it has one."""
    for _ in range(MOST_ROUNDS):
        unknown = {node.op_type: node for node in model.graph.node if not _known(node)}
        defined = [name for name, node in unknown.items() if _is_defined(node, _opset(model))]
        if not defined:
            break
        try:
            names = [("", name) for name in defined]
            model = inliner.inline_selected_functions(_spelled_out(model, defined), names, False, True)
        except Exception as error:  # the library raises several kinds
            raise UsageError(f"operator {defined[0]} cannot be replaced by its definition: {one_line(error)}") from None
    return model


def _spelled_out(model: onnx.ModelProto, operators: Sequence[str]) -> onnx.ModelProto:
    """A copy that says the types of all values, and the attributes that these operators leave to their defaults.

    Inlining asks for the ones and would lose the others.
    """
    full = shape_inference.infer_shapes(model)
    types = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in full.graph.initializer]
    full.graph.value_info.extend(types)
    for node in full.graph.node:
        if node.op_type not in operators:
            continue
        said = {attribute.name for attribute in node.attribute}
        schema: Any = onnx.defs.get_schema(node.op_type, _opset(model), "")
        defaults = [attribute.default_value for name, attribute in schema.attributes.items() if name not in said]
        node.attribute.extend(default for default in defaults if default.name)
    return full


def _known(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and (node.op_type in OPERATORS or node.op_type == "Constant")


def _is_defined(node: onnx.NodeProto, opset: int) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _unfolded(
    model: onnx.ModelProto, constants: dict[str, Numbers], origins: dict[str, tuple[str, bool]]
) -> Iterator[Node]:
    """The nodes that an input decides; the others' results go into `constants`."""
    folded: list[onnx.NodeProto] = []
    rest: list[onnx.NodeProto] = []
    fixed = set(constants)
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
        elif node.op_type in RANDOM or not all(name in fixed or name == "" for name in node.input):
            rest.append(node)
            continue
        elif not _alias(node, constants, origins):
            folded.append(node)
        fixed.update(node.output)
    needed = {name for node in rest for name in node.input} | {value.name for value in model.graph.output}
    if folded:
        constants.update(_computed(model, folded, constants, needed))
    for index, node in enumerate(rest):
        yield _plain(node, index)


def _without_unread(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """Outputs that nobody reads lose their names: old exporters name a Dropout's mask always."""
    read = {name for node in nodes for name in node.inputs} | set(outputs)
    return tuple(replace(n, outputs=tuple(name if name in read else "" for name in n.outputs)) for n in nodes)


def _alias(node: onnx.NodeProto, constants: dict[str, Numbers], origins: dict[str, tuple[str, bool]]) -> bool:
    """Take a constant that only repeats or turns another for what it is: tied weights stay one tensor."""
    source = constants.get(node.input[0]) if node.input else None
    if source is None or node.op_type not in ("Identity", "Transpose"):
        return False
    if node.op_type == "Transpose" and source.ndim != 2:
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    turned = node.op_type == "Transpose" and list(attributes.get("perm", (1, 0))) == [1, 0]
    constants[node.output[0]] = source.T if turned else source
    origins[node.output[0]] = (node.input[0], turned)
    return True


def _constant(node: onnx.NodeProto) -> Numbers:
    if len(node.attribute) != 1:
        raise UsageError(f"the constant {node.output[0]!r} has {len(node.attribute)} values; export the file again")
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in kinds:
        raise UsageError(f"the constant {node.output[0]!r} holds {attribute.name}; only dense numbers are followed")
    return np.asarray(value, kinds[attribute.name])


def _computed(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, Numbers], needed: set[str]
) -> dict[str, Numbers]:
    """What ONNX Runtime makes of nodes that read constants only."""
    read = {name for node in nodes for name in node.input}
    names = [name for node in nodes for name in node.output if name in needed]
    held = [numpy_helper.from_array(constants[name], name) for name in sorted(read & set(constants))]
    graph = helper.make_graph(nodes, "constants", [], [helper.make_empty_tensor_value_info(n) for n in names], held)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        results = session(part.SerializeToString()).run(None, {}) if names else []
    except UsageError:
        raise
    except Exception as error:  # the runtime's errors share no base but Exception
        raise UsageError(f"the constants of the file cannot be computed: {one_line(error)}") from None
    return dict(zip(names, results, strict=True))


def _plain(node: onnx.NodeProto, index: int) -> Node:
    name = node.name or f"{node.op_type}_{index}"
    if not _known(node):
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        raise UsageError(f"operator {operator!r} at {name!r} is not supported, so the file cannot be followed")
    attributes = {a.name: _attribute(a) for a in node.attribute}
    return Node(name, node.op_type, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, (int, float)) else list(value)
