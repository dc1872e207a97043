"""C99 in integer arithmetic: 8-bit weights and activations, 32-bit sums, for microcontrollers, with or without an FPU.

Ranges are found on calibration images as for the format onnx-int8, with its correction of biases and its limit: a
layer that 8 bits ruin stays in float32, and the artifact's notes name it. Weights are symmetric and use all 8 bits,
with a scale for each output channel; activations have a scale and a zero each. The input is rounded when it comes
in, and the scores leave as floats, straight from the last layer's 32-bit sums. Operators of one number at a time are
tables; what has no integer form (Softmax) computes in float32.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from compress_exporters import c
from compress_exporters import onnx as dense
from compress_exporters._c.qdq import with_limits
from compress_exporters._calibration import feeds
from compress_exporters._given import refusing
from compress_exporters._images import Array
from compress_exporters.artifact import Artifact, Predict, Request
from compress_exporters.onnx_int8 import OPERATORS, RANGE_IMAGES, Scheme, images_to_correct, quantized

suffix = ".int8.c"
companions = (".int8.h",)
calibrates = True

SCHEME = Scheme(
    (*OPERATORS, "Sub", "Mul", "Div", "ReduceMean", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"),
    seven_bits=False,
    signed=True,
)


def export(request: Request, path: Path) -> Artifact:
    """Write the model as C that computes in integers.

    Args:
        request: with calibration images; up to 500 are used. A batch or raw pixels asked for are left out.
        path: the file.

    Raises:
        ExportError: as `compress_exporters.onnx_int8.export` and `compress_exporters.c.export`.
    """
    single = replace(request, batch=1, normalisation=None)
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        dense.export(single, Path(scratch, "given.onnx"))
        model = onnx.load(Path(scratch, "given.onnx"))
    few = feeds(single, images_to_correct(request.input_shape))
    with refusing("c-int8"):
        model, notes = in_integers(model, feeds(single, RANGE_IMAGES), few)
    return c.write(model, request, path, "int8", notes)


def in_integers(
    model: onnx.ModelProto, images: list[Array], few: list[Array], scheme: Scheme = SCHEME
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A float32 graph in the QDQ form that C is written from, and notes; see `compress_exporters.onnx_int8.quantized`.

    Raises:
        ExportError: as there.
    """
    int8, notes = quantized(model, images, few, scheme)
    return with_limits(int8, model), notes


def load(path: Path) -> Predict:
    """Compile the file with this machine's compiler.

    Raises:
        ExportError: as `compress_exporters.c.load`.
    """
    return c.load(path)
