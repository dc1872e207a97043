"""ONNX with 8-bit weights and activations (QDQ), for ONNX Runtime's int8 kernels.

Weights are symmetric with a scale for each output channel, activations unsigned with a range found on calibration
images. Weights use 7 of their 8 bits: on x86 processors without VNNI the int8 kernels add two products in 16 bits,
and 2 * 64 * 255 is the largest sum that fits. What the lost bit costs is mostly a shift of each channel's mean,
which bias correction takes back (Nagel et al., ICCV 2019, arXiv:1906.04721, section 4.2, on images):

    b[c] -= mean(int8 output of c) - mean(float output of c),  layer after layer, before the activation

If the outputs are then still further off than `LIMIT`, the layers that do most harm stay in float32, as few as
reach the limit; the artifact's notes name them.
"""

import bisect
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compress_exporters import onnx as dense
from compress_exporters._bias_correction import correct
from compress_exporters._calibration import feeds, file_feeds, import_path_kept, relative_error, run
from compress_exporters._given import given, refusing
from compress_exporters._images import Array
from compress_exporters._quiet import quiet
from compress_exporters._versions import lower_ir_version, min_ort, opset_of
from compress_exporters.artifact import Artifact, ExportError, Request, describe, write_atomically

suffix = ".int8.onnx"
calibrates = True

OLDEST_OPSET = 13
"""The first whose QuantizeLinear takes one scale for each channel."""

LIMIT = 0.1
"""Largest error of the outputs on the calibration images, root mean square, relative to the outputs'.

Independent errors of this size on the logits of ResNet-20 cost 0.2 points of its accuracy on CIFAR-10, of 0.05
less than 0.1, of 0.2 a whole point.
"""

RANGE_IMAGES = 500
FEW_IMAGES = 100
"""Images that ranges are found on at most, and with fewer than which a note says so."""

CORRECTION_IMAGES = 100
CORRECTION_VALUES = 8_000_000
"""Images that biases are corrected on, and numbers in them: inner values are held for all at a time."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OPERATORS = (
    *LAYERS, "Add", "Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Flatten",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Pad", "Slice", "Split", "Resize",
)  # fmt: skip
"""What computes in int8; others, Softmax and normalisations for instance, lose too much and stay in float32."""


@dataclass(frozen=True)
class Scheme:
    """What is kept as 8-bit integers, and how.

    Attributes:
        operators: what computes in int8.
        seven_bits: weights use 7 of their 8 bits.
        signed: activations are signed.
    """

    operators: tuple[str, ...] = OPERATORS
    seven_bits: bool = True
    # Signed activations fall back to float kernels on x86 (measured: slower than the float file).
    signed: bool = False


def export(request: Request, path: Path) -> Artifact:
    """Write the model as an int8 ONNX file.

    Args:
        request: with calibration images; up to 500 are used.
        path: the file.

    Raises:
        ExportError: as `compress_exporters.onnx.export`; no or wrong calibration images; opset below 13; or no
            choice of layers keeps the outputs within `LIMIT`.
    """
    with refusing("onnx-int8"), tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        dense.export(request, Path(scratch, "given.onnx"))
        model = onnx.load(Path(scratch, "given.onnx"))
        return _write(model, feeds(request, RANGE_IMAGES), feeds(request, images_to_correct(request.input_shape)), path)


def convert(onnx_path: Path, path: Path, calibration: Any = None) -> Artifact:
    """Write a float32 ONNX file of one image input with 8-bit weights and activations.

    Args:
        onnx_path: a self-contained ONNX file.
        path: the file to write.
        calibration: images as the file takes them; up to 500 are used.

    Raises:
        ExportError: as `export`; or the file takes no single image, is quantised, has control flow or no weights.
    """
    if calibration is None:
        raise ExportError("this format chooses ranges by images, and none were given")
    with refusing("onnx-int8"):
        model, notes = given(onnx_path, "onnx-int8")
        with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
            model = _folded(model, Path(scratch, "folded.onnx"))
        images = file_feeds(model, calibration, RANGE_IMAGES)
        artifact = _write(model, images, file_feeds(model, calibration, images_to_correct(images[0].shape[1:])), path)
        return replace(artifact, notes=(*artifact.notes, *notes))


def images_to_correct(shape: Sequence[int]) -> int:
    """Images that biases are corrected on."""
    return min(CORRECTION_IMAGES, max(1, CORRECTION_VALUES // math.prod(shape)))


def _folded(model: onnx.ModelProto, folded: Path) -> onnx.ModelProto:
    """The model with normalisations folded into the convolutions before them, as our own exports have them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base but Exception
        raise ExportError(f"ONNX Runtime cannot read the file: {str(error).splitlines()[0]}") from error
    return onnx.load(folded)


def _write(model: onnx.ModelProto, images: list[Array], few: list[Array], path: Path) -> Artifact:
    int8, notes = quantized(model, images, few, Scheme())
    data = int8.SerializeToString(deterministic=True)
    write_atomically(path, lambda file: file.write_bytes(data))
    opset = opset_of(int8)
    release = min_ort(opset, int8.ir_version)
    return describe(path, "onnx-int8", opset=opset, min_ort=release, dtype="int8", notes=notes)


def quantized(
    model: onnx.ModelProto, images: list[Array], few: list[Array], scheme: Scheme
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A float32 graph in QDQ form, and notes on how far its outputs are off.

    Args:
        model: of one image input; may be changed.
        images: for ranges and for the error, one array for each inference.
        few: for what is run often.
        scheme: what becomes integers.

    Raises:
        ExportError: opset below 13; or no choice of layers keeps the outputs within `LIMIT`.
    """
    if opset_of(model) < OLDEST_OPSET:
        raise ExportError(f"int8 needs opset {OLDEST_OPSET} or later, the model has {opset_of(model)}; export it again")
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        model = _named(model)
        work = _Work(model, images, few, Path(scratch), scheme)
        if not work.layers():
            raise ExportError("the model has no convolution and no linear layer to write in int8; use the format onnx")
        # The quantizer is given a file: it would write into a model in memory.
        onnx.save(model, Path(scratch, "float.onnx"))
        int8, notes = _within_limit(work)
    _tidy(int8)
    return int8, notes


@dataclass(frozen=True)
class _Work:
    """A float model to quantize.

    Attributes:
        model: every operator named, every convolution with a bias.
        images: for ranges and for the error.
        few: for what is run often.
        scratch: folder with the model as float.onnx, and for the ranges once found.
        scheme: what becomes integers.
    """

    model: onnx.ModelProto
    images: list[Array]
    few: list[Array]
    scratch: Path
    scheme: Scheme

    def layers(self) -> list[onnx.NodeProto]:
        """Operators with weights of their own."""
        held = {tensor.name for tensor in self.model.graph.initializer}
        return [n for n in self.model.graph.node if n.op_type in LAYERS and held & set(n.input[1:])]


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every operator a name, and a bias to every convolution without one, for the correction to go to."""
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    for i, node in enumerate(graph.node):
        node.name = f"{i}"
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 2 and node.input[1] in held:
            dims = held[node.input[1]].dims
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            channels = dims[0] if node.op_type == "Conv" else dims[1] * groups
            graph.initializer.append(numpy_helper.from_array(np.zeros(channels, np.float32), f"{i}.bias"))
            node.input.append(f"{i}.bias")
    return model


def _within_limit(work: _Work) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Quantize as many layers as keep the error within the limit; notes say how far off it is and what is left."""
    expected = list(run(work.model, work.images))

    def attempt(kept: Sequence[str]) -> tuple[onnx.ModelProto, float]:
        int8 = _quantize(work, nodes_to_exclude=list(kept))
        correct(int8, work.model, LAYERS, work.few)
        return int8, relative_error(run(int8, work.images), expected)

    int8, error = everywhere = attempt(())
    kept: Sequence[str] = ()
    if error > LIMIT:
        ranked = _most_harmful_first(work)
        count = bisect.bisect_left(range(len(ranked)), True, key=lambda n: attempt(ranked[:n])[1] <= LIMIT)
        if count == len(ranked):
            raise ExportError(
                f"int8 puts the outputs {error:.0%} off (limit {LIMIT:.0%}), and no layer alone is to blame; "
                "use the format onnx-fp16"
            )
        kept = ranked[:count]
        int8, error = attempt(kept)
    count = sum(map(len, work.images))
    notes = [f"On the {count} calibration images the outputs are {error:.1%} from float32's, root mean square."]
    if kept:
        names = {node.name: node.input[1].removesuffix(".weight") for node in work.layers()}
        layers = ", ".join(name for key, name in names.items() if key in kept)
        notes.append(f"Kept in float32, because with all layers in int8 it would be {everywhere[1]:.1%}: {layers}.")
    if count < FEW_IMAGES:
        notes.append(f"Other images are clipped to the ranges of these {count}; give at least {FEW_IMAGES}.")
    return int8, tuple(notes)


def _most_harmful_first(work: _Work) -> list[str]:
    """Layers by the error that each makes when it alone is quantized."""
    expected = list(run(work.model, work.few))
    errors = {
        node.name: relative_error(run(_quantize(work, nodes_to_quantize=[node.name]), work.few), expected)
        for node in work.layers()
    }
    return sorted(errors, key=lambda name: -errors[name])


def _quantize(work: _Work, **choice: list[str]) -> onnx.ModelProto:
    """The model in QDQ form; the ranges are found once and kept in the scratch folder."""
    with import_path_kept():
        from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The images, one feed after another."""

        def __init__(self) -> None:
            self.left = iter(work.images)

        def get_next(self) -> dict[str, Array] | None:
            feed = next(self.left, None)
            return None if feed is None else {work.model.graph.input[0].name: feed}

    file = work.scratch / "int8.onnx"
    with quiet():
        quantization.quantize_static(
            work.scratch / "float.onnx",
            file,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(work.scheme.operators),
            per_channel=True,
            reduce_range=work.scheme.seven_bits,
            activation_type=quantization.QuantType.QInt8 if work.scheme.signed else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=work.scratch / "ranges.json",
            **choice,
        )
    return onnx.load(file)


def _tidy(model: onnx.ModelProto) -> None:
    """Leave out what only the quantizer needed: types of inner values, labels, operator sets of no operator."""
    model.graph.ClearField("value_info")
    labels = [entry for entry in model.metadata_props if not entry.key.startswith("onnx.")]
    del model.metadata_props[:]
    model.metadata_props.extend(labels)
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    lower_ir_version(model)
