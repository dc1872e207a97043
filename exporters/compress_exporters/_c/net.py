"""The program while it is written: buffers, constant arrays, and one step of C for every operator."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_exporters.artifact import ExportError

Array = npt.NDArray[np.float32]

SLACK = 8
"""Floats that may be read behind a buffer: vectors of eight may start at its last entry."""

INPUT = -1
"""The buffer that is the caller's: 8-bit integers are made of the input where it lies."""

INDEX_TYPES = (("uint8_t", 2**8), ("uint16_t", 2**16), ("uint32_t", 2**32))


@dataclass(frozen=True)
class Integers:
    """A constant that the graph keeps as integers.

    Attributes:
        stored: the integers; zero stands for 0.
        scale: of all, or one for each entry of the axis.
        axis: of the scales.
    """

    stored: npt.NDArray[np.integer[Any]]
    scale: Array
    axis: int


@dataclass(frozen=True)
class Quant:
    """How real numbers are kept as 8-bit integers: real = scale * (stored - zero)."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, without its batch.

    Attributes:
        buffer: where it lies; several values may share one, where an operator changes the shape only.
        shape: (C, H, W), or fewer axes.
        quant: how its 8-bit integers are to be read; None for floats.
    """

    buffer: int
    shape: tuple[int, ...]
    quant: Quant | None = None

    @property
    def size(self) -> int:
        """Entries."""
        return prod(self.shape)

    @property
    def kind(self) -> str:
        """C type of the entries."""
        return "int8_t" if self.quant else "float"


@dataclass
class Buffer:
    """A part of the arena, alive from one step to another.

    Attributes:
        size: entries.
        first: the step that writes it.
        last: the last step that reads it.
        each: bytes of an entry.
        offset: bytes from the arena's start; unknown until `place`.
    """

    size: int
    first: int
    last: int
    each: int = 4
    offset: int = -1

    @property
    def room(self) -> int:
        """Bytes taken; vectors of floats, and what may be read behind them, included."""
        return -(-(self.size + SLACK) // 8) * 32 if self.each == 4 else -(-self.size // 4) * 4


@dataclass
class Net:
    """A network as C, step by step.

    Attributes:
        name: prefix of every name that the linker sees.
        constants: by their name in the graph.
        integers: those of them that the graph keeps as integers.
        values: by their name in the graph.
        consumers: how many nodes read a value.
    """

    name: str
    constants: dict[str, Any]
    consumers: Mapping[str, int]
    integers: dict[str, Integers] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    dequantised: dict[Value, Value] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    calls: list[Callable[[], str]] = field(default_factory=list)
    macs: int = 0

    def buffer(self, size: int, each: int = 4) -> int:
        """Entries of so many bytes for the coming step, and for as long as later steps read them."""
        self.buffers.append(Buffer(size, len(self.calls), len(self.calls), each))
        return len(self.buffers) - 1

    def step(
        self, label: str, inputs: Sequence[Value], shape: tuple[int, ...], body: str, quant: Quant | None = None
    ) -> Value:
        """One function and its call.

        Args:
            label: of the function, made unique.
            inputs: read as ``x``, or as ``x0``, ``x1``.
            shape: of the result, written to ``y``.
            body: C statements.
            quant: of the result; None for floats.
        """
        name = f"{self.name}_{len(self.calls)}_{re.sub(r'[^a-z0-9]', '', label.lower())}"
        result = Value(self.buffer(prod(shape), 1 if quant else 4), shape, quant)
        for value in inputs:
            self.keep(value, len(self.calls))
        names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
        parameters = [f"const {value.kind} *restrict {n}" for value, n in zip(inputs, names, strict=True)]
        words = ", ".join([*parameters, f"{result.kind} *restrict y"])
        self.functions.append(f"static void {name}({words})\n{{\n{_indented(body)}\n}}\n")
        self.calls.append(lambda: f"{name}({', '.join(self.where(value) for value in [*inputs, result])});")
        return result

    def where(self, value: Value) -> str:
        """Where a value lies, once `place` has decided."""
        if value.buffer == INPUT:
            return "input"
        offset = self.buffers[value.buffer].offset
        return f"(int8_t *)arena + {offset}" if value.quant else f"arena + {offset // 4}"

    def floats_of(self, value: Value) -> Value:
        """A value as floats; a step that writes them, the first time that 8-bit integers are asked for so."""
        if value.quant is None:
            return value
        if value not in self.dequantised:
            scale, zero = real(value.quant.scale), value.quant.zero
            body = f"for (int i = 0; i < {value.size}; ++i)\n  y[i] = (float)(x[i] - {zero}) * {scale};"
            self.dequantised[value] = self.step("dequantise", [value], value.shape, body)
        return self.dequantised[value]

    def keep(self, value: Value, until: int) -> None:
        """Keep a value alive until a step."""
        if value.buffer != INPUT:
            self.buffers[value.buffer].last = max(self.buffers[value.buffer].last, until)

    def floats(self, label: str, data: Array) -> str:
        """A constant array of floats; gives its name."""
        return self._array("float", label, [real(x) for x in data.reshape(-1).tolist()])

    def signed(self, label: str, data: npt.NDArray[np.integer[Any]]) -> str:
        """A constant array of signed integers as wide as the data's; gives its name."""
        return self._array(f"{data.dtype}_t", label, map(_integer, data.reshape(-1).tolist()))

    def indices(self, label: str, data: npt.NDArray[np.int64]) -> tuple[str, str]:
        """A constant array of the narrowest unsigned type; gives its name and that type."""
        most = int(data.max(initial=0))
        kind = next(name for name, limit in INDEX_TYPES if most < limit)
        return self._array(kind, label, map(str, data.reshape(-1).tolist())), kind

    def _array(self, kind: str, label: str, entries: Iterable[str]) -> str:
        name = f"{self.name}_{len(self.calls)}_{label}"
        text = list(entries) or ["0"]  # C99 has no empty array
        lines = [", ".join(text[i : i + 12]) for i in range(0, len(text), 12)]
        self.arrays.append(f"static const {kind} {name}[{len(text)}] = {{\n  " + ",\n  ".join(lines) + "\n};\n")
        return name

    def alias(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The same floats under another shape."""
        return replace(value, shape=shape)


def place(buffers: list[Buffer]) -> int:
    """Give every buffer its offset such that no two that live at once overlap; returns the arena's bytes.

    The largest first, each at the lowest place that is free for its whole life (greedy by size: Pisarchyk and Lee,
    2020, arXiv:2001.03288).
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.room, b.first)):
        at = 0
        for other in sorted(placed, key=lambda b: b.offset):
            apart = other.last < buffer.first or buffer.last < other.first
            if not apart and at + buffer.room > other.offset and at < other.offset + other.room:
                at = other.offset + other.room
        buffer.offset = at
        placed.append(buffer)
    return max((b.offset + b.room for b in buffers), default=4)


def real(x: float) -> str:
    """The shortest text that C reads as this float.

    Raises:
        ExportError: it is not finite.
    """
    with np.errstate(over="ignore"):
        number = np.float32(x)
    if not isfinite(number):
        raise ExportError("a weight is not finite; train the network again before exporting it")
    text = str(number)
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _integer(x: int) -> str:
    """C has no negative literals: the least of 32 bits would be a negated number of 64."""
    return str(x) if x > -(2**31) else "INT32_MIN"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.strip("\n").splitlines())
