"""Weights of a layer as constant arrays: sparse where that takes fewer bytes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress_exporters._c.net import Array, Net

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """How C walks the weights of output ``o``, with ``k`` from ``low`` to ``high``.

    Attributes:
        head: declarations inside the loop over outputs.
        low: expression of the first k.
        high: expression past the last k.
        array: of the weights.
        row: what is added to k in it, "" for nothing.
        places: array of the places in ``x``; "" where weight k reads place k.
        first: what is added to a place, "" for nothing.
        scale: expression that sums are multiplied by, "" for none.
        count: weights that are walked, of all outputs.
    """

    head: str
    low: str
    high: str
    array: str
    row: str
    places: str
    first: str
    scale: str
    count: int

    def value(self, k: str = "k") -> str:
        """Weight k."""
        return f"{self.array}[{self.row}{k}]"

    def place(self, k: str = "k") -> str:
        """Where weight k reads ``x``."""
        return (f"{self.places}[{k}]" if self.places else k) + self.first

    def total(self, sum: str, bias: str) -> str:
        """A finished sum with its scale and bias."""
        return f"{sum} * {self.scale} + {bias}" if self.scale else f"{sum} + {bias}"


def weights_of(net: Net, weight: Array, offsets: Integers, first: Integers) -> Weights:
    """Write the arrays.

    Args:
        net: the program.
        weight: (outputs, weights of one).
        offsets: where each of an output's weights reads, from its first input.
        first: the first input of every output.
    """
    scale, stored, each = "", np.asarray(weight, np.float32), 4
    if net.int8:
        largest = np.abs(weight).max(1, initial=0) / 127
        stored, each = np.rint(weight / np.where(largest > 0, largest, 1)[:, None]), 1
        scale = f"{net.floats('scale', np.asarray(largest, np.float32))}[o]"
    kept, places = stored != 0, offsets[None] + first[:, None]
    wide = _bytes(places)
    if kept.sum() * (each + wide) + 2 * len(weight) < stored.size * each + offsets.size * _bytes(offsets):
        at, _ = net.indices("at", places[kept])
        start, _ = net.indices("start", np.concatenate([[0], kept.sum(1).cumsum()]))
        name = _store(net, stored[kept])
        head = f"const int low = (int){start}[o], high = (int){start}[o + 1];"
        return Weights(head, "low", "high", name, "", at, "", scale, int(kept.sum()))
    count = offsets.size
    ordered = bool((offsets == np.arange(count)).all())
    places_name = "" if ordered else net.indices("at", offsets)[0]
    base = f" + {net.indices('first', first)[0]}[o]" if first.any() else ""
    return Weights("", "0", str(count), _store(net, stored), f"o * {count} + ", places_name, base, scale, stored.size)


def _bytes(indices: Integers) -> int:
    most = int(indices.max(initial=0))
    return 1 if most < 2**8 else 2 if most < 2**16 else 4


def _store(net: Net, stored: npt.NDArray[np.floating]) -> str:
    return net.bytes("w", stored.astype(np.int8)) if net.int8 else net.floats("w", stored.astype(np.float32))
