"""Factors of integers as integers: a product and a shift instead of a float.

Where a is a sum of products of 8-bit integers, what it stands for is factor * a, and

    factor * a + zero  ~  (a * m + h) >> s,   m = round(factor * 2^s),  h = (zero << s) + (1 << (s - 1))

rounded once, to the nearest, halves up: 32 x 32 -> 64 bits, which is one instruction of a Cortex-M3. One shift serves
all channels of a layer, such that the largest factor has 31 bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

WIDEST_SHIFT = 54
"""(zero << 54) and the product keep within 64 bits; smaller factors are nothing beside a rounding."""

LARGEST = 2**31 - 256
"""Sums and results stay below it, and so within 32 bits once the zero of the result is added."""

LEAST_SHIFT = 8
"""Of scaled values: with fewer fractional bits than these their factors would be rounded too coarsely."""

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]


def multipliers(factors: Reals) -> tuple[Integers, int]:
    """The integers m and the shift s of positive factors.

    >>> multipliers(np.array([0.75, 0.5]))
    (array([1610612736, 1073741824], dtype=int32), 31)
    """
    shift = min(WIDEST_SHIFT, 31 - int(np.frexp(factors.max())[1]))
    scaled = np.minimum(np.rint(np.ldexp(factors, shift)), 2**31 - 1)
    return scaled.astype(np.int32), shift


def rounding(zero: int, shift: int) -> int:
    """The number h."""
    return (zero << shift) + (1 << (shift - 1))


def fits(factors: Reals, largest: npt.NDArray[Any]) -> bool:
    """Whether sums of at most these sizes, and what they are scaled to, keep within 32 bits."""
    return bool((largest < LARGEST).all() and (factors * largest < LARGEST).all() and factors.max() < 2**30)


def weighted(factors: Reals, zeros: list[int], zero: int) -> tuple[list[int], int, int] | None:
    """A sum of a few scaled values in 32 bits: (sum of m[i] * q[i] + h) >> s.

    Args:
        factors: of the values, of either sign.
        zeros: what stands for 0 in each.
        zero: what stands for 0 in the result.

    Returns:
        m, h and s; None where the factors are so large that 32 bits are too few.
    """
    # |m q| and |m z| are at most 128 |m| each, and the result's zero is at most 128 << s.
    shift = int(np.floor(np.log2(2**31 / (256 * float(np.abs(factors).sum()) + 130))))
    if shift < LEAST_SHIFT:
        return None
    m = [int(x) for x in np.rint(np.ldexp(factors, shift))]
    return m, rounding(zero, shift) - sum(a * b for a, b in zip(m, zeros, strict=True)), shift
