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
    return bool((largest < 2**31 - 256).all() and (factors * largest < 2**31 - 256).all() and factors.max() < 2**30)


def weighted(factors: Reals, zeros: list[int], zero: int) -> tuple[list[int], int, int]:
    """A sum of a few scaled values in 32 bits: (sum of m[i] * q[i] + h) >> s; gives m, h and s.

    Args:
        factors: of the values, of either sign.
        zeros: what stands for 0 in each.
        zero: what stands for 0 in the result.
    """
    # |m q| and |m z| are at most 128 |m| each, and the result's zero is at most 128 << s.
    shift = int(np.floor(np.log2(2**31 / (256 * float(np.abs(factors).sum()) + 130))))
    m = [int(x) for x in np.rint(np.ldexp(factors, shift))]
    return m, rounding(zero, shift) - sum(a * b for a, b in zip(m, zeros, strict=True)), shift
