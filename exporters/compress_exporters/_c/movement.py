"""Operators that move numbers about, be they floats or 8-bit integers, or only change a shape: these write nothing."""

from math import prod

from compress_exporters._c.net import Value
from compress_exporters._c.node import Node, flat


def Concat(node: Node) -> Value:
    values = [node.value(i) for i in range(len(node.inputs))]
    axis = node.attributes["axis"] % (len(values[0].shape) + 1)
    if axis != 1:
        raise node.refuse(f"along axis {axis}")
    lines, at = [], 0
    for i, value in enumerate(values):
        lines.append(f"memcpy(y + {at}, x{i if len(values) > 1 else ''}, {value.size} * sizeof *y);")
        at += value.size
    shape = (sum(v.shape[0] for v in values), *values[0].shape[1:])
    return node.net.step("concat", values, shape, "\n".join(lines))


def Pad(node: Node) -> Value:
    x, pads, fill = node.tensor(), node.constant(1), node.constant(2)
    axes = node.constant(3)
    mode = node.attributes.get("mode", b"constant")
    if len(x.shape) != 3:
        raise node.refuse("of other than two dimensions")
    if mode not in (b"constant", "constant") or (fill is not None and float(fill) != 0):
        raise node.refuse("other than with zeros")
    pads = pads.tolist()
    rank, count = 4, len(pads) // 2
    where = [a % rank for a in axes.tolist()] if axes is not None else list(range(rank))
    before, after = ({a: int(pads[i + half]) for i, a in enumerate(where)} for half in (0, count))
    low = [before.get(a, 0) for a in (1, 2, 3)]
    shape = tuple(n + low[i] + after.get(i + 1, 0) for i, n in enumerate(x.shape))
    if before.get(0, 0) or min(low) < 0 or min(shape) < 1 or any(v < 0 for v in after.values()):
        raise node.refuse("that cuts, or pads the batch,")
    (c, h, w), (_, height, width) = x.shape, shape
    body = f"""memset(y, {x.quant.zero if x.quant else 0}, {prod(shape)} * sizeof *y);
for (int c = 0; c < {c}; ++c)
  for (int r = 0; r < {h}; ++r)
    memcpy(y + ((c + {low[0]}) * {height} + r + {low[1]}) * {width} + {low[2]}, x + (c * {h} + r) * {w},
      {w} * sizeof *y);"""
    return node.net.step("pad", [x], shape, body, x.quant)


def Slice(node: Node) -> Value:
    x = node.tensor()
    starts, ends, axes, steps = (node.constant(i) for i in range(1, 5))
    axes = range(len(starts)) if axes is None else axes.tolist()
    steps = [1] * len(starts) if steps is None else steps.tolist()
    cut = [range(n) for n in x.shape]
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes, steps, strict=True):
        axis %= len(x.shape) + 1
        if axis == 0 or step < 1:
            raise node.refuse("of the batch, or backwards,")
        cut[axis - 1] = range(*slice(start, end, step).indices(x.shape[axis - 1]))
    shape = tuple(map(len, cut))
    strides = [prod(x.shape[i + 1 :]) for i in range(len(shape))]
    lines, target = [], "0"
    for i, part in enumerate(cut):
        lines.append("  " * i + f"for (int i{i} = 0; i{i} < {len(part)}; ++i{i})")
        target = f"({target}) * {len(part)} + i{i}"
    source = " + ".join(
        f"({p.start if len(p) else 0} + i{i} * {p.step}) * {s}"
        for i, (p, s) in enumerate(zip(cut, strides, strict=True))
    )
    lines.append("  " * len(cut) + f"y[{target}] = x[{source}];")
    return node.net.step("slice", [x], shape, "\n".join(lines), x.quant)


def Reshape(node: Node) -> Value:
    x, wanted = node.tensor(), node.constant(1).tolist()
    sizes = [
        (1, *x.shape)[i] if n == 0 and not node.attributes.get("allowzero", 0) else n for i, n in enumerate(wanted)
    ]
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.size // prod(n for n in sizes if n != -1)
    if not sizes or sizes[0] != 1:
        raise node.refuse("that moves the batch")
    return node.net.alias(x, tuple(sizes[1:]))


def Flatten(node: Node) -> Value:
    if node.attributes.get("axis", 1) != 1:
        raise node.refuse("from another axis than 1")
    return flat(node.net, node.tensor())


def Squeeze(node: Node) -> Value:
    x, axes = node.tensor(), node.constant(1)
    gone = (
        {a % (len(x.shape) + 1) for a in axes.tolist()}
        if axes is not None
        else {i + 1 for i, n in enumerate(x.shape) if n == 1}
    )
    return node.net.alias(x, tuple(n for i, n in enumerate(x.shape, 1) if i not in gone))


def Identity(node: Node) -> Value:
    return node.tensor()


Dropout = Identity
