"""ExecuTorch (.pte), for phones and microcontroller-class devices that run PyTorch's own edge runtime.

The model goes through `torch.export`, without ONNX; what the XNNPACK library computes is handed to it, the rest runs
on portable kernels. The input is float32 and normalised, of a fixed batch: one image where the batch is "dynamic",
because ExecuTorch plans its memory ahead.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress_exporters._quiet import quiet, reason
from compress_exporters.artifact import Artifact, ExportError, Request, describe, installed, write_atomically
from compress_exporters.onnx import _check, _on_cpu
from compress_exporters.runtimes import executorch as runtime

if TYPE_CHECKING:
    from compress_exporters.artifact import Predict

suffix = runtime.suffix
package = "executorch"


def export(request: Request, path: Path) -> Artifact:
    """Write the model as an ExecuTorch program.

    Args:
        request: raw pixels are not for ExecuTorch; a note says how the input is to be fed.
        path: the file.

    Raises:
        ExportError: the model is in training mode or cannot be exported; ExecuTorch is not installed.
    """
    _check(request)
    data = _program(request)
    write_atomically(path, lambda file: file.write_bytes(data))
    batch = 1 if request.batch == "dynamic" else request.batch
    note = f"The input is a normalised float32 tensor of {batch} x {' x '.join(map(str, request.input_shape))}."
    return describe(path, "executorch", notes=(note,))


def load(path: Path) -> "Predict":
    """Run a written file with ExecuTorch's Python runtime.

    Raises:
        ExportError: ExecuTorch is not installed, or refuses the file.
    """
    prepare = runtime.start(path)
    return lambda images: prepare(images)()


def _program(request: Request) -> bytes:
    """The program's bytes."""
    batch = 1 if request.batch == "dynamic" else request.batch
    with quiet(), torch.no_grad():
        lower = _installed("executorch.exir").to_edge_transform_and_lower
        partitioner = _installed("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
        try:
            exported = torch.export.export(_on_cpu(request.model), (torch.zeros(batch, *request.input_shape),))
            return bytes(lower(exported, partitioner=[partitioner()]).to_executorch().buffer)
        except Exception as error:  # the exporter's own errors share no narrower base
            raise ExportError(f"ExecuTorch cannot export the model: {reason(error)}; use the format onnx") from error


def _installed(module: str) -> Any:
    return installed(module, "executorch")
