"""What a file wants to be fed: shapes, and random numbers of its types."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.errors import UsageError, nearest
from compress.onnx_file import Array, OnnxFile, Value
from compress.onnx_import.graph import OnnxGraph

SMALLEST_RANGE = 2
"""Whole numbers that look nothing up are drawn from 0 and 1: masks and kinds of token take both."""


MOST_NUMBERS = 2**28
"""In one input of one sample: a gigabyte of float32."""


@dataclass(frozen=True)
class Input:
    """One input of a file.

    Attributes:
        name: of the input.
        dtype: numpy's name of its type.
        shape: its sizes; the first is None where the batch is free.
        below: whole numbers are drawn below this.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    below: int = SMALLEST_RANGE

    @property
    def batched(self) -> bool:
        """Whether the first axis is a free batch."""
        return bool(self.shape) and self.shape[0] is None


def free_batch(opened: OnnxFile, inputs: Sequence[Input]) -> str | None:
    """The name of the free batch size, fit to be one in Python; None where all sizes are fixed."""
    if not any(entry.batched for entry in inputs):
        return None
    named = {entry.name: value.shape[0] for entry, value in zip(inputs, opened.inputs, strict=True) if value.shape}
    names = [named.get(entry.name) for entry in inputs if entry.batched]
    return next((name for name in names if isinstance(name, str) and name.isidentifier()), "batch")


def inputs_of(opened: OnnxFile, graph: OnnxGraph | None, asked: Sequence[str] = ()) -> tuple[Input, ...]:
    """The inputs with their sizes settled.

    Args:
        opened: the file.
        graph: what `read_graph` makes of it, where it can be followed; says what whole numbers look up.
        asked: "NAME=1,3,224,224" for each input whose sizes are to be fixed; a word as the first leaves it free.

    Raises:
        UsageError: no such input, sizes that do not fit the file, or sizes that the file leaves open.
    """
    given = _given(opened, asked)
    below = _lookups(graph) if graph else {}
    inputs = tuple(_settled(value, given.get(value.name), below.get(value.name)) for value in opened.inputs)
    firsts = {v.shape[0] for v, i in zip(opened.inputs, inputs, strict=True) if i.batched and v.shape}
    names = sorted(name for name in firsts if isinstance(name, str))
    if len(names) > 1:
        raise UsageError(
            f"the first axes of the inputs have different free sizes, {', '.join(map(repr, names))}; fix all but one, "
            f"for example --input-shape {_example(opened.inputs[0])}"
        )
    return inputs


def draw(inputs: Sequence[Input], batch: int, seed: int) -> dict[str, Array]:
    """Random numbers for every input: standard normal, or whole numbers from 0 on."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for entry in inputs:
        shape = [batch if size is None else size for size in entry.shape]
        kind = np.dtype(entry.dtype).kind
        numbers = generator.standard_normal(shape) if kind == "f" else generator.integers(0, entry.below, shape)
        feeds[entry.name] = np.asarray(numbers, entry.dtype)
    return feeds


def _given(opened: OnnxFile, asked: Sequence[str]) -> dict[str, tuple[int | None, ...]]:
    known = [value.name for value in opened.inputs]
    found: dict[str, tuple[int | None, ...]] = {}
    for text in asked:
        name, equals, sizes = text.rpartition("=")
        parts = [part.strip() for part in sizes.split(",")] if sizes else []
        numbers = [int(part) if part.isdecimal() else None for part in parts]
        wrong = not equals or not numbers or None in numbers[1:] or 0 in numbers or not all(parts)
        if wrong:
            raise UsageError(
                f"--input-shape wants NAME=1,3,224,224, got {text!r}; a word as the first size leaves it free"
            )
        if name not in known:
            raise UsageError(f"--input-shape: no input {name!r}; {nearest(name, known)}")
        found[name] = tuple(numbers)
    return found


def _settled(value: Value, given: tuple[int | None, ...] | None, below: int | None) -> Input:
    sizes = _sizes(value, given)
    if math.prod(size or 1 for size in sizes) > MOST_NUMBERS:
        raise UsageError(f"input {value.name!r} of shape {_said(sizes)} holds too much for one run; fix smaller sizes")
    high = below if below is not None else 256 if value.dtype == "uint8" else SMALLEST_RANGE
    return Input(value.name, value.dtype, sizes, high)


def _sizes(value: Value, given: tuple[int | None, ...] | None) -> tuple[int | None, ...]:
    shape = value.shape
    if given is not None:
        fits = shape is None or (
            len(given) == len(shape)
            and all(g == s or not isinstance(s, int) or s == 0 for g, s in zip(given, shape, strict=True))
        )
        if not fits:
            raise UsageError(
                f"--input-shape: {value.name!r} is {_said(shape)} in the file, {list(given)} was asked for"
            )
        return given
    # some exporters write 0 for a size they do not know
    sizes = None if shape is None else [size if isinstance(size, int) and size > 0 else None for size in shape]
    if sizes is None or None in sizes[1:]:
        raise UsageError(
            f"input {value.name!r} leaves sizes open beside the batch: {_said(shape)}; "
            f"fix them, for example --input-shape {_example(value)}"
        )
    return tuple(sizes)


def _said(shape: Sequence[int | str | None] | None) -> str:
    return "of unknown shape" if shape is None else str(["?" if size is None else size for size in shape])


def _example(value: Value) -> str:
    """A shape to type: the file's sizes where it has them."""
    name = "".join(c if c.isprintable() else "?" for c in value.name)
    if value.shape is None:
        return f"{name}=1,3,224,224"
    sizes = [
        str(s) if isinstance(s, int) and s > 0 else ("1" if axis == 0 else "224") for axis, s in enumerate(value.shape)
    ]
    return f"{name}={','.join(sizes)}"


def _lookups(graph: OnnxGraph) -> dict[str, int]:
    """For inputs that pick from a constant table: how many entries the smallest one has."""
    below: dict[str, int] = {}
    for node in graph.nodes:
        if node.operator == "Gather" and node.inputs[1] in graph.inputs:
            table = graph.constants.get(node.inputs[0])
            axis = node.attributes.get("axis", 0)
            rows = table.shape[axis] if table is not None else math.inf
            below[node.inputs[1]] = int(min(rows, below.get(node.inputs[1], 2**31)))
    return below
