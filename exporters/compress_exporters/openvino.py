"""OpenVINO IR, for Intel processors, integrated GPUs and NPUs: a graph (.xml) and its weights (.bin).

Weights stay float32. A device may still compute in less: a processor with bfloat16 units does so unless it is compiled
with INFERENCE_PRECISION_HINT "f32", as `load` does.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exporters import onnx as dense
from compress_exporters.artifact import Artifact, ExportError, Request, describe, write_atomically
from compress_exporters.runtimes import openvino as runtime

if TYPE_CHECKING:
    from compress_exporters.artifact import Predict

suffix = runtime.suffix
companions = (".bin",)
package = "openvino"


def export(request: Request, path: Path) -> Artifact:
    """Write the model as OpenVINO IR, the weights beside it as .bin.

    Raises:
        ExportError: as `compress_exporters.onnx.export`; OpenVINO is not installed, or cannot read the model.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        source, graph = Path(scratch, "m.onnx"), Path(scratch, "m.xml")
        dense.export(request, source)
        openvino = runtime.package()
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
    prepare = runtime.start(path)
    return lambda images: prepare(images)()


def _rename(model: Any) -> None:
    """Name inner operators by their place: OpenVINO numbers them through the life of the process."""
    for i, operator in enumerate(model.get_ordered_ops()):
        if operator.get_type_name() not in ("Parameter", "Result"):
            operator.set_friendly_name(f"{operator.get_type_name()}_{i}")
