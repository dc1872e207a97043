"""ONNX with float16 weights and arithmetic, half the size; input and output stay float32.

For GPUs and for ARM processors with half-precision arithmetic. ONNX Runtime has no float16 kernels for x86
processors: there the file runs in float32 with conversions around every operator.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from compress_exporters import onnx as dense
from compress_exporters._calibration import feeds, file_feeds, import_path_kept, relative_error, run, upto
from compress_exporters._given import given, refusing
from compress_exporters._images import Array
from compress_exporters._quiet import quiet
from compress_exporters._versions import lower_ir_version, min_ort, opset_of
from compress_exporters.artifact import Artifact, ExportError, Request, describe, scratch_beside, write_atomically

suffix = ".fp16.onnx"

LARGEST = 65504.0
"""The largest number of float16."""

ROOM = 4.0
"""Values must stay this many times below it: other images give larger ones."""

IMAGES = 50

ARITHMETIC = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Add", "Sum", "Mul", "Sub", "Div", "Pow", "Exp", "Reciprocal",
    "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "CumSum",
    "BatchNormalization", "InstanceNormalization", "LayerNormalization",
)  # fmt: skip
"""What makes values larger than those it reads."""

TOLERANCE = 5e-3
"""Root mean square error of the outputs, relative: each of 50 layers rounds to 4.9e-4, sqrt(50) times that."""


def export(request: Request, path: Path) -> Artifact:
    """Write the model as a float16 ONNX file.

    Args:
        request: values are checked on its calibration images, or on random ones where it has none.
        path: the file.

    Raises:
        ExportError: as `compress_exporters.onnx.export`; or a weight or a value in the middle is too large for
            float16; or the outputs are far from float32's.
    """
    with scratch_beside(path) as scratch:
        dense.export(request, scratch)
        model = onnx.load(scratch)
    with refusing("onnx-fp16"):
        return _write(model, _images(request), path)


def convert(onnx_path: Path, path: Path, calibration: Any = None) -> Artifact:
    """Write a float32 ONNX file of one image input with float16 arithmetic.

    Args:
        onnx_path: a self-contained ONNX file.
        path: the file to write.
        calibration: images that values are checked on, as the file takes them; random ones where there are none.

    Raises:
        ExportError: as `export`; or the file takes no single image, is quantised, or has control flow.
    """
    with refusing("onnx-fp16"):
        model, notes = given(onnx_path, "onnx-fp16")
        return _write(model, file_feeds(model, calibration, IMAGES), path, notes)


def _write(model: onnx.ModelProto, images: list[Array], path: Path, notes: tuple[str, ...] = ()) -> Artifact:
    _check_range(model, images)
    error = relative_error(run(_rounded(model), images, optimise=False), run(model, images))
    if error > TOLERANCE:
        raise ExportError(f"in float16 the outputs are {error:.1%} from float32's (limit {TOLERANCE:.1%}); use onnx")
    half = _converted(model)
    data = half.SerializeToString(deterministic=True)
    write_atomically(path, lambda file: file.write_bytes(data))
    said = f"On {sum(map(len, images))} images the outputs are {error:.2%} from float32's, root mean square."
    opset = opset_of(half)
    return describe(
        path, "onnx-fp16", opset=opset, min_ort=min_ort(opset, half.ir_version), dtype="float16", notes=(said, *notes)
    )


def _images(request: Request) -> list[Array]:
    if request.calibration is None:
        images = torch.randn(IMAGES, *request.input_shape, generator=torch.Generator().manual_seed(0))
        request = replace(request, calibration=images)
    return feeds(request, IMAGES)


def _check_range(model: onnx.ModelProto, images: list[Array]) -> None:
    """Refuse weights and inner values that float16 cannot hold.

    Raises:
        ExportError: one is too large; the largest is named.
    """
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    weights = {t.name: float(np.abs(numpy_helper.to_array(t)).max(initial=0)) for t in floats}
    names = [name for node in model.graph.node if node.op_type in ARITHMETIC for name in node.output[:1]]
    values = dict.fromkeys(names, 0.0)
    for outputs in run(upto(model, names), images, optimise=False) if names else ():
        for name, value in zip(names, outputs, strict=True):
            if value.dtype.kind == "f":  # sizes are computed with as well
                values[name] = max(values[name], float(np.abs(value).max(initial=0)))
    for found, limit, what in ((weights, LARGEST, "weights"), (values, LARGEST / ROOM, "values")):
        name = max(found, key=lambda key: found[key], default="")
        if name and not found[name] <= limit:
            raise ExportError(
                f"{what} of {name} reach {found[name]:.3g}, and float16 ends at {LARGEST:.0f}; "
                "use onnx or onnx-int8, or scale the layer down"
            )


def _rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every number rounded to float16 and back, which is what float16 arithmetic gives anywhere.

    On a processor without such arithmetic ONNX Runtime keeps the inner values of a float16 file in float32.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    graph, nodes, now = typed.graph, list[onnx.NodeProto](), dict[str, str]()
    values = (*graph.input, *graph.value_info, *graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}

    def round_(name: str) -> None:
        now[name] = f"{name}~32"
        nodes.append(helper.make_node("Cast", [name], [f"{name}~16"], to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("Cast", [f"{name}~16"], [now[name]], to=TensorProto.FLOAT))

    for name in [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]:
        if name in floats:
            round_(name)
    for node in graph.node:
        node.input[:] = [now.get(name, name) for name in node.input]
        nodes.append(node)
        for name in filter(floats.__contains__, node.output):
            round_(name)
    for value in graph.output:
        value.name = now.get(value.name, value.name)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return typed


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    with import_path_kept():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16
    with quiet():  # it warns of every weight that becomes zero
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    # It appends its conversions at the end; a file lists an operator after what it reads.
    ONNXModel(half).topological_sort()
    half.graph.ClearField("value_info")
    lower_ir_version(half)
    return half
