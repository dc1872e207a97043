"""Convolutions and linear layers of 8-bit integers, laid out and walked as those of floats are.

Zeros of the input are not 0: the input's zero is taken into what the sums start from, and borders are filled with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from compress_exporters._c.convolution import Geometry, indented, laid_out
from compress_exporters._c.integer_weights import Walk, walk_of
from compress_exporters._c.net import Net, Quant, Value

SUMS = 8
"""Sums in registers at once: a Cortex-M has 14, and the weight, its place and what is loaded need the others."""


@dataclass(frozen=True)
class Scaled:
    """How a finished sum becomes a result.

    Attributes:
        kind: C type of the factor.
        factor: C expression of the factor.
        of: C expression of the result of a sum and a factor.
    """

    kind: str
    factor: str
    of: Callable[[str, str], str]


@dataclass(frozen=True)
class Layer:
    """A layer in integers.

    Attributes:
        weight: (O, C / groups, KH, KW).
        start: what the sums start from, (O,).
        scaled: what becomes of them.
        quant: of the result; None for floats.
        pool: height and width of the windows of which the largest sum alone becomes a result: as scaling keeps the
            order, that is what a pool behind would give, and what it would choose from is never stored.
    """

    weight: npt.NDArray[np.int8]
    start: npt.NDArray[np.int32]
    scaled: Scaled
    quant: Quant | None
    pool: tuple[int, int]


def convolution(net: Net, label: str, x: Value, layer: Layer, geometry: Geometry) -> Value:
    """Emit a convolution of 8-bit integers (C, H, W)."""
    merges = layer.pool == (1, 1)
    x, sizes, places, first = laid_out(net, label, x, len(layer.weight), geometry, merges=merges)
    single = geometry.out == (1, 1)
    walk = walk_of(net, layer.weight.reshape(len(layer.weight), -1), places, first, single=single)
    sums = _row(walk.row, layer) if walk.row else _block(walk, sizes, layer)
    shape = (len(layer.weight), geometry.out[0] // layer.pool[0], geometry.out[1] // layer.pool[1])
    net.macs += walk.count * shape[1] * shape[2] * prod(layer.pool)
    body = f"""for (int o = 0; o < {len(layer.weight)}; ++o) {{
  const int32_t first = {net.signed("b", layer.start)}[o];
  const {layer.scaled.kind} factor = {layer.scaled.factor};
  const int8_t *from = x + {walk.first};
  {walk.head}
{indented(sums)}
}}"""
    return net.step(label, [x], shape, body, layer.quant)


def _row(size: int, layer: Layer) -> str:
    """One output from neighbours; four terms at a time, because counting takes as long as a term."""
    terms = " + ".join(f"low[{k}] * from[{k}]" for k in ("k", "k + 1", "k + 2", "k + 3"))
    rest = "".join(f"\nsum += low[{k}] * from[{k}];" for k in range(size // 4 * 4, size))
    return f"""int32_t sum = first;
for (int k = 0; k < {size // 4 * 4}; k += 4)
  sum += {terms};{rest}
y[o] = {layer.scaled.of("sum", "factor")};"""


def _block(walk: Walk, sizes: tuple[int, int, int], layer: Layer) -> str:
    """Outputs that stay in registers while all weights pass by; the last block overlaps the one before it."""
    (down, across), pitch = layer.pool, sizes[2]
    height, width = sizes[0] // down, sizes[1] // across
    columns = _part(width, max(1, SUMS // (down * across)))
    rows = _part(height, max(1, SUMS // (columns * down * across)))
    kind = "int8_t" if layer.quant else "float"
    windows = [(r, c) for r in range(rows) for c in range(columns)]
    names = {
        (r, c): [
            (f"a{i}_{j}", i, j) for i in range(r * down, (r + 1) * down) for j in range(c * across, (c + 1) * across)
        ]
        for r, c in windows
    }
    sums = [sum for window in windows for sum in names[window]]
    declare = ", ".join(f"{name} = first" for name, _, _ in sums)
    add = "\n      ".join(f"{name} += w * p[{i * pitch + j}];" for name, i, j in sums)
    largest = "".join(
        f"if ({name} > {first}) {first} = {name};\n    "
        for (first, _, _), *others in names.values()
        for name, _, _ in others
    )
    store = "\n    ".join(f"to[{r * width + c}] = {layer.scaled.of(names[r, c][0][0], 'factor')};" for r, c in windows)
    return f"""{_over("r0", "r", height, rows)}
  {_over("i0", "i", width, columns)}
    const int8_t *p = from + r * {down * pitch} + i{f" * {across}" if across > 1 else ""};
    int32_t {declare};
    {walk.loop} {{
      {walk.step}
      {add}
    }}
    {kind} *to = y + (o * {height} + r) * {width} + i;
    {largest}{store}
  }}
}}"""


def _part(size: int, most: int) -> int:
    """The size of parts that cover a size, as few as can be, and then as small as can be."""
    return -(-size // -(-size // most))


def _over(counter: str, name: str, size: int, part: int) -> str:
    """A loop over parts."""
    if size % part == 0:
        return f"for (int {name} = 0; {name} < {size}; {name} += {part}) {{"
    last = size - part
    return f"""for (int {counter} = 0; {counter} < {size}; {counter} += {part}) {{
  const int {name} = {counter} < {last} ? {counter} : {last};"""
