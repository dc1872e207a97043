"""OpenVINO IR, for Intel processors, integrated GPUs and NPUs: a graph (.xml) and its weights (.bin).

Weights stay float32. A device may still compute in less: a processor with bfloat16 units does so unless it is compiled
with INFERENCE_PRECISION_HINT "f32", as `load` does.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress_exporters import onnx as dense
from compress_exporters._calibration import Array, as_pixels, in_batches
from compress_exporters.artifact import Artifact, ExportError, Request, describe, installed, write_atomically

if TYPE_CHECKING:
    from compress_exporters.artifact import Predict

suffix = ".xml"
companions = (".bin",)
package = "openvino"

TELEMETRY = "openvino_telemetry"


def export(request: Request, path: Path) -> Artifact:
    """Write the model as OpenVINO IR, the weights beside it as .bin.

    Raises:
        ExportError: as `compress_exporters.onnx.export`; OpenVINO is not installed, or cannot read the model.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        source, graph = Path(scratch, "m.onnx"), Path(scratch, "m.xml")
        dense.export(request, source)
        openvino = _openvino()
        try:
            model = openvino.Core().read_model(source)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ExportError(f"OpenVINO cannot read the model: {reason}; use the format onnx") from error
        _rename(model)
        openvino.save_model(model, graph, compress_to_fp16=False)
        texts, weights = graph.read_bytes(), graph.with_suffix(".bin").read_bytes()
    # The weights first: whoever sees the new graph sees them too.
    write_atomically(path.with_suffix(".bin"), lambda file: file.write_bytes(weights))
    write_atomically(path, lambda file: file.write_bytes(texts))
    return describe(path, "openvino", path.with_suffix(".bin"))


def load(path: Path) -> "Predict":
    """Run a written file on the CPU, in float32.

    Raises:
        ExportError: OpenVINO is not installed, or refuses the file.
    """
    openvino = _openvino()
    try:
        model = openvino.Core().read_model(path)
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(f"OpenVINO refuses {path}: {reason}; export it again") from error
    entry = compiled.inputs[0]
    batch = entry.partial_shape[0]

    def predict(images: Array) -> Array:
        feed = images.astype(np.float32)
        if entry.element_type == openvino.Type.u8:
            feed = as_pixels(feed, _normalisation(model))
        size = batch.get_length() if batch.is_static else len(feed)
        return in_batches(lambda part: np.asarray(compiled(part)[0]), feed, size)

    return predict


def _openvino() -> Any:
    """The package, without its telemetry: that one asks nobody, and leaves an identifier in the home folder."""
    if package not in sys.modules:
        sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # how Python marks what must not be imported
    return installed(package, "openvino")


def _rename(model: Any) -> None:
    """Name inner operators by their place: OpenVINO numbers them through the life of the process."""
    for i, operator in enumerate(model.get_ordered_ops()):
        if operator.get_type_name() not in ("Parameter", "Result"):
            operator.set_friendly_name(f"{operator.get_type_name()}_{i}")


def _normalisation(model: Any) -> Any:
    """Mean and standard deviation, from the metadata of the ONNX graph that it was made from."""
    return [json.loads(model.get_rt_info(["framework", key]).astype(str)) for key in ("input_mean", "input_std")]
