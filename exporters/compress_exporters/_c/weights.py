"""Weights of a layer as constant arrays: sparse where that takes fewer bytes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress_exporters._c.net import Array, Net

Places = npt.NDArray[np.int64]


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
        count: weights that are walked, of all outputs.
    """

    head: str
    low: str
    high: str
    array: str
    row: str
    places: str
    first: str
    count: int

    def value(self, k: str = "k") -> str:
        """Weight k."""
        return f"{self.array}[{self.row}{k}]"

    def place(self, k: str = "k") -> str:
        """Where weight k reads ``x``."""
        return (f"{self.places}[{k}]" if self.places else k) + self.first


def weights_of(net: Net, weight: Array, offsets: Places, first: Places) -> Weights:
    """Write the arrays.

    Args:
        net: the program.
        weight: (outputs, weights of one).
        offsets: where each of an output's weights reads, from its first input.
        first: the first input of every output.
    """
    kept, places = weight != 0, offsets[None] + first[:, None]
    wide = _bytes(places)
    if kept.sum() * (4 + wide) + 2 * len(weight) < weight.size * 4 + offsets.size * _bytes(offsets):
        at, _ = net.indices("at", places[kept])
        start, _ = net.indices("start", np.concatenate([[0], kept.sum(1).cumsum()]))
        name = net.floats("w", weight[kept])
        head = f"const int low = (int){start}[o], high = (int){start}[o + 1];"
        return Weights(head, "low", "high", name, "", at, "", int(kept.sum()))
    count = offsets.size
    ordered = bool((offsets == np.arange(count)).all())
    places_name = "" if ordered else net.indices("at", offsets)[0]
    base = f" + {net.indices('first', first)[0]}[o]" if first.any() else ""
    return Weights("", "0", str(count), net.floats("w", weight), f"o * {count} + ", places_name, base, weight.size)


def _bytes(indices: Places) -> int:
    most = int(indices.max(initial=0))
    return 1 if most < 2**8 else 2 if most < 2**16 else 4
