"""Do two ONNX files compute the same? All their outputs, on random inputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

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

WIDEST = 5e-3
"""Of the output's size: what rounds worse than half precision cannot be compared at all."""

Feeds = Mapping[str, Array]
Answer = Callable[[Feeds], Sequence[Array]]
"""All outputs for one feed."""

SEEDS = (10, 11, 12, 13)
"""Others than compaction compares on."""
BATCHES = (2, 2, 1, 5)
"""For each seed, where the batch is free."""

UNEQUAL_WHOLE_NUMBERS = 1e-3
"""Share of a whole-number output (an index of a largest element) that rounding may change."""


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
        other: answers of the file under test; it may give fewer outputs, the first ones.
        inputs: what both take.
        dtype: the least precise type computed in, a key of `TOLERANCES`.
        floors: of `floors_of`; 0 where they are left out.

    Raises:
        UsageError: a file does not run, or the outputs have other shapes.
    """
    feeds = [draw(inputs, batch, seed) for seed, batch in zip(SEEDS, BATCHES, strict=True)]
    expected = [given(feed) for feed in feeds]
    found = [other(feed) for feed in feeds]
    outputs = zip(zip(*expected, strict=True), zip(*found, strict=True), strict=False)
    pairs = [list(zip(wants, gots, strict=True)) for wants, gots in outputs]
    least = [*floors, *[0.0] * len(pairs)]
    compared = [_compared(pair, TOLERANCES[dtype], floor) for pair, floor in zip(pairs, least, strict=False)]
    worst, tolerance = max(compared, key=_nearness)
    batched = any(entry.batched for entry in inputs)
    return Parity(
        max_abs=worst,
        tolerance=tolerance,
        top1_agreement=_agreement(pairs),
        samples=sum(BATCHES) if batched else len(SEEDS),
        passed=all(_nearness(one) <= 1 for one in compared),
    )


def _compared(pairs: Sequence[tuple[Array, Array]], tolerance: float, floor: float) -> tuple[float | None, float]:
    """Largest difference and what it may be, of one output; for whole numbers, shares of unequal ones."""
    for want, got in pairs:
        if want.shape != got.shape:
            raise UsageError(f"the outputs have shapes {got.shape} and {want.shape}; these are two different models")
    if pairs[0][0].dtype.kind != "f":
        unequal = max(float(np.mean(want != got)) if want.size else 0.0 for want, got in pairs)
        return unequal, max(UNEQUAL_WHOLE_NUMBERS, tolerance)
    wide = [(want.astype(np.float64), got.astype(np.float64)) for want, got in pairs]
    if not all(np.isfinite(want).all() and np.isfinite(got).all() for want, got in wide):
        return None, 0.0
    scale = max(float(np.abs(want).max(initial=0)) for want, _ in wide)
    # an output of zeros alone leaves no room, whatever is allowed of its size
    allowed = max(tolerance * scale, min(floor, WIDEST * scale)) if scale else 0.0
    return max(float(np.abs(want - got).max(initial=0)) for want, got in wide), allowed


def _nearness(compared: tuple[float | None, float]) -> float:
    """The difference as a share of what it may be; above 1 is a failure."""
    found, tolerance = compared
    if found is None:
        return math.inf
    return found / tolerance if tolerance else math.inf if found else 0.0


def _agreement(outputs: Sequence[Sequence[tuple[Array, Array]]]) -> float | None:
    """Share of samples with the same largest entry, of the first output that is one row of scores a sample."""
    for pairs in outputs:
        if pairs[0][0].dtype.kind == "f" and pairs[0][0].ndim == 2 and pairs[0][0].shape[1] > 1:
            return float(np.mean(np.concatenate([want.argmax(1) == got.argmax(1) for want, got in pairs])))
    return None
