"""8-bit weights as constant arrays, walked by the gaps between the places that they read.

A weight that is not zero takes two bytes, its gap from the one before it and itself. A gap that a byte does not hold
is crossed in steps, by weights of zero; where that would be many, gaps take two bytes. Where all weights of a layer
take no more bytes, they are stored, and the gaps once for all outputs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress_exporters._c.net import Net
from compress_exporters._c.weights import Places

STEPS = 0.05
"""Of steps over wide gaps, to the weights: what may be walked in vain to save a byte a weight."""

_WIDE = 2**16 - 1
_NARROW = 2**8 - 1


@dataclass(frozen=True)
class Walk:
    """How C walks the weights of output ``o``.

    Attributes:
        head: declarations inside the loop over outputs.
        first: where the walk starts in ``x``.
        loop: head of the loop over the weights.
        step: statements that move ``p`` to the place of a weight, and declare the weight ``w``.
        count: weights that are walked, of all outputs.
        row: how many weights an output has, where weight k of ``low`` reads place k; 0 elsewhere.
    """

    head: str
    first: str
    loop: str
    step: str
    count: int
    row: int = 0


def walk_of(net: Net, weight: npt.NDArray[np.int8], offsets: Places, first: Places, *, single: bool = False) -> Walk:
    """Write the arrays.

    Args:
        net: the program.
        weight: (outputs, weights of one).
        offsets: where each of an output's weights reads, from its first input.
        first: the first input of every output.
        single: whether an output is one number.
    """
    order = np.argsort(offsets, kind="stable")
    weight, offsets = weight[:, order], offsets[order]
    kept = weight != 0
    streams = [_stream(row[keep], offsets[keep], _NARROW) for row, keep in zip(weight, kept, strict=True)]
    narrow = sum(len(s) for s in streams) <= (1 + STEPS) * kept.sum()
    if not narrow:
        streams = [_stream(row[keep], offsets[keep], _WIDE) for row, keep in zip(weight, kept, strict=True)]
    each, count = 2 if narrow else 3, int(kept.sum())
    if each * count + 4 * len(weight) < weight.size + 2 * offsets.size:
        return _sparse(net, streams, first + offsets[kept.argmax(1)], each, count)
    return _dense(net, weight, offsets, first, single=single)


def _stream(weight: npt.NDArray[np.int8], places: Places, most: int) -> npt.NDArray[np.int64]:
    """Gaps and weights (n, 2), from the first weight's place on."""
    gaps = np.diff(places, prepend=places[:1])
    steps = np.maximum(0, -(-gaps // most) - 1)
    at = np.arange(len(gaps)) + steps.cumsum()
    pairs = np.zeros((len(gaps) + int(steps.sum()), 2), np.int64)
    pairs[:, 0] = most
    pairs[at] = np.stack([gaps - steps * most, weight], 1)
    return pairs


def _sparse(net: Net, streams: list[npt.NDArray[np.int64]], first: Places, each: int, count: int) -> Walk:
    pairs = np.concatenate(streams)
    parts = [pairs[:, 0] & 255, pairs[:, 0] >> 8, pairs[:, 1] & 255]
    data = np.stack([parts[0], parts[2]] if each == 2 else parts, 1)
    array, _ = net.indices("w", data)
    ends, _ = net.indices("start", np.concatenate([[0], np.cumsum([len(s) for s in streams])]))
    places, _ = net.indices("first", first)
    head = f"const uint8_t *low = {array} + {each} * {ends}[o], *high = {array} + {each} * {ends}[o + 1];"
    gap = "k[0]" if each == 2 else "k[0] | k[1] << 8"
    step = f"p += {gap}; const int32_t w = (int8_t)k[{each - 1}];"
    return Walk(head, f"{places}[o]", f"for (const uint8_t *k = low; k < high; k += {each})", step, count)


def _dense(net: Net, weight: npt.NDArray[np.int8], offsets: Places, first: Places, *, single: bool) -> Walk:
    array, size = net.signed("w", weight), offsets.size
    head = f"const int8_t *low = {array} + o * {size};"
    start = f"{net.indices('first', first)[0]}[o]" if first.any() else "0"
    loop = f"for (int k = 0; k < {size}; ++k)"
    if single and (offsets == np.arange(size)).all():
        return Walk(head, start, loop, "const int32_t w = low[k];", weight.size, row=size)
    gaps, _ = net.indices("gap", np.diff(offsets, prepend=0))
    return Walk(head, start, loop, f"p += {gaps}[k]; const int32_t w = low[k];", weight.size)
