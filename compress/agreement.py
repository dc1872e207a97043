"""Do two runtimes give the same numbers? Each output as a whole, and each of its channels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import UsageError

Array = npt.NDArray[Any]

WIDEST = 5e-3
"""Of the output's size: what rounds worse than half precision cannot be compared at all."""

UNEQUAL_WHOLE_NUMBERS = 1e-3
"""Share of a whole-number output (an index of a largest element) that rounding may change."""

CHANNEL = 0.02
"""Of a channel's own size that its error may be, both root mean square, whatever the whole output allows.

One output may hold numbers of very different sizes. Of a detector whose boxes reach 160 while its scores stay near
1e-5, two filters of the scores may change places and the output changes by 2e-7 of its largest number. Between
equal networks the error of a channel was 0.002 of its size at most, or 4e-8.
"""

SMALLEST = 2.5e-7
"""Errors that say nothing of a channel, nor of an output of zeros alone: ONNX Runtime's Sigmoid is up to 1.7e-7 off,
however small the result."""

ENOUGH = 64
"""Numbers that a channel must have before its size says anything."""


@dataclass
class Output:
    """One output of a reference and of what is held against it, feed after feed."""

    whole: bool = False
    finite: bool = True
    gap: float = 0.0
    scale: float = 0.0
    channels: dict[int, Array] = field(default_factory=dict)
    """Axis -> sums of squares of the reference and of the error, and how many numbers, for each place on it."""

    def add(self, want: Array, got: Array) -> None:
        """Take in what both gave for one feed.

        Raises:
            UsageError: the shapes differ.
        """
        if want.shape != got.shape:
            raise UsageError(f"the outputs have shapes {got.shape} and {want.shape}; these are two different models")
        if want.dtype.kind != "f":
            self.whole = True
            self.gap = max(self.gap, float(np.mean(want != got)) if want.size else 0.0)
            return
        if not (np.isfinite(want).all() and np.isfinite(got).all()):
            self.finite = False
            return
        size = want.astype(np.float64)
        error = got.astype(np.float64) - size
        self.gap = max(self.gap, float(np.abs(error).max(initial=0)))
        self.scale = max(self.scale, float(np.abs(size).max(initial=0)))
        for axis in range(1, want.ndim):
            others = tuple(i for i in range(want.ndim) if i != axis)
            sums = np.array([(x * x).sum(others) for x in (size, error)])
            each = np.full((1, want.shape[axis]), want.size // max(1, want.shape[axis]))
            new = np.concatenate([sums, each])
            held = self.channels.get(axis, np.zeros_like(new))
            self.channels[axis] = held + new if held.shape == new.shape else np.zeros((3, 0))  # sizes that vary

    def result(self, tolerance: float, floor: float = 0.0) -> tuple[float | None, float]:
        """The difference and what it may be, in the output's own units; for whole numbers, shares of unequal ones.

        Args:
            tolerance: relative to the output's largest number.
            floor: what it may be at least, unless that is more than `WIDEST` of the output's size.

        Returns:
            The largest difference, or the root mean square of a channel's that is off; None where a number is none.
        """
        if self.whole:
            return self.gap, max(UNEQUAL_WHOLE_NUMBERS, tolerance)
        if not self.finite:
            return None, 0.0
        # an output of zeros alone has no size that anything could be a share of
        allowed = max(tolerance * self.scale, min(floor, WIDEST * self.scale)) if self.scale else SMALLEST
        return max([(self.gap, allowed), *self._worst_channel(tolerance)], key=nearness)

    def _worst_channel(self, tolerance: float) -> list[tuple[float, float]]:
        """Of the channel that is most off; empty where fewer bits than float32's round more than `CHANNEL` allows."""
        if tolerance > CHANNEL / 10:
            return []
        found: list[tuple[float, float]] = []
        for size, error, count in self.channels.values():
            known = count >= ENOUGH
            allowed = np.maximum(CHANNEL * np.sqrt(size[known] / count[known]), SMALLEST)
            found += zip(np.sqrt(error[known] / count[known]).tolist(), allowed.tolist(), strict=True)
        return [max(found, key=nearness)] if found else []


def nearness(result: tuple[float | None, float]) -> float:
    """The difference as a share of what it may be; above 1 is a failure."""
    found, allowed = result
    if found is None:
        return math.inf
    return found / allowed if allowed else math.inf if found else 0.0


def nearest_to_its_limit(
    outputs: Sequence[Output], tolerance: float, floors: Sequence[float] = ()
) -> tuple[float | None, float]:
    """The result of the output that is nearest to what it may be; `floors` are 0 where they are left out."""
    least = [*floors, *[0.0] * len(outputs)]
    return max((o.result(tolerance, floor) for o, floor in zip(outputs, least, strict=False)), key=nearness)
