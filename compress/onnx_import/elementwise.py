"""Operators that work element by element: arithmetic, comparisons, activations, changes of number type."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.onnx_import.table import Call, Numbers, Value, operator

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Sign": torch.sign, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos,
    "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Tanh": torch.tanh, "Asinh": torch.asinh,
    "Acosh": torch.acosh, "Atanh": torch.atanh, "Erf": torch.erf, "Sigmoid": torch.sigmoid, "Relu": torch.relu,
    "Softplus": F.softplus, "Softsign": F.softsign, "Not": torch.logical_not, "IsNaN": torch.isnan,
    "HardSwish": F.hardswish, "Mish": F.mish,
}  # fmt: skip

_BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Sub": torch.sub, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "Pow": torch.pow,
}  # fmt: skip

_SWAPPED = {"Greater": "Less", "Less": "Greater", "GreaterOrEqual": "LessOrEqual", "LessOrEqual": "GreaterOrEqual"}


@operator(*_UNARY)
def unary(call: Call, x: Value) -> Tensor:
    """One operand, element by element."""
    return _UNARY[call.node.operator](call.tensor(_given(x)))


def _given(x: Value) -> Tensor | Numbers:
    assert x is not None  # ONNX's checker refuses a file without an operand that must be there
    return x


@operator(*_BINARY)
def binary(call: Call, x: Tensor | Numbers, y: Tensor | Numbers) -> Tensor:
    """Two operands, element by element, with broadcasting."""
    name = call.node.operator
    a, b = call.operands(x, y)
    if not isinstance(a, Tensor) and name in _SWAPPED:
        return _BINARY[_SWAPPED[name]](b, a)
    if not isinstance(a, Tensor) and name not in ("Sub", "Pow"):  # a number in front
        a = call.tensor(x)
    if name in ("And", "Or", "Xor") and not isinstance(b, Tensor):
        b = call.tensor(y)
    if name == "Sub" and not isinstance(a, Tensor):
        return torch.rsub(b, a)
    return _BINARY[name](a, b)


@operator("Add", "Sum")
def add(call: Call, *values: Tensor | Numbers) -> Tensor:
    """The sum of all operands."""
    return _folded(call, torch.add, *values)


@operator("Mul")
def multiply(call: Call, x: Tensor | Numbers, y: Tensor | Numbers) -> Tensor:
    """The product of two operands."""
    return _folded(call, torch.mul, x, y)


@operator("Mean")
def mean(call: Call, *values: Tensor | Numbers) -> Tensor:
    """The mean of all operands."""
    return add(call, *values) / len(values)


def _folded(call: Call, function: Callable[..., Tensor], *values: Tensor | Numbers) -> Tensor:
    operands = call.operands(*values)
    if len(operands) > 1 and not isinstance(operands[0], Tensor):  # torch wants a tensor in front
        operands[0], operands[1] = operands[1], operands[0]
    if not isinstance(operands[0], Tensor):
        operands[0] = call.tensor(values[0])
    result: Tensor = reduce(function, operands)
    return result


@operator("Min", "Max")
def extreme(call: Call, *values: Tensor | Numbers) -> Tensor:
    """The least or largest of all operands."""
    least = call.node.operator == "Min"
    operands = call.operands(*values)
    result: Tensor = reduce(torch.minimum if least else torch.maximum, [v for v in operands if isinstance(v, Tensor)])
    for bound in (v for v in operands if not isinstance(v, Tensor)):
        result = result.clamp(max=bound) if least else result.clamp(min=bound)
    return result


@operator("Div")
def divide(call: Call, x: Tensor | Numbers, y: Tensor | Numbers) -> Tensor:
    """The quotient; whole numbers are divided towards zero."""
    a, b = call.operands(x, y)
    if not isinstance(a, Tensor):
        a = call.tensor(x)
    return torch.div(a, b) if a.dtype.is_floating_point else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def modulo(call: Call, x: Tensor | Numbers, y: Tensor | Numbers) -> Tensor:
    """The remainder, with the divisor's sign unless `fmod` asks for the dividend's."""
    a, b = call.operands(x, y)
    if not isinstance(a, Tensor):
        a = call.tensor(x)
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


@operator("Where")
def where(call: Call, condition: Tensor | Numbers, x: Tensor | Numbers, y: Tensor | Numbers) -> Tensor:
    """The one where the condition holds, the other elsewhere."""
    # a number alone may be a plain one, but two would decide the result's type
    a, b = call.operands(x, y)
    return torch.where(call.tensor(condition), a, b)


@operator("Clip", numbers=(1, 2))
def clip(call: Call, x: Tensor | Numbers, low: Numbers | None = None, high: Numbers | None = None) -> Tensor:
    """Between two bounds: inputs, or attributes in old files."""
    least = low.item() if low is not None else call.get("min")
    most = high.item() if high is not None else call.get("max")
    tensor = call.tensor(x)
    return tensor if least is None and most is None else torch.clamp(tensor, least, most)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Positive as it is, else alpha x."""
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """Positive as it is, else alpha (exp(x) - 1)."""
    return F.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    return F.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """Gamma (x if positive, else alpha (exp(x) - 1))."""
    alpha, gamma = call.get("alpha", 1.67326319217681884765625), call.get("gamma", 1.05070102214813232421875)
    return torch.mul(F.elu(x, alpha), gamma)


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """Alpha x + beta, between 0 and 1."""
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """As it is above alpha, else 0."""
    return F.threshold(x, call.get("alpha", 1.0), 0.0)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """Times the normal distribution there, or its approximation by tanh."""
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """Times sigmoid(alpha x)."""
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Infinite, on the sides asked for."""
    sides = (
        (torch.isneginf(x), bool(call.get("detect_negative", 1))),
        (torch.isposinf(x), bool(call.get("detect_positive", 1))),
    )
    return reduce(torch.logical_or, [found for found, asked in sides if asked], torch.zeros_like(x, dtype=torch.bool))


@operator("Cast")
def cast(call: Call, x: Value) -> Tensor:
    """Another number type."""
    return call.tensor(_given(x)).to(call.dtype(call.get("to")))


@operator("CastLike")
def cast_like(call: Call, x: Value, like: Value) -> Tensor:
    """The number type of another tensor."""
    return call.tensor(_given(x)).to(call.tensor(_given(like)).dtype)


@operator("Identity")
def identity(call: Call, x: Value) -> Value:
    """The same."""
    return x


@operator("Dropout", numbers=(1, 2))
def dropout(call: Call, x: Value, ratio: Numbers | None = None, training: Numbers | None = None) -> Value:
    """The same: nothing is dropped outside training."""
    if training is not None and bool(training):
        raise call.refused("it drops at random, in training mode; export the model for inference")
    if call.wanted(1):
        raise call.refused("its mask is read, which only training needs; export the model for inference")
    return x
