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

INDEX_TYPES = (("uint8_t", 2**8), ("uint16_t", 2**16), ("uint32_t", 2**32))


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, without its batch.

    Attributes:
        buffer: where it lies; several values may share one, where an operator changes the shape only.
        shape: (C, H, W), or fewer axes.
    """

    buffer: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Entries."""
        return prod(self.shape)


@dataclass
class Buffer:
    """Floats of the arena, alive from one step to another."""

    size: int
    first: int
    last: int
    offset: int = -1


@dataclass
class Net:
    """A network as C, step by step.

    Attributes:
        name: prefix of every name that the linker sees.
        int8: whether weights are kept as 8-bit integers with a scale for each output channel.
        values: by their name in the graph.
        constants: by their name in the graph.
        consumers: how many nodes read a value.
    """

    name: str
    int8: bool
    constants: dict[str, Any]
    consumers: Mapping[str, int]
    values: dict[str, Value] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    calls: list[Callable[[], str]] = field(default_factory=list)
    macs: int = 0

    def buffer(self, size: int) -> int:
        """Floats for the coming step, and for as long as later steps read them."""
        self.buffers.append(Buffer(size, len(self.calls), len(self.calls)))
        return len(self.buffers) - 1

    def step(self, label: str, inputs: Sequence[Value], shape: tuple[int, ...], body: str) -> Value:
        """One function and its call.

        Args:
            label: of the function, made unique.
            inputs: read as ``x``, or as ``x0``, ``x1``.
            shape: of the result, written to ``y``.
            body: C statements.
        """
        name = f"{self.name}_{len(self.calls)}_{re.sub(r'[^a-z0-9]', '', label.lower())}"
        result = Value(self.buffer(prod(shape)), shape)
        used = [value.buffer for value in inputs]
        for number in used:
            self.buffers[number].last = len(self.calls)
        names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
        parameters = [*(f"const float *restrict {n}" for n in names), "float *restrict y"]
        self.functions.append(f"static void {name}({', '.join(parameters)})\n{{\n{_indented(body)}\n}}\n")
        places = [*used, result.buffer]
        self.calls.append(lambda: f"{name}({', '.join(f'arena + {self.buffers[b].offset}' for b in places)});")
        return result

    def keep(self, value: Value, until: int) -> None:
        """Keep a value alive until a step."""
        self.buffers[value.buffer].last = max(self.buffers[value.buffer].last, until)

    def floats(self, label: str, data: Array) -> str:
        """A constant array of floats; gives its name."""
        return self._array("float", label, [_float(x) for x in data.reshape(-1).tolist()])

    def bytes(self, label: str, data: npt.NDArray[np.int8]) -> str:
        """A constant array of signed bytes; gives its name."""
        return self._array("int8_t", label, map(str, data.reshape(-1).tolist()))

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
    """Give every buffer its offset such that no two that live at once overlap; returns the arena's floats.

    The largest first, each at the lowest place that is free for its whole life (greedy by size: Pisarchyk and Lee,
    2020, arXiv:2001.03288).
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        at = 0
        for other in sorted(placed, key=lambda b: b.offset):
            apart = other.last < buffer.first or buffer.last < other.first
            if not apart and at + _room(buffer) > other.offset and at < other.offset + _room(other):
                at = other.offset + _room(other)
        buffer.offset = at
        placed.append(buffer)
    return max((b.offset + _room(b) for b in buffers), default=SLACK)


def _room(buffer: Buffer) -> int:
    """Floats a buffer takes, vectors of eight and what may be read behind it included."""
    return -(-(buffer.size + SLACK) // 8) * 8


def _float(x: float) -> str:
    """The shortest text that reads back as the same float."""
    if not isfinite(x):
        raise ExportError("a weight is not finite; train the network again before exporting it")
    text = str(np.float32(x))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.strip("\n").splitlines())
