"""A node of the graph, as the operators' rules see it, and the functions of one number."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from compress_exporters._c.net import Array, Integers, Net, Quant, Value
from compress_exporters.artifact import ExportError

Attributes = Mapping[str, Any]

ACTIVATIONS: dict[str, Callable[[Attributes, list[float | None]], str]] = {
    "Relu": lambda a, c: "@ > 0 ? @ : 0",
    "LeakyRelu": lambda a, c: f"@ > 0 ? @ : {a.get('alpha', 0.01)!r}f * @",
    "Sigmoid": lambda a, c: "1 / (1 + expf(-@))",
    "Tanh": lambda a, c: "tanhf(@)",
    "HardSigmoid": lambda a, c: f"fminf(fmaxf({a.get('alpha', 0.2)!r}f * @ + {a.get('beta', 0.5)!r}f, 0), 1)",
    "HardSwish": lambda a, c: "@ * fminf(fmaxf(@ / 6 + 0.5f, 0), 1)",
    "Clip": lambda a, c: _clip(*[*c, None, None][:2]),
}
"""Operators of one number at a time, as expressions of ``@``; the constants are the node's further inputs."""


@dataclass(frozen=True)
class Finish:
    """What becomes of a node's result.

    Attributes:
        activation: C expression of ``@``.
        bounds: the same as limits, least and largest; None where it is more than that.
        quant: the 8-bit integers that it is asked for as, None for floats.
        pool: height and width of the windows of which only the largest result is asked for.
    """

    activation: str = "@"
    bounds: tuple[float, float] | None = (-math.inf, math.inf)
    quant: Quant | None = None
    pool: tuple[int, int] = (1, 1)


def bounds_of(op: str, constants: list[float | None]) -> tuple[float, float] | None:
    """What an activation limits its argument to; None where it does more."""
    if op == "Relu":
        return 0.0, math.inf
    if op != "Clip":
        return None
    low, high = [*constants, None, None][:2]
    return -math.inf if low is None else low, math.inf if high is None else high


class Node:
    """A node of the graph, with what an operator asks of it."""

    def __init__(self, net: Net, op: str, inputs: list[str], attributes: Attributes, finish: Finish) -> None:
        self.net = net
        self.op = op
        self.inputs = inputs
        self.attributes = attributes
        self.finish = finish
        self.activation = finish.activation

    def with_pool(self, pool: tuple[int, int]) -> "Node":
        """The same, of whose result only the largest of every window is asked for."""
        return Node(self.net, self.op, self.inputs, self.attributes, replace(self.finish, pool=pool))

    def value(self, index: int = 0) -> Value:
        """An input that is computed, as floats.

        Raises:
            ExportError: it is a constant.
        """
        return self.net.floats_of(self.tensor(index))

    def tensor(self, index: int = 0) -> Value:
        """An input that is computed, as it is kept.

        Raises:
            ExportError: it is a constant.
        """
        name = self.inputs[index]
        if name not in self.net.values:
            raise ExportError(f"operator {self.op} with a constant as its input {index} is not written as C")
        return self.net.values[name]

    def kept(self, index: int) -> Integers | None:
        """An input that is a constant kept as integers; None for any other."""
        return self.net.integers.get(self.inputs[index])

    def constant(self, index: int) -> Any:
        """An input that is a constant, or None where it is left out.

        Raises:
            ExportError: it is computed.
        """
        if index >= len(self.inputs) or not self.inputs[index]:
            return None
        if self.inputs[index] not in self.net.constants:
            raise ExportError(
                f"operator {self.op} with a computed input {index} is not written as C; it has to be a constant"
            )
        return self.net.constants[self.inputs[index]]

    def row(self) -> Value:
        """The first input of a linear layer, as it is kept: one row of numbers.

        Raises:
            ExportError: it is several.
        """
        x = self.tensor()
        if len(x.shape) != 1:
            raise self.refuse(f"of {prod(x.shape[:-1])} rows of {x.shape[-1]}")
        return x

    def refuse(self, what: str) -> ExportError:
        """Why this node cannot be written."""
        return ExportError(f"operator {self.op} {what} is not written as C")


def flat(net: Net, x: Value) -> Value:
    """A value as one row of numbers."""
    return net.alias(x, (x.size,))


def _clip(low: float | None, high: float | None) -> str:
    inner = "@" if low is None or math.isinf(low) else f"fmaxf(@, {float(low)!r}f)"
    return inner if high is None or math.isinf(high) else f"fminf({inner}, {float(high)!r}f)"


def number_of(array: Array | None) -> float | None:
    """A scalar constant as a number."""
    return None if array is None else float(np.asarray(array).reshape(-1)[0])
