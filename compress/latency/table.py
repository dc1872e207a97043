"""What the width of every block is worth in time: measured on the target, one block narrowed at a time.

A table and not a count of operations, because runtimes compute channels in blocks, move memory and split work in ways
that no count knows: 64 -> 40 channels may cost what 64 -> 48 does, and 16 -> 12 what 16 does. Blocks of the same shape
at the same size of feature map share a row. What narrowing several blocks saves together is taken to be the sum; the
search that uses the table measures its candidates whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress.channel_units import ChannelUnits
from compress.widths import choices

CANDIDATES = 48
"""Networks measured for a table, at most; every kind of block has one at least."""
STEPS = 2000
"""The dense network's time is counted in such parts when widths are chosen."""

Floats = npt.NDArray[np.float64]
Measure = Callable[[Sequence[Mapping[str, int]]], Sequence[float]]
"""What networks save in which the named blocks are so wide, in shares of the dense network's time."""


@dataclass(frozen=True)
class Row:
    """Of one block.

    Attributes:
        widths: that it may have, rising; the last is the whole block.
        saved: time that each saves, in shares of the dense network's; 0 at the last, never more at a larger width.
    """

    widths: tuple[int, ...]
    saved: tuple[float, ...]


def measured(units: ChannelUnits, least: Mapping[str, int], measure: Measure) -> dict[str, Row]:
    """The table of a network, its blocks in their order.

    Args:
        units: its blocks, and of what their widths are multiples.
        least: of every block, channels that must stay.
        measure: called once, with one block narrowed in each network.
    """
    widths = {block: choices(size, least[block], units.step(block)) for block, size in units.blocks.items()}
    kinds: dict[object, list[str]] = {}
    for block in units.blocks:
        kinds.setdefault((_shape(units, block), widths[block]), []).append(block)
    some = {blocks[0]: _spaced(widths[blocks[0]][:-1], CANDIDATES // len(kinds)) for blocks in kinds.values()}
    asked = [(block, width) for block, chosen in some.items() for width in chosen]
    found = dict(zip(asked, measure([{block: width} for block, width in asked]), strict=True))
    rows: dict[str, Row] = {}
    for blocks in kinds.values():
        first = blocks[0]
        row = _row(widths[first], some[first], [found[first, width] for width in some[first]])
        rows |= dict.fromkeys(blocks, row)
    return {block: rows[block] for block in units.blocks}


def narrowest(rows: Mapping[str, Row], lost: Mapping[str, Floats], needed: float) -> dict[str, int]:
    """Widths that save the time needed, or the most that there is to save, and lose least.

    The multiple-choice knapsack, exact for times counted in `STEPS`: one width for every block, the sum of what is lost
    as small as possible, the sum of what is saved at least as asked.

    Args:
        rows: the table.
        lost: for every block, what is lost at each width, shape (widths,).
        needed: share of the dense network's time.

    >>> rows = {"a": Row((1, 2), (0.3, 0.0)), "b": Row((1, 2), (0.2, 0.0))}
    >>> narrowest(rows, {"a": np.array([5.0, 0.0]), "b": np.array([1.0, 0.0])}, 0.1)
    {'a': 2, 'b': 1}
    """
    most = sum(round(row.saved[0] * STEPS) for row in rows.values())
    target = min(max(0, round(needed * STEPS)), most)
    least = np.full(target + 1, np.inf)  # lost by the blocks so far when they save at least so many parts
    least[0] = 0.0
    taken: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    for block, row in rows.items():
        parts = np.rint(np.array(row.saved) * STEPS).astype(np.int64)
        before = np.maximum(0, np.arange(target + 1) - parts[:, None])  # what is left for the other blocks to save
        sums = least[before] + lost[block][:, None]
        taken.append((sums.argmin(0), before))
        least = sums.min(0)
    chosen = {}
    for block, (option, before) in zip(reversed(list(rows)), reversed(taken), strict=True):
        number = int(option[target])
        chosen[block], target = rows[block].widths[number], int(before[number, target])
    return {block: chosen[block] for block in rows}


def _spaced(widths: Sequence[int], count: int) -> tuple[int, ...]:
    """At most so many of the widths, evenly spaced, the least among them."""
    places = np.linspace(0, len(widths) - 1, min(len(widths), max(1, count)))
    return tuple(widths[int(place)] for place in places)


def _row(widths: tuple[int, ...], known: tuple[int, ...], saved: Sequence[float]) -> Row:
    """Between the widths measured, time is taken to change evenly; a larger width never saves more."""
    falling = np.maximum.accumulate([0.0, *reversed(saved)])[::-1]
    return Row(widths, tuple(np.interp(widths, [*known, widths[-1]], falling).tolist()))


def _shape(units: ChannelUnits, block: str) -> object:
    """What the time of a block depends on: every weight it cuts, and the size of the feature maps there."""
    slots = ((units.shapes[s.name], s.axis, s.producer, units.positions.get(s.name)) for s in units.layers[block])
    return tuple(sorted(slots, key=repr))
