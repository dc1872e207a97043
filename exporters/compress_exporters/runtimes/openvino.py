"""Runs OpenVINO IR on the CPU."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from compress_exporters._images import Array, as_pixels, batches
from compress_exporters.artifact import ExportError, installed
from compress_exporters.runtimes import Run, Start

suffix = ".xml"

TELEMETRY = "openvino_telemetry"


def package() -> Any:
    """OpenVINO without its telemetry: that one asks nobody, and leaves an identifier in the home folder.

    Raises:
        ExportError: it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # how Python marks what must not be imported
    return installed("openvino", "openvino")


def version() -> str:
    """Name and version."""
    return f"OpenVINO {package().__version__.partition('-')[0]}"


def start(path: Path, threads: int = 1) -> Start:
    """Open a file, to compute in float32 whatever the processor prefers.

    Raises:
        ExportError: OpenVINO is not installed, or refuses the file.
    """
    openvino = package()
    how = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # else it waits for whoever else is on its core; other runtimes do not pin
    }
    try:
        model = openvino.Core().read_model(path)
        compiled = openvino.Core().compile_model(model, "CPU", how)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(f"OpenVINO refuses {path}: {reason}; export it again") from error
    entry = compiled.inputs[0]
    batch = entry.partial_shape[0]

    def prepare(images: Array) -> Run:
        feed = images.astype(np.float32)
        if entry.element_type == openvino.Type.u8:
            feed = as_pixels(feed, _normalisation(model))
        parts = batches(feed, batch.get_length() if batch.is_static else len(feed))
        return lambda: np.concatenate([compiled(part, share_inputs=True)[0] for part in parts])[: len(feed)]

    return prepare


def _normalisation(model: Any) -> Any:
    """Mean and standard deviation, from the metadata of the ONNX graph that it was made from."""
    return [json.loads(model.get_rt_info(["framework", key]).astype(str)) for key in ("input_mean", "input_std")]
