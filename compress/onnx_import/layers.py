"""Operators with weights: where these are constants of the file, they become a torch layer's parameters.

Compaction follows the parameters of torch's own layers, used as they are; so a matrix is stored the way
`nn.Linear` wants it, and a bias added behind a layer becomes the layer's own.
"""

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.onnx_import.graph import OnnxGraph
from compress.onnx_import.spatial import Window
from compress.onnx_import.table import Call, Node, Numbers, operator, to_tensor

_CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Weights:
    """The file's constants as parameters.

    A matrix that two operators read is one parameter. A vector is copied for each: files share equal ones, such as
    biases of zeros, which would tie channels that have nothing to do with each other.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, bool], nn.Parameter] = {}

    def array(self, node: Node, slot: int) -> Numbers | None:
        """The constant that an operator reads there, or None."""
        name = node.inputs[slot] if len(node.inputs) > slot else ""
        return self._graph.constants.get(name)

    def parameter(self, node: Node, slot: int, *, turned: bool = False) -> nn.Parameter:
        """The same as a parameter, as it is or transposed."""
        return self.named(node.inputs[slot], turned=turned)

    def named(self, name: str, *, turned: bool = False) -> nn.Parameter:
        """The constant of this name as a parameter, as it is or transposed."""
        origin, transposed = self._graph.origin(name)
        key = (origin, transposed ^ turned)
        if is_vector(self._graph.constants[origin]):
            return parameter(self._graph.constants[name].T if turned else self._graph.constants[name])
        if key not in self._made:
            array = self._graph.constants[origin]
            self._made[key] = parameter(array.T if key[1] else array)
        return self._made[key]


def parameter(array: Numbers) -> nn.Parameter:
    """A parameter that holds a copy of the numbers."""
    return nn.Parameter(to_tensor(array), requires_grad=False)


def is_vector(array: Numbers) -> bool:
    """At most one axis is longer than 1."""
    return len([n for n in array.shape if n > 1]) <= 1


Builder = Callable[[Node, Weights, int], nn.Module | None]

BUILDERS: dict[str, tuple[Builder, tuple[int, ...]]] = {}
"""Operator -> what makes its layer (None where its weights are no constants), and the inputs the layer replaces."""


def layer_of(name: str, *slots: int) -> Callable[[Builder], Builder]:
    """Enter a function as what makes the layer of an operator."""

    def enter(function: Builder) -> Builder:
        if name in BUILDERS:
            raise ValueError(f"{name} already has a layer: {BUILDERS[name][0].__name__}")
        BUILDERS[name] = (function, slots)
        return function

    return enter


def given(node: Node, slot: int) -> bool:
    """Whether an operator has this input."""
    return len(node.inputs) > slot and node.inputs[slot] != ""


@layer_of("Conv", 1, 2)
def convolution(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.Conv1d, 2d or 3d; pads that torch's layer cannot have are put in front of it."""
    weight = weights.array(node, 1)
    if weight is None or not 3 <= weight.ndim <= 5 or (given(node, 2) and weights.array(node, 2) is None):
        return None
    window = Window(Call(node, opset), weight.shape[2:])
    groups = node.attributes.get("group", 1)
    layer = _CONVOLUTIONS[weight.ndim - 3](
        weight.shape[1] * groups, weight.shape[0], tuple(window.kernel), tuple(window.strides),
        tuple(window.fixed_pads() or [0] * len(window.kernel)), tuple(window.dilations), groups,
        bias=given(node, 2), device="meta",
    )  # fmt: skip
    return filled(layer, node, weights, weight=1, bias=2)


@layer_of("ConvTranspose", 1, 2)
def transposed_convolution(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.ConvTranspose1d, 2d or 3d."""
    weight = weights.array(node, 1)
    if weight is None or not 3 <= weight.ndim <= 5 or (given(node, 2) and weights.array(node, 2) is None):
        return None
    window = Window(Call(node, opset), weight.shape[2:])
    groups = node.attributes.get("group", 1)
    fixed = not window.same and window.begin == window.end and "output_shape" not in node.attributes
    layer = _TRANSPOSED[weight.ndim - 3](
        weight.shape[0], weight.shape[1] * groups, tuple(window.kernel), tuple(window.strides),
        tuple(window.begin) if fixed else 0, tuple(node.attributes.get("output_padding") or [0] * len(window.kernel)),
        groups, given(node, 2), tuple(window.dilations), device="meta",
    )  # fmt: skip
    return filled(layer, node, weights, weight=1, bias=2)


def filled(layer: nn.Module, node: Node, weights: Weights, **slots: int) -> nn.Module:
    """The layer with its parameters taken from these inputs of the operator."""
    for attribute, slot in slots.items():
        setattr(layer, attribute, weights.parameter(node, slot) if given(node, slot) else None)
    return layer


@layer_of("MatMul", 1, 2)
def product(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.Linear for a product with a constant matrix; its third input is a bias put there by `with_biases`."""
    weight = weights.array(node, 1)
    if weight is None or weight.ndim != 2 or weight.dtype.kind in "biu":
        return None
    return _linear(weights.parameter(node, 1, turned=True), weights.parameter(node, 2) if given(node, 2) else None)


@layer_of("Gemm", 1, 2)
def general_product(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.Linear, with alpha and beta in its parameters."""
    weight, bias = weights.array(node, 1), weights.array(node, 2)
    if weight is None or weight.ndim != 2 or (given(node, 2) and bias is None) or node.attributes.get("transA", 0):
        return None
    turned = not node.attributes.get("transB", 0)
    rows = weight.shape[1 if turned else 0]
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    if bias is not None and bias.size not in (1, rows):
        return None  # another bias for each sample
    matrix = weights.parameter(node, 1, turned=turned)
    if alpha != 1.0:
        matrix = nn.Parameter(matrix * alpha, requires_grad=False)
    if bias is None:
        return _linear(matrix, None)
    if beta == 1.0 and bias.shape == (rows,):
        return _linear(matrix, weights.parameter(node, 2))
    spread = np.broadcast_to(bias.reshape(-1), (rows,))
    return _linear(matrix, nn.Parameter(to_tensor(spread) * beta, requires_grad=False))


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight
    layer.bias = bias  # type: ignore[assignment]  # None where the layer has none
    return layer


@operator("MatMul")
def matmul(call: Call, x: Tensor | Numbers, y: Tensor | Numbers | None = None, bias: Any = None) -> Tensor:
    """Matrix product over the last two axes."""
    if call.layer is not None:
        result: Tensor = call.layer(call.tensor(x))
        return result
    assert y is not None  # ONNX's checker refuses a MatMul without
    return torch.matmul(call.tensor(x), call.tensor(y))


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor | None = None, c: Tensor | Numbers | None = None) -> Tensor:
    """Alpha a b + beta c, with a or b transposed."""
    if call.layer is not None:
        result: Tensor = call.layer(a)
        return result
    assert b is not None  # ONNX's checker refuses a Gemm without
    left = a.t() if call.get("transA", 0) else a
    right = b.t() if call.get("transB", 0) else b
    scaled: Tensor = call.get("alpha", 1.0) * (left @ right)
    return scaled if c is None else scaled + call.get("beta", 1.0) * call.tensor(c)


def with_biases(nodes: Sequence[Node], constants: dict[str, Numbers], outputs: Sequence[str]) -> list[Node]:
    """Give each layer without a bias the vector that the next operator, its only reader, adds to its output."""
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(index)
    result = list(nodes)
    dropped: set[int] = set()
    for index, node in enumerate(nodes):
        following = readers.get(node.outputs[0], [])
        if (
            node.operator not in ("MatMul", "Conv")
            or given(node, 2)
            or len(following) != 1
            or node.outputs[0] in outputs
        ):
            continue
        after = nodes[following[0]]
        added = _bias(node, after, constants)
        if added is not None:
            name = added if constants[added].ndim == 1 else f"{node.outputs[0]} + {added}"
            constants[name] = constants[added].reshape(-1)
            result[index] = replace(node, inputs=(*node.inputs[:2], name), outputs=after.outputs)
            dropped.add(following[0])
    return [node for index, node in enumerate(result) if index not in dropped]


def _bias(node: Node, after: Node, constants: dict[str, Numbers]) -> str | None:
    """The constant that `after` adds to each output channel of `node`; None where it does anything else."""
    weight = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if after.operator != "Add" or weight is None or weight.dtype.kind in "biu" or len(set(after.inputs)) != 2:
        return None
    other = after.inputs[1] if after.inputs[0] == node.outputs[0] else after.inputs[0]
    added = constants.get(other)
    channels = weight.shape[1 if node.operator == "MatMul" else 0] if weight.ndim > 1 else 0
    if added is None or added.size != channels or (node.operator == "MatMul" and weight.ndim != 2):
        return None
    trailing = 0 if node.operator == "MatMul" else weight.ndim - 2
    shape = added.shape[: added.ndim - trailing]
    fits = added.ndim > trailing and shape[-1] == channels and added.ndim <= weight.ndim
    return other if fits else None


def readable(name: str) -> str:
    """A name from a file, as a module's name.

    >>> readable("/layer1/layer1.0/conv1/Conv")
    'layer1_layer1_0_conv1_Conv'
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name)[:80].strip("_") or "unnamed"
    return f"{plain}_" if keyword.iskeyword(plain) else plain
