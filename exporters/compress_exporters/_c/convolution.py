"""Convolutions and linear layers that walk their nonzero weights only, or all of them where that is smaller.

A convolution becomes one of stride 1 without padding: its input is first laid out with its border of zeros and, for
stride s, as s x s planes of every s-th row and column. After that the output row r of a filter is

    y[r][:] = b + sum over its weights k   w[k] * x[at[k] + r * pitch : ][: width]

so one stored offset a weight says all, and the inner loop runs along rows: eight columns are one vector (four, where
the processor has no wider ones), and the outputs of several rows stay in registers while all weights of the filter
pass by.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress_exporters._c.net import Array, Net, Value
from compress_exporters._c.weights import Places, Weights, weights_of

LANES = (8, 4)
"""Floats of a vector: with AVX, and with what any other processor has. Wider ones than the processor's are slow: the
compiler keeps them in memory."""

ACCUMULATORS = 12
"""Vectors of outputs in registers; 16 registers hold them with a weight and what is loaded."""

_NEXT = ("k + 1", "k + 2", "k + 3")


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution.

    Attributes:
        channels: of the input.
        size: height and width of the input.
        out: height and width of the output.
        kernel: height and width.
        stride: down and across.
        pad: top, left, bottom, right.
        dilation: down and across.
        groups: of channels.
    """

    channels: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def staged(self) -> bool:
        """Whether the input has to be laid out anew."""
        return any(self.pad) or self.stride != (1, 1)

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns from a kernel's first weight to its last."""
        return (self.kernel[0] - 1) * self.dilation[0], (self.kernel[1] - 1) * self.dilation[1]

    @property
    def phases(self) -> tuple[int, int]:
        """Planes down and across that a channel is laid out in."""
        return min(self.stride[0], self.reach[0] + 1), min(self.stride[1], self.reach[1] + 1)

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width of a plane."""
        if not self.staged:
            return self.size
        return self.out[0] + self.reach[0] // self.stride[0], self.out[1] + self.reach[1] // self.stride[1]

    def places(self) -> npt.NDArray[np.int64]:
        """Where the weight of (channel of the group, row, column) finds its first input, from the group's first."""
        (height, width), (sy, sx), (down, across) = self.plane, self.stride, self.phases
        sizes = (self.channels // self.groups, *self.kernel)
        c, ky, kx = np.meshgrid(*(np.arange(n) for n in sizes), indexing="ij")
        ky, kx = ky * self.dilation[0], kx * self.dilation[1]
        planes = (c * down + ky % sy) * across + kx % sx
        return np.asarray((planes * height + ky // sy) * width + kx // sx, np.int64)


def convolution(
    net: Net, label: str, x: Value, weight: Array, bias: Array, geometry: Geometry, activation: str
) -> Value:
    """Emit a convolution.

    Args:
        net: the program.
        label: of the functions.
        x: input (C, H, W).
        weight: (O, C / groups, KH, KW).
        bias: (O,).
        geometry: sizes.
        activation: C expression of ``@``.
    """
    x, (height, width, pitch), places, first = laid_out(net, label, x, len(weight), geometry)
    weights = weights_of(net, weight.reshape(len(weight), -1), places, first)
    net.macs += weights.count * geometry.out[0] * geometry.out[1]
    b = f"{net.floats('b', bias)}[o]"
    if height * width == 1:
        body = _dots(weights, len(weight), b, activation)
    else:
        body = _maps(weights, (len(weight), height, width, pitch), b, activation)
    return net.step(label, [x], (len(weight), *geometry.out), body)


def laid_out(
    net: Net, label: str, x: Value, outputs: int, geometry: Geometry, *, merges: bool = True
) -> tuple[Value, tuple[int, int, int], Places, Places]:
    """Lay the input of a convolution out.

    Args:
        net: the program.
        label: of the function.
        x: input (C, H, W).
        outputs: filters.
        geometry: sizes.
        merges: whether rows that follow each other become one long row.

    Returns:
        The input; height and width of an output, and pitch of the input's rows; where a filter's weights read, from
        its first input; the first input of every output.
    """
    height, width = geometry.out
    pitch = geometry.plane[1]
    if geometry.staged:
        x = _stage(net, label, x, geometry)
    if merges and width == pitch:
        height, width, pitch = 1, height * width, height * pitch
    first = np.repeat(np.arange(geometry.groups) * (x.size // geometry.groups), outputs // geometry.groups)
    return x, (height, width, pitch), geometry.places().reshape(-1), first


def linear(net: Net, label: str, x: Value, weight: Array, bias: Array, activation: str) -> Value:
    """Emit y = f(W x + b), W of shape (outputs, inputs)."""
    geometry = Geometry(weight.shape[1], (1, 1), (1, 1), (1, 1))
    kernel = weight.reshape(*weight.shape, 1, 1)
    y = convolution(net, label, net.alias(x, (weight.shape[1], 1, 1)), kernel, bias, geometry, activation)
    return net.alias(y, (len(weight),))


def _stage(net: Net, label: str, x: Value, g: Geometry) -> Value:
    """The input with its border, as one plane for every phase of the stride."""
    (height, width), (down, across) = g.plane, g.phases
    planes = g.channels * down * across
    border = x.quant.zero if x.quant else 0
    lines = [f"memset(y, {border}, {planes * height * width} * sizeof *y);"]
    lines.append(f"for (int c = 0; c < {g.channels}; ++c) {{")
    for py in range(down):
        for px in range(across):
            rows, columns = _inside(g, 0, py), _inside(g, 1, px)
            plane = (py * across + px) * height * width
            row = f"(c * {g.size[0]} + r * {g.stride[0]} + {py - g.pad[0]}) * {g.size[1]}"
            lines.append(f"""  for (int r = {rows[0]}; r < {rows[1]}; ++r)
    for (int i = {columns[0]}; i < {columns[1]}; ++i)
      y[c * {down * across * height * width} + {plane} + r * {width} + i]
        = x[{row} + i * {g.stride[1]} + {px - g.pad[1]}];""")
    return net.step(f"{label}pad", [x], (planes, height, width), "\n".join([*lines, "}"]), x.quant)


def _inside(g: Geometry, axis: int, phase: int) -> tuple[int, int]:
    """Of the rows (axis 0) or columns of a plane, those that lie in the image and not in its border."""
    stride, before = g.stride[axis], g.pad[axis]
    first = max(0, -((phase - before) // stride))
    return first, min(g.plane[axis], (g.size[axis] - 1 + before - phase) // stride + 1)


def _dots(weights: Weights, outputs: int, bias: str, activation: str) -> str:
    """Outputs of one number each; four sums at a time, because one would wait for itself."""
    lines = [f"for (int o = 0; o < {outputs}; ++o) {{", indented(weights.head)]
    terms = [f"v{i} += {weights.value(k)} * x[{weights.place(k)}];" for i, k in enumerate(("k", *_NEXT))]
    simple = f"""float v0 = 0, v1 = 0, v2 = 0, v3 = 0;
int k = {weights.low};
for (; k + 3 < {weights.high}; k += 4) {{
  {" ".join(terms)}
}}
for (; k < {weights.high}; ++k)
  {terms[0]}
const float v = (v0 + v1) + (v2 + v3);"""
    if weights.row and not (weights.places or weights.first):
        count = int(weights.high)
        lines += [
            "#if NET_LANES",
            indented(f"""const float *row = &{weights.value("0")};
net_v a = {{0}}, c = {{0}};
int k = 0;
for (; k + 2 * NET_LANES - 1 < {count}; k += 2 * NET_LANES) {{
  a += *(const net_v *)(row + k) * *(const net_v *)(x + k);
  c += *(const net_v *)(row + k + NET_LANES) * *(const net_v *)(x + k + NET_LANES);
}}
a += c;
float v = 0;
for (int i = 0; i < NET_LANES; ++i)
  v += a[i];
for (; k < {count}; ++k)
  v += row[k] * x[k];"""),
            "#else",
            indented(simple),
            "#endif",
        ]
    else:
        lines.append(indented(simple))
    return "\n".join([*lines, f"  y[o] = {activated(activation, f'v + {bias}')};", "}"])


def _maps(weights: Weights, sizes: tuple[int, int, int, int], bias: str, activation: str) -> str:
    """Outputs that are maps: (outputs, height, width, pitch of the input's rows)."""
    outputs, height, width, pitch = sizes
    lines = [
        f"for (int o = 0; o < {outputs}; ++o) {{",
        f"  float *q = y + o * {height * width};",
        f"  const float first = {bias};",
        indented(weights.head),
    ]
    simple = indented(_plain(weights, height, width, pitch))
    word = "#if"
    for lanes in LANES:
        if width >= lanes:
            lines.append(f"{word} NET_LANES == {lanes}")
            lines += [indented(_block(weights, width, pitch, lanes, *b)) for b in _vector_blocks(height, width, lanes)]
            word = "#elif"
    lines += [simple] if word == "#if" else ["#else", simple, "#endif"]
    if activation != "@":
        lines += [f"  for (int i = 0; i < {height * width}; ++i)", f"    q[i] = {activated(activation, 'q[i]')};"]
    return "\n".join([*lines, "}"])


def _vector_blocks(height: int, width: int, lanes: int) -> list[tuple[int, int, int, tuple[int, ...]]]:
    """Blocks of outputs that stay in registers: first row, past the last row, rows at once, columns of the vectors.

    A width that is no multiple of the lanes ends in a vector that overlaps the one before it.
    """
    columns = [*range(0, width - lanes + 1, lanes)]
    if width % lanes:
        columns.append(width - lanes)
    blocks = []
    for i in range(0, len(columns), ACCUMULATORS):
        part = tuple(columns[i : i + ACCUMULATORS])
        at_once = min(height, max(1, ACCUMULATORS // len(part)))
        # the same work with blocks of equal height, where that takes no more blocks
        at_once = -(-height // -(-height // at_once))
        whole = height // at_once * at_once
        blocks.append((0, whole, at_once, part))
        if whole < height:
            blocks.append((whole, height, height - whole, part))
    return blocks


def _block(
    weights: Weights, width: int, pitch: int, lanes: int, first: int, end: int, rows: int, columns: tuple[int, ...]
) -> str:
    names = [(f"a{r}_{c}", r, c) for r in range(rows) for c in columns]
    declare = ", ".join(f"{name} = start" for name, _, _ in names)
    add = "\n    ".join(f"{name} += w * *(const net_v *)(p + {r * pitch + c});" for name, r, c in names)
    store = "\n  ".join(f"*(net_v *)(q + r * {width} + {r * width + c}) = {name};" for name, r, c in names)
    return f"""for (int r = {first}; r < {end}; r += {rows}) {{
  const net_v start = {{{", ".join(["first"] * lanes)}}};
  net_v {declare};
  for (int k = {weights.low}; k < {weights.high}; ++k) {{
    const float w = {weights.value()};
    const float *p = x + {weights.place()} + r * {pitch};
    {add}
  }}
  {store}
}}"""


def _plain(weights: Weights, height: int, width: int, pitch: int) -> str:
    """The same, in the words of C99 alone."""
    return f"""for (int i = 0; i < {height * width}; ++i)
  q[i] = first;
for (int k = {weights.low}; k < {weights.high}; ++k) {{
  const float w = {weights.value()};
  const float *p = x + {weights.place()};
  for (int r = 0; r < {height}; ++r)
    for (int i = 0; i < {width}; ++i)
      q[r * {width} + i] += w * p[r * {pitch} + i];
}}"""


def activated(activation: str, value: str) -> str:
    """An activation, an expression of ``@``, of a value."""
    return value if activation == "@" else activation.replace("@", f"({value})")


def indented(text: str) -> str:
    """C inside a block; the preprocessor's lines stay where they are."""
    return "\n".join(line if line.startswith("#") else f"  {line}" for line in text.splitlines())
