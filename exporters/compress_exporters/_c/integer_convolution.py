"""Convolutions and linear layers of 8-bit integers, laid out and walked as those of floats are.

Zeros of the input are not 0: the input's zero is taken into what the sums start from, and borders are filled with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
    """

    weight: npt.NDArray[np.int8]
    start: npt.NDArray[np.int32]
    scaled: Scaled
    quant: Quant | None


def convolution(net: Net, label: str, x: Value, layer: Layer, geometry: Geometry) -> Value:
    """Emit a convolution of 8-bit integers (C, H, W)."""
    x, (height, width, pitch), places, first = laid_out(net, label, x, len(layer.weight), geometry)
    walk = walk_of(net, layer.weight.reshape(len(layer.weight), -1), places, first)
    net.macs += walk.count * geometry.out[0] * geometry.out[1]
    body = f"""for (int o = 0; o < {len(layer.weight)}; ++o) {{
  const int32_t first = {net.signed("b", layer.start)}[o];
  const {layer.scaled.kind} factor = {layer.scaled.factor};
  const int8_t *from = x + {walk.first};
  {walk.head}
{indented(_block(walk, (height, width, pitch), layer))}
}}"""
    return net.step(label, [x], (len(layer.weight), *geometry.out), body, layer.quant)


def _block(walk: Walk, sizes: tuple[int, int, int], layer: Layer) -> str:
    """Outputs that stay in registers while all weights pass by; the last block overlaps the one before it."""
    height, width, pitch = sizes
    columns = _part(width, SUMS)
    rows = _part(height, max(1, SUMS // columns))
    kind = "int8_t" if layer.quant else "float"
    names = [(f"a{r}_{c}", r, c) for r in range(rows) for c in range(columns)]
    declare = ", ".join(f"{name} = first" for name, _, _ in names)
    add = "\n      ".join(f"{name} += w * p[{r * pitch + c}];" for name, r, c in names)
    store = "\n    ".join(f"to[{r * width + c}] = {layer.scaled.of(name, 'factor')};" for name, r, c in names)
    return f"""{_over("r0", "r", height, rows)}
  {_over("i0", "i", width, columns)}
    const int8_t *p = from + r * {pitch} + i;
    int32_t {declare};
    {walk.loop} {{
      {walk.step}
      {add}
    }}
    {kind} *to = y + (o * {height} + r) * {width} + i;
    {store}
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
