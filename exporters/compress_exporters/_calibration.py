"""Images in the form that an exported graph takes, and what the graph answers to them."""

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from compress_exporters._images import Array, as_pixels
from compress_exporters.artifact import ExportError, Request

CHUNK = 50
CHUNK_VALUES = 1_000_000
"""Images in one inference where the batch is free, and numbers in them: every inner value is held at a time."""


def feeds(request: Request, limit: int) -> list[Array]:
    """Calibration images as the exported graph takes them: cut into its batch, as pixels where it takes pixels.

    Args:
        request: with calibration images.
        limit: of images, spread evenly; at least one batch is given, images repeated where it needs them.

    Raises:
        ExportError: no images, of another shape, or not finite.
    """
    images = request.calibration
    if images is None or not len(images):
        raise ExportError("this format chooses ranges by images, and none were given; pass Request(calibration=...)")
    if tuple(images.shape[1:]) != tuple(request.input_shape) or not images.isfinite().all():
        raise ExportError(
            f"calibration images must be finite and of shape (n, {', '.join(map(str, request.input_shape))}); "
            f"got {tuple(images.shape)}"
        )
    array: Array = images.detach().cpu().float().numpy()
    array = array[np.linspace(0, len(array) - 1, min(limit, len(array))).astype(int)]
    if request.normalisation is not None:
        array = as_pixels(array, request.normalisation)
    return _cut(array, None if request.batch == "dynamic" else request.batch)


def file_feeds(model: onnx.ModelProto, images: Any, limit: int) -> list[Array]:
    """Calibration images, cut into the batch that an ONNX file takes.

    Args:
        model: of one image input, no initialiser among its inputs.
        images: as the file takes them, (n, ...): a tensor or an array; None draws normal numbers.
        limit: of images, spread evenly.

    Raises:
        ExportError: not one floating-point or uint8 input, or images of another shape.
    """
    if len(model.graph.input) != 1:
        raise ExportError(f"the file has {len(model.graph.input)} inputs; this format takes a file of one, of images")
    (entry,) = model.graph.input
    kind = entry.type.tensor_type
    shape: list[Any] = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    if kind.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8) or not shape:
        found = TensorProto.DataType.Name(kind.elem_type).lower()
        raise ExportError(f"the input is {found} of shape {shape}; this format takes images, float32 or uint8")
    if images is None and None not in shape[1:]:
        images = np.random.default_rng(0).standard_normal((limit, *shape[1:]))
    array: Array = np.zeros(0) if images is None else np.asarray(images)
    fits = len(array) and all(want in (None, got) for want, got in zip(shape[1:], array.shape[1:], strict=True))
    if not fits:
        if images is None:
            raise ExportError(f"the file leaves sizes of its images open, {shape[1:]}; give images, or fix the sizes")
        raise ExportError(f"the file takes images of shape {shape[1:]}; the calibration images are {array.shape[1:]}")
    array = array.astype(np.float32 if kind.elem_type == TensorProto.FLOAT else np.uint8)
    return _cut(array[np.linspace(0, len(array) - 1, min(limit, len(array))).astype(int)], shape[0])


def _cut(array: Array, batch: int | None) -> list[Array]:
    """Feeds of one size that hold every image; the first ones again where the last feed lacks some."""
    most = batch or max(1, min(CHUNK, CHUNK_VALUES // max(1, math.prod(array.shape[1:]))))
    count = max(1, -(-len(array) // most))
    size = batch or -(-len(array) // count)
    return np.split(array[np.arange(count * size) % len(array)], count)


def upto(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that leads to some of its values, which become its outputs."""
    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    graph = helper.make_graph(
        nodes[::-1],
        "part",
        model.graph.input,
        [onnx.ValueInfoProto(name=name) for name in names],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def run(
    model: onnx.ModelProto, feeds: Iterable[Array | dict[str, Array]], *, optimise: bool = True
) -> Iterator[list[Array]]:
    """All outputs of a model for each feed, one after another.

    Args:
        model: to run.
        feeds: one for each inference; arrays by name, or one for the only input.
        optimise: off, the operators run as they are written; a value in the middle is then what the file says.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # One thread: what is computed here decides bytes of the file, and sums must not depend on the machine's cores.
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feed in feeds:
        yield session.run(None, feed if isinstance(feed, dict) else {session.get_inputs()[0].name: feed})


def relative_error(found: Iterable[Sequence[Array]], expected: Iterable[Sequence[Array]]) -> float:
    """Root mean square of an output's error, relative to that of the expected output; of several, the largest.

    Whole numbers, indices of classes for instance, have no size and are left out; infinite where an error is NaN.

    Raises:
        ExportError: no output is a floating-point number.
    """
    sums: dict[int, tuple[float, float]] = {}
    for outputs, wanted in zip(found, expected, strict=True):
        for i, (got, want) in enumerate(zip(outputs, wanted, strict=True)):
            if want.dtype.kind == "f":
                errors, sizes = sums.get(i, (0.0, 0.0))
                gap, size = got.astype(np.float64) - want, want.astype(np.float64)
                sums[i] = errors + float((gap * gap).sum()), sizes + float((size * size).sum())
    if not sums:
        raise ExportError("no output of the file is a floating-point number, so nothing can be compared")
    return max(_share(errors, sizes) for errors, sizes in sums.values())


def _share(errors: float, sizes: float) -> float:
    if not math.isfinite(errors) or not math.isfinite(sizes):
        return math.inf
    return math.sqrt(errors / sizes) if sizes else math.inf if errors else 0.0


@contextlib.contextmanager
def import_path_kept() -> Iterator[None]:
    """Around imports of ONNX Runtime's tools: some put their folder, with everyday names in it, on `sys.path`."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
