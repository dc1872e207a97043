"""ncnn, for phones and small ARM boards without other libraries: layers (.ncnn.param) and weights (.ncnn.bin).

Converted by pnnx, with float32 weights. ncnn takes one normalised image at a time, and pnnx writes what ncnn cannot
run without failing; so every file is run once and compared with the model before it gets its name.
"""

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from onnx import helper, numpy_helper

from compress_exporters import onnx as dense
from compress_exporters._calibration import relative_error
from compress_exporters.artifact import Artifact, ExportError, Request, describe, installed, write_atomically
from compress_exporters.onnx import _on_cpu
from compress_exporters.runtimes import ncnn as runtime

if TYPE_CHECKING:
    from compress_exporters.artifact import Predict

suffix = runtime.suffix
companions = (runtime.WEIGHTS,)
package = "ncnn"

TIMEOUT_SECONDS = 600

TOLERANCE = 1e-4
"""Root mean square of the error, relative: float32 with sums in another order, and room for Winograd's."""

IMAGES = 4


def export(request: Request, path: Path) -> Artifact:
    """Write the model for ncnn, the weights beside it as .ncnn.bin.

    Args:
        request: its batch and raw pixels are not for ncnn; a note says how the input is to be fed.
        path: the file.

    Raises:
        ExportError: as `compress_exporters.onnx.export`; ncnn or pnnx is not installed, or ncnn cannot run it.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        dense.export(replace(request, batch=1, normalisation=None), Path(scratch, "m.onnx"))
        onnx.save(_without_steps(onnx.load(Path(scratch, "m.onnx"))), Path(scratch, "m.onnx"))
        log = _convert(Path(scratch), request.input_shape)
        param, weights = Path(scratch, "m.ncnn.param"), Path(scratch, "m.ncnn.bin")
        _compare(request, param, log)
        texts, numbers = param.read_bytes(), weights.read_bytes()
    # The weights first: whoever sees the new layers sees them too.
    write_atomically(runtime.weights_of(path), lambda file: file.write_bytes(numbers))
    write_atomically(path, lambda file: file.write_bytes(texts))
    return describe(path, "ncnn", runtime.weights_of(path), notes=(_how_to_feed(request),))


def load(path: Path) -> "Predict":
    """Run a written file on the CPU, in float32.

    Raises:
        ExportError: ncnn is not installed, or refuses the file.
    """
    prepare = runtime.start(path)
    return lambda images: prepare(images)()


def _without_steps(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take every n-th row or column by pooling over 1 x 1: ncnn slices only in steps of one.

    The shortcuts of CIFAR ResNets are such slices. What is not from the first to the last stays as it is.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        names = node.input[1:]
        if node.op_type != "Slice" or len(names) != 4 or not set(names) <= constants.keys():
            continue
        starts, ends, axes, steps = (numpy_helper.to_array(constants[name]).tolist() for name in names)
        if set(axes) <= {2, 3} and not any(starts) and min(ends) >= 2**31 - 1 and min(steps) >= 1:
            strides = [dict(zip(axes, steps, strict=True)).get(axis, 1) for axis in (2, 3)]
            pooling = helper.make_node("MaxPool", node.input[:1], node.output, kernel_shape=[1, 1], strides=strides)
            node.CopyFrom(pooling)
    return model


def _convert(folder: Path, shape: tuple[int, int, int]) -> str:
    """Run pnnx on m.onnx; gives what it said."""
    program = installed("pnnx", "ncnn").EXEC_PATH
    words = [program, "m.onnx", f"inputshape=[1,{','.join(map(str, shape))}]", "fp16=0"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"pnnx did not run to its end: {error}") from error
    if done.returncode or not (folder / "m.ncnn.param").is_file():
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise ExportError(f"pnnx cannot convert the model (exit code {done.returncode}): {last}; use the format onnx")
    return done.stdout + done.stderr


def _compare(request: Request, param: Path, log: str) -> None:
    """Run the written network on random images beside the model.

    Raises:
        ExportError: ncnn cannot run it, or answers otherwise.
    """
    known = [line for line in dict.fromkeys(log.splitlines()) if "not supported" in line]
    hint = f" ({'; '.join(known)})" if known else ""
    images = torch.randn(IMAGES, *request.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        found = load(param)(images.numpy())
    except ExportError as error:
        raise ExportError(f"{str(error).replace(str(param), 'the network')}{hint}; use the format onnx") from None
    model = _on_cpu(request.model)
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images]).numpy()
    if found.shape != expected.shape:
        raise ExportError(f"ncnn answers in shape {found.shape}, the model in {expected.shape}{hint}; use onnx")
    off = relative_error([[found]], [[expected]])
    if off > TOLERANCE:
        raise ExportError(f"ncnn's answers are {off:.2g} of their size from the model's{hint}; use the format onnx")


def _how_to_feed(request: Request) -> str:
    text = "Input in0 is one normalised float32 image (C, H, W), output out0."
    if request.normalisation is None:
        return text
    mean, std = request.normalisation
    means = ", ".join(f"{255 * value:.6g}" for value in mean)
    norms = ", ".join(f"{1 / (255 * value):.6g}" for value in std)
    return f"{text} From pixels: ncnn::Mat::from_pixels, then substract_mean_normalize with {{{means}}}, {{{norms}}}."
