"""Sparse ONNX: the same graph and weights in a smaller file; it runs at the dense kernels' speed.

Each weight tensor is kept as its nonzero values and the gaps between them, and ordinary ONNX operators
rebuild the dense tensor. ONNX Runtime folds these away when it opens the file (optimisation level "basic" or
above), then runs the same dense kernels on the same dense weights: smaller to ship, not faster to run.

    gap[0] = position[0],  gap[i] = position[i] - position[i - 1]  in the flattened tensor, each in w bits
    W = reshape(scatter(zeros, cumsum(gaps), values))

A gap that w bits cannot hold is bridged by filler entries of value zero. Where few distinct values occur
(shared weights), a codebook of them and bit-packed indices replace the values. Lossless, except that -0.0
becomes 0.0.
No optimiser may run on the file afterwards: it would fold the decoders and write the dense weights back.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress_exporters import onnx as dense
from compress_exporters._given import LISTED_ONLY, hold_defaults
from compress_exporters._versions import min_ort, opset_of
from compress_exporters.artifact import (
    Artifact,
    ExportError,
    Request,
    describe,
    scratch_beside,
    write_atomically,
)

suffix = ".sparse.onnx"

OLDEST_OPSET = 11
"""The first with CumSum, BitShift and ScatterElements."""

WIDEST_BITS = 24
"""Numbers are put together from their bits in float32, which is exact below 2**24."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

LOOKUP_BYTES = 400
"""What the operators of a codebook take."""


def export(request: Request, path: Path) -> Artifact:
    """Write the model as a sparse ONNX file.

    Raises:
        ExportError: as `compress_exporters.onnx.export`, or the opset is too old for the decoder.
    """
    with scratch_beside(path) as scratch:
        dense.export(request, scratch)
        return convert(scratch, path)


def convert(onnx_path: Path, path: Path, calibration: object = None) -> Artifact:
    """Write the sparse form of an ONNX file; tensors that would not get smaller stay dense.

    Args:
        onnx_path: a self-contained ONNX file.
        path: the file to write; may be the same. Inputs with default values, which can be fed, stay as they are.
        calibration: not needed, the coding is lossless.

    Raises:
        ExportError: the opset is too old for the decoder.
    """
    model = onnx.load(onnx_path)
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise ExportError(f"sparse coding needs opset {OLDEST_OPSET} or later, the model has {opset}; export it again")
    graph = model.graph
    if model.ir_version < LISTED_ONLY:
        hold_defaults(model)
    # Types of inner values can be inferred again, and cost bytes.
    graph.ClearField("value_info")
    decoders, kept = _decode_all(graph)
    shared = {name: tensor for decoder in decoders for name, tensor in decoder.shared.items()}
    nodes = [node for decoder in decoders for node in decoder.nodes] + list(graph.node)
    tensors = kept + list(shared.values()) + [tensor for decoder in decoders for tensor in decoder.own]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    data = model.SerializeToString(deterministic=True)
    write_atomically(path, lambda file: file.write_bytes(data))
    return describe(path, "sparse", opset=opset, min_ort=min_ort(opset, model.ir_version))


def _decode_all(graph: onnx.GraphProto) -> tuple[list["_Decoder"], list[onnx.TensorProto]]:
    """Decoders for the tensors that get smaller, and the tensors that stay."""
    names = [t.name for t in graph.initializer] + [v for n in graph.node for v in (*n.input, *n.output)]
    prefix = next(p for p in map("~".__mul__, itertools.count(1)) if not any(n.startswith(p) for n in names))
    public = {value.name for value in (*graph.input, *graph.output)}
    decoders: list[_Decoder] = []
    kept = []
    for tensor in graph.initializer:
        decoder = None
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in public:
            decoder = _fill(_Decoder(prefix, f"{prefix}{len(decoders)}"), tensor)
        if decoder is not None and decoder.size_bytes() < tensor.ByteSize():
            decoders.append(decoder)
        else:
            kept.append(tensor)
    return decoders, kept


@dataclass
class _Decoder:
    """Operators and constants, under construction, that rebuild one tensor.

    Attributes:
        prefix: of the constants that all decoders share.
        tag: prefix of what belongs to this tensor alone.
    """

    prefix: str
    tag: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    own: list[onnx.TensorProto] = field(default_factory=list)
    shared: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator; gives the name of its output."""
        output = f"{self.tag}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def keep(self, role: str, values: npt.NDArray[Any]) -> str:
        """Keep a constant of this tensor's own."""
        self.own.append(numpy_helper.from_array(values, f"{self.tag}{role}"))
        return self.own[-1].name

    def share(self, role: str, values: npt.NDArray[Any]) -> str:
        """Keep a constant that is the same in every decoder."""
        name = f"{self.prefix}{role}"
        self.shared[name] = numpy_helper.from_array(values, name)
        return name

    def size_bytes(self) -> int:
        """Bytes added to the file, each message with its tag and length; what is shared is not counted."""
        messages: list[Any] = [*self.nodes, *self.own]
        return sum(message.ByteSize() + 4 for message in messages)


def _fill(parts: _Decoder, tensor: onnx.TensorProto) -> _Decoder:
    """Give a decoder the operators that rebuild a tensor."""
    weights = numpy_helper.to_array(tensor)
    shape = parts.keep("shape", np.array(weights.shape, np.int64))
    if weights.any():
        parts.node("Reshape", _scatter(parts, weights), shape)
    else:
        parts.node("ConstantOfShape", shape)
    parts.nodes[-1].output[0] = tensor.name
    return parts


def _scatter(parts: _Decoder, weights: Floats) -> str:
    """Rebuild weights that are not all zero as one row, shape (1, size)."""
    book = np.unique(weights) + np.float32(0)  # the sum makes -0.0 a 0.0
    nonzero = np.count_nonzero(weights)
    value_bits = max(1, (len(book) - 1).bit_length())
    shares_values = 4 * len(book) + nonzero * value_bits / 8 + LOOKUP_BYTES < 4 * nonzero
    gaps, values, width = split(weights.reshape(-1), value_bits if shares_values else 32)
    if shares_values:
        indices = np.searchsorted(book, values)
        updates = parts.node("Gather", parts.keep("book", book), _unpack(parts, "indices", indices, value_bits))
    else:
        updates = parts.keep("values", values[None])
    axis = parts.share("axis", np.array(1, np.int64))
    positions = parts.node("CumSum", _unpack(parts, "gaps", gaps, width), axis)
    zeros = parts.node("ConstantOfShape", parts.keep("size", np.array([1, weights.size], np.int64)))
    return parts.node("ScatterElements", zeros, positions, updates, axis=1)


def split(weights: Floats, value_bits: int = 32) -> tuple[Integers, Floats, int]:
    """Gaps, values, and the gap width in bits with which they take the fewest bytes.

    Args:
        weights: shape (n,), with a nonzero among them.
        value_bits: what storing one value takes.

    >>> split(np.array([0, 5, 0, 0, 0, 0, 0, 0, 7], np.float32))
    (array([1, 7]), array([5., 7.], dtype=float32), 3)
    """
    positions = np.flatnonzero(weights)
    steps = np.diff(positions, prepend=0)
    widest = min(WIDEST_BITS, max(1, int(steps.max()).bit_length()))
    width = min(range(1, widest + 1), key=lambda bits: int(_entries(steps, bits).sum()) * (value_bits + bits))
    counts = _entries(steps, width)
    longest = (1 << width) - 1
    last = np.cumsum(counts) - 1
    gaps = np.full(counts.sum(), longest, np.int64)
    gaps[last] = steps - (counts - 1) * longest
    values = np.zeros(len(gaps), np.float32)
    values[last] = weights[positions]
    return gaps, values, width


def _entries(steps: Integers, width: int) -> Integers:
    """How many gaps of a width each step takes: all but the last lead to a filler."""
    longest = (1 << width) - 1
    return np.maximum(1, -(-steps // longest))


def _unpack(parts: _Decoder, role: str, numbers: Integers, width: int) -> str:
    """Rebuild integers, shape (1, n) int32, from bit planes: plane b holds bit b of all, eight to a byte.

    Planes let any width be decoded with the same few operators, and waste less than a byte each.
    """
    planes = (numbers >> np.arange(width)[:, None] & 1).astype(np.uint8)
    packed = parts.keep(role, np.packbits(planes, axis=1, bitorder="little")[:, :, None])
    shifts = parts.share("shifts", np.arange(8, dtype=np.uint8))
    shifted = parts.node("BitShift", packed, shifts, direction="RIGHT")
    bits = parts.node("Mod", shifted, parts.share("two", np.array(2, np.uint8)))
    floats = parts.node("Cast", bits, to=TensorProto.FLOAT)
    rows = parts.node("Reshape", floats, parts.share("rows", np.array([0, -1])))
    powers = parts.share(f"powers{width}", np.float32(2) ** np.arange(width, dtype=np.float32)[None])
    sums = parts.node("Cast", parts.node("MatMul", powers, rows), to=TensorProto.INT32)
    zero, one = parts.share("zero", np.array([0])), parts.share("one", np.array([1]))
    return parts.node("Slice", sums, zero, parts.keep(f"{role}.n", np.array([len(numbers)])), one)
