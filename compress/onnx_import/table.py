"""The table of ONNX operators: one operator, one function, duplicates refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.errors import UsageError

Numbers = npt.NDArray[Any]
"""Numbers known while the network runs: constants and sizes; of dtype object where a free batch size is among them."""

Value = Tensor | Numbers | None
"""What flows between operators; None for an input that is left out."""

F = TypeVar("F", bound=Callable[..., Any])

TORCH_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""ONNX number types, by the code that files hold."""


@dataclass(frozen=True)
class Node:
    """One operator of a file; an empty name in `inputs` or `outputs` is one that is left out."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def refused(self, why: str) -> UsageError:
        """The error that says why this operator cannot be followed."""
        return UsageError(f"operator {self.operator} at {self.name!r}: {why}")


@dataclass(frozen=True)
class Call:
    """One run of one operator, as its function sees it.

    node: the operator.
    opset: version of the operator set, which decides what an attribute means.
    layer: holds the operator's weights where these are constants of the file.
    wide: the network was converted to float64, so every floating-point number is.
    sizes: for Reshape, the output's sizes in terms of the input's (see `reshape.py`).
    """

    node: Node
    opset: int
    layer: nn.Module | None = None
    wide: bool = False
    sizes: tuple[tuple[int, ...] | None, ...] | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attributes.get(name, default)

    def refused(self, why: str) -> UsageError:
        """The error that says why this operator cannot be followed."""
        return self.node.refused(why)

    def wanted(self, output: int) -> bool:
        """Whether anything may read this output."""
        return len(self.node.outputs) > output and self.node.outputs[output] != ""

    def dtype(self, code: int) -> torch.dtype:
        """The torch type of an ONNX type code, in the network's own precision.

        Raises:
            UsageError: a type that torch does not compute with.
        """
        if code not in TORCH_TYPES:
            raise self.refused(f"number type {code} is not supported")
        return self.floating(TORCH_TYPES[code])

    def floating(self, dtype: torch.dtype) -> torch.dtype:
        """The type itself, or float64 for a floating-point one where the network was widened."""
        return torch.float64 if self.wide and dtype.is_floating_point else dtype

    def tensor(self, value: Tensor | Numbers) -> Tensor:
        """A tensor of numbers, in the network's own precision."""
        if isinstance(value, Tensor):
            return value
        if value.dtype == object:  # a free size: stacked, so that it stays free
            return torch.stack([torch.as_tensor(item) for item in value.reshape(-1)]).reshape(value.shape)
        made = to_tensor(value)
        return made.to(self.floating(made.dtype))

    def operands(self, *values: Tensor | Numbers) -> list[Any]:
        """Operands that meet in one operator: single numbers stay plain numbers beside a tensor."""
        rank = max((v.dim() for v in values if isinstance(v, Tensor)), default=-1)
        return [
            v.reshape(-1)[0] if v.dtype == object else v.item()
            if isinstance(v, np.ndarray) and v.size == 1 and v.ndim <= rank
            else self.tensor(v)
            for v in values
        ]  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """An entry of the table.

    run: called as run(call, *inputs).
    numbers: inputs that must be known numbers (sizes, axes, pads), never computed from the data.
    """

    run: Callable[..., Any]
    numbers: tuple[int, ...] = ()


OPERATORS: dict[str, Operator] = {}

ON_NUMBERS: dict[str, Callable[..., Any]] = {}
"""The same operators where all inputs are known numbers: the arithmetic of sizes."""


def operator(*names: str, numbers: tuple[int, ...] = ()) -> Callable[[F], F]:
    """Enter a function as what one or more ONNX operators compute.

    Raises:
        ValueError: an operator already has a function.
    """

    def enter(function: F) -> F:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"{name} already has a function: {OPERATORS[name].run.__name__}")
            OPERATORS[name] = Operator(function, numbers)
        return function

    return enter


def on_numbers(*names: str) -> Callable[[F], F]:
    """Enter a function as what an operator computes on known numbers.

    Raises:
        ValueError: an operator already has one.
    """

    def enter(function: F) -> F:
        for name in names:
            if name in ON_NUMBERS:
                raise ValueError(f"{name} already has a function on numbers: {ON_NUMBERS[name].__name__}")
            ON_NUMBERS[name] = function
        return function

    return enter


def to_tensor(array: Numbers) -> Tensor:
    """A tensor with a copy of the numbers; numpy has no bfloat16 of its own."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def whole(numbers: Numbers | None) -> list[Any]:
    """A list of whole numbers, free sizes among them; empty for None."""
    if numbers is None:
        return []
    return [item if isinstance(item, torch.SymInt) else int(item) for item in numbers.reshape(-1)]


def axes_of(call: Call, given: Numbers | None, rank: int) -> list[int] | None:
    """Axes from an input or, before that was possible, an attribute; not negative; None where none are given."""
    axes = whole(given) if given is not None else call.get("axes")
    if axes is None:
        return None
    if any(not -rank <= axis < rank for axis in axes):
        raise call.refused(f"axes {list(axes)} of a tensor with {rank}")
    return [axis % rank for axis in axes]
