"""Do two ONNX files compute the same? All their outputs, on random inputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.agreement import Output, nearest_to_its_limit, nearness
from compress.errors import UsageError
from compress.onnx_file import FLOATS, Array, one_line, session
from compress.onnx_import.inputs import Input, draw
from compress.validate import TOLERANCES, Parity

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ROUNDING = 4
"""Times what ONNX Runtime's own optimisation changes in the outputs of the given file: room for two other orders of
summation. It is measured on the given file alone, so nothing that we do to it can widen it. Where the rounding is
usual the tolerance by type decides; it is less than the rounding where a Sigmoid's largest result is small (ONNX
Runtime computes 0.5 plus a rational function, 1.7e-7 off however small the result) or a deep network ends in Softmax.
"""

Feeds = Mapping[str, Array]
Answer = Callable[[Feeds], Sequence[Array]]
"""All outputs for one feed."""

SEEDS = (10, 11, 12, 13)
"""Others than compaction compares on."""
BATCHES = (2, 2, 1, 5)
"""For each seed, where the batch is free."""


def answers(runtime: "InferenceSession") -> Answer:
    """What a session answers; floating-point numbers are fed in the type that it takes.

    Raises:
        UsageError: by the answer: it cannot run on the feed.
    """
    types = {entry.name: FLOATS.get(entry.type, np.float32) for entry in runtime.get_inputs()}

    def run(feeds: Feeds) -> Sequence[Array]:
        cast = {name: x.astype(types[name]) if x.dtype.kind == "f" else x for name, x in feeds.items() if name in types}
        try:
            return list(runtime.run(None, cast))
        except Exception as error:  # the runtime's errors share no base but Exception
            raise UsageError(f"ONNX Runtime cannot run the file: {one_line(error)}") from None

    return run


def floors_of(model: bytes, known: Sequence[tuple[Feeds, Sequence[Array]]]) -> tuple[float, ...]:
    """For each output, what its tolerance is at least, in its own units, for the rounding that the file does itself.

    Args:
        model: the given file.
        known: feeds, and what the file, optimised, answers to them.
    """
    plain = answers(session(model, optimised=False))
    changed: list[list[float]] = [[] for _ in known[0][1]]
    for feeds, wants in known:
        for held, want, got in zip(changed, wants, plain(feeds), strict=True):
            held.append(_gap(want, got) if want.dtype.kind == "f" else 0.0)
    return tuple(ROUNDING * max(gaps) for gaps in changed)


def _gap(want: Array, got: Array) -> float:
    """The largest difference; 0 where a number is not finite, which no tolerance is for."""
    gap = float(np.abs(want.astype(np.float64) - got.astype(np.float64)).max(initial=0))
    return gap if math.isfinite(gap) else 0.0


def random_parity(
    given: Answer, other: Answer, inputs: Sequence[Input], *, dtype: str = "float32", floors: Sequence[float] = ()
) -> Parity:
    """Compare two files on random inputs; of several outputs the one nearest to its tolerance is told.

    Args:
        given: answers of the reference.
        other: answers of the file under test.
        inputs: what both take.
        dtype: the least precise type computed in, a key of `TOLERANCES`.
        floors: of `floors_of`; 0 where they are left out.

    Raises:
        UsageError: a file does not run, or the outputs are others in number or shape.
    """
    feeds = [draw(inputs, batch, seed) for seed, batch in zip(SEEDS, BATCHES, strict=True)]
    expected = [given(feed) for feed in feeds]
    found = [other(feed) for feed in feeds]
    if len(found[0]) != len(expected[0]):
        raise UsageError(
            f"one has {len(found[0])} outputs, the other {len(expected[0])}; these are two different models"
        )
    outputs = [Output() for _ in expected[0]]
    for wants, gots in zip(expected, found, strict=True):
        for output, want, got in zip(outputs, wants, gots, strict=True):
            output.add(want, got)
    worst, tolerance = result = nearest_to_its_limit(outputs, TOLERANCES[dtype], floors)
    batched = any(entry.batched for entry in inputs)
    return Parity(
        max_abs=worst,
        tolerance=tolerance,
        top1_agreement=_agreement(expected, found),
        samples=sum(BATCHES) if batched else len(SEEDS),
        passed=nearness(result) <= 1,
    )


def _agreement(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float | None:
    """Share of samples with the same largest entry, of the first output that is one row of scores a sample."""
    for place, first in enumerate(expected[0]):
        if first.dtype.kind == "f" and first.ndim == 2 and first.shape[1] > 1:
            same = [w[place].argmax(1) == g[place].argmax(1) for w, g in zip(expected, found, strict=True)]
            return float(np.mean(np.concatenate(same)))
    return None
