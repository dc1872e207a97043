"""An ONNX file as a PyTorch network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.onnx_import import (
    elementwise,
    movement,
    normalisation,
    reductions,
    resize,
    shape_arithmetic,
    spatial,
)
from compress.onnx_import.graph import OnnxGraph
from compress.onnx_import.layers import BUILDERS, Weights, is_vector, readable, with_biases
from compress.onnx_import.reshape import Sizes, in_terms_of_input
from compress.onnx_import.table import ON_NUMBERS, OPERATORS, Call, Node, Numbers, Value, to_tensor

__all__ = [  # importing the families is what fills the tables
    "OnnxNetwork", "elementwise", "movement", "normalisation", "reductions", "resize", "shape_arithmetic", "spatial",
]  # fmt: skip

Observer = Callable[[int, Sequence[Value], Any], None]


@dataclass(frozen=True)
class Held:
    """A tensor of the file that is a parameter in the network's `constants`, under this name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator as the network runs it.

    node: the operator.
    sources: for each input, the name of a value or a parameter; None where it is left out or in the layer.
    layer: name of the layer that holds its weights.
    frees: values that nothing reads afterwards.
    sizes: for Reshape, see `reshape.py`.
    """

    node: Node
    sources: tuple[str | Held | None, ...]
    layer: str | None
    frees: tuple[str, ...] = ()
    sizes: Sizes | None = None


class OnnxNetwork(nn.Module):
    """Runs a file's operators one after the other, as torch functions and layers.

    Constants that are weights of a layer are that layer's parameters (in `layers`), other floating-point tensors
    are parameters of their own (in `constants`); whole numbers and single ones are plain numbers, so that
    torch.export sees sizes as sizes.

    Args:
        graph: what `read_graph` gives.

    Raises:
        UsageError: a layer that torch cannot have.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self.input_names, self.output_names, self.opset = graph.inputs, graph.outputs, graph.opset
        self.layers = nn.ModuleDict()
        self.constants = nn.ParameterDict()
        self.numbers: dict[str, Numbers] = {}
        weights = Weights(graph)
        nodes = with_biases(graph.nodes, graph.constants, graph.outputs)
        arithmetic = _of_sizes(nodes, graph.constants)
        steps = [self._step(node, weights, graph.opset, node.outputs[0] in arithmetic) for node in nodes]
        for name in set(graph.outputs) & set(graph.constants):
            self.numbers[name] = graph.constants[name]
        self.steps = _with_frees(steps, graph.outputs)
        held = {tensor.dtype for tensor in (*self.parameters(), *self.buffers())}
        self.holds_float64 = torch.float64 in held or "float64" in graph.types

    def _step(self, node: Node, weights: Weights, opset: int, arithmetic: bool) -> Step:
        build, slots = BUILDERS.get(node.operator, (None, ()))
        layer = build(node, weights, opset) if build is not None else None
        sources: list[str | Held | None] = []
        for slot, name in enumerate(node.inputs):
            held = name == "" or (layer is not None and slot in slots)
            plain = arithmetic or slot in OPERATORS[node.operator].numbers
            sources.append(None if held else self._constant(node, slot, weights, plain) or name)
        if layer is None:
            return Step(node, tuple(sources), None)
        key = self._free_name(_layer_name(node, [node.inputs[slot] for slot in slots if slot < len(node.inputs)]))
        self.layers[key] = layer
        return Step(node, tuple(sources), key)

    def _free_name(self, wanted: str) -> str:
        name = base = readable(wanted)
        count = 1
        while name in self.layers or hasattr(self.layers, name) or hasattr(self.constants, name):
            count += 1
            name = f"{base}_{count}"
        return name

    def _constant(self, node: Node, slot: int, weights: Weights, plain: bool) -> str | Held | None:
        """Keep a constant that an operator reads, and say where; None where it is no constant."""
        array = weights.array(node, slot)
        name = node.inputs[slot]
        if array is None:
            return None
        if plain or array.size <= 1 or not to_tensor(array[:0]).dtype.is_floating_point:
            self.numbers[name] = array
            return name
        held = weights.named(name)
        known = [key for key, other in self.constants.items() if other is held]
        key = known[0] if known and not is_vector(array) else self._free_name(name)
        self.constants[key] = held
        return Held(key)

    def forward(self, *inputs: Tensor) -> Any:
        """The file's outputs: one tensor, or a tuple of them."""
        results = self.run(inputs)
        return results[0] if len(results) == 1 else results

    def run(self, inputs: Sequence[Tensor], observe: Observer | None = None) -> tuple[Tensor, ...]:
        """The file's outputs.

        Args:
            inputs: in the file's order.
            observe: called after each step with its index, its inputs and its result.

        Raises:
            UsageError: what an operator needs as a known number is computed from the data.
        """
        values: dict[str, Value] = {**self.numbers, **dict(zip(self.input_names, inputs, strict=True))}
        wide = not self.holds_float64 and any(t.dtype == torch.float64 for t in (*inputs, *self.parameters()))
        for index, step in enumerate(self.steps):
            layer = self.layers[step.layer] if step.layer is not None else None
            call = Call(step.node, self.opset, layer, wide, step.sizes)
            operands = [self._value(values, source) for source in step.sources]
            try:
                result = _run(call, operands)
            except Exception as error:  # torch's own kinds, which torch.export tells apart
                error.add_note(f"in operator {step.node.operator} at {step.node.name!r}")
                raise
            if observe is not None:
                observe(index, operands, result)
            many = result if isinstance(result, tuple | list) else (result,)
            values.update((name, value) for name, value in zip(step.node.outputs, many, strict=False) if name)
            for name in step.frees:
                values.pop(name, None)
        last = Call(Node("the outputs", "Identity", (), ()), self.opset, None, wide)
        return tuple(last.tensor(_there(values, name)) for name in self.output_names)

    def _value(self, values: Mapping[str, Value], source: str | Held | None) -> Value:
        if isinstance(source, Held):
            held: Tensor = self.constants[source.name]
            return held
        return None if source is None else values[source]

    def say_sizes_by_input(self, example: Sequence[Tensor]) -> None:
        """Run the example once and state each Reshape in terms of its input, as `reshape.py` explains."""
        found: dict[int, Sizes] = {}

        def observe(index: int, operands: Sequence[Value], result: Any) -> None:
            x = operands[0] if operands else None
            if self.steps[index].node.operator == "Reshape" and isinstance(x, Tensor) and x.numel():
                found[index] = in_terms_of_input(x.shape, result.shape)

        with torch.no_grad():
            self.run(example, observe)
        for index, sizes in found.items():
            self.steps[index] = replace(self.steps[index], sizes=sizes)


def _layer_name(node: Node, constants: Sequence[str]) -> str:
    """What PyTorch called the layer, if its constants still say so; else the operator's own name."""
    for name in constants:
        path, _, attribute = name.rpartition(".")
        if path and attribute in ("weight", "bias"):
            return path
    return node.name


def _of_sizes(nodes: Sequence[Node], constants: Mapping[str, Numbers]) -> set[str]:
    """The values that follow from shapes alone."""
    found: set[str] = set()
    for node in nodes:
        follows = node.operator in ON_NUMBERS and all(n in found or n in constants or n == "" for n in node.inputs)
        if follows or node.operator in ("Shape", "Size"):
            found.update(name for name in node.outputs if name)
    return found


def _there(values: Mapping[str, Value], name: str) -> Tensor | Numbers:
    value = values[name]
    assert value is not None  # outputs are named
    return value


def _run(call: Call, operands: list[Value]) -> Any:
    name = call.node.operator
    present = [value for value in operands if value is not None]
    if present and not any(isinstance(value, Tensor) for value in present) and call.layer is None:
        if name in ON_NUMBERS:
            return ON_NUMBERS[name](call, *operands)
        operands = [_as_tensor(call, slot, value) for slot, value in enumerate(operands)]
    entry = OPERATORS[name]
    for slot in entry.numbers:
        if slot < len(operands) and isinstance(operands[slot], Tensor):
            raise call.refused(f"its input {slot} ({call.node.inputs[slot]!r}) is computed from the data")
    return entry.run(call, *operands)


def _as_tensor(call: Call, slot: int, value: Value) -> Value:
    return value if value is None or slot in OPERATORS[call.node.operator].numbers else call.tensor(value)


def _with_frees(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """Say after which step each value is read no more; constants and outputs stay."""
    seen = set(outputs)
    result = []
    for step in reversed(steps):
        made = [name for name in step.node.outputs if name]
        last = {source for source in step.sources if isinstance(source, str)}
        unread = {name for name in made if name not in seen}
        result.append(replace(step, frees=tuple(sorted((last - seen) | unread))))
        seen |= last
    return result[::-1]
