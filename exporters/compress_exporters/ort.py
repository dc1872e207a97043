"""ONNX Runtime's own format, for builds reduced to the operators that one model needs (phones, small devices).

The graph is optimised when the file is written, not when it is loaded: a reduced build has no optimiser. Beside it
`.required_operators.config` lists the operators, for `--include_ops_by_config` of ONNX Runtime's build script.
ONNX Runtime writes one table of the file in the order of a randomly seeded hash: the same model does not give the same
bytes twice.
"""

import tempfile
from pathlib import Path

import onnx
import onnxruntime

from compress_exporters import onnx as dense
from compress_exporters._calibration import import_path_kept
from compress_exporters._quiet import quiet
from compress_exporters._versions import min_ort, opset_of
from compress_exporters.artifact import Artifact, ExportError, Request, describe, write_atomically

suffix = ".ort"
companions = (".required_operators.config",)

FORMAT_SINCE = {5: (1, 13), 6: (1, 16)}
"""First release of ONNX Runtime that reads a version of the format.

Source: "ORT model format", onnxruntime.ai/docs/performance/model-optimizations, for 5; for 6, which that page leaves
out, microsoft/onnxruntime issue 20670.
"""


def export(request: Request, path: Path) -> Artifact:
    """Write the model in ORT format, and the operators that it needs beside it.

    Raises:
        ExportError: as `compress_exporters.onnx.export`; or ONNX Runtime cannot convert it.
    """
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        source = Path(scratch, "m.onnx")
        dense.export(request, source)
        return convert(source, path)


def convert(onnx_path: Path, path: Path, calibration: object = None) -> Artifact:
    """Write an ONNX file in ORT format, and the operators that it needs beside it.

    Args:
        onnx_path: a self-contained ONNX file.
        path: the file to write.
        calibration: not needed.

    Raises:
        ExportError: ONNX Runtime cannot convert it.
    """
    model = onnx.load(onnx_path)
    opset, oldest = opset_of(model), min_ort(opset_of(model), model.ir_version)
    with tempfile.TemporaryDirectory(prefix="compress.") as scratch:
        converted = Path(scratch, "m.ort")
        _optimise(onnx_path, converted)
        operators, version = _read(converted)
        data = converted.read_bytes()
    write_atomically(path, lambda file: file.write_bytes(data))
    config = path.with_name(path.name.removesuffix(suffix) + companions[0])
    write_atomically(config, lambda file: file.write_text(operators))
    return describe(path, "ort", opset=opset, min_ort=_newer(oldest, version))


def _optimise(source: Path, converted: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The level above is for one processor's caches: blocked layouts that another one could not run.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(converted)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base but Exception
        reason = str(error).splitlines()[0]
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot convert the model: {reason}") from error


def _read(converted: Path) -> tuple[str, int]:
    """Lines "domain;opset;operator,operator" of all that a model runs, and the version of its format."""
    with import_path_kept():
        from onnxruntime.tools.ort_format_model.ort_model_processor import OrtFormatModelProcessor, fbs
    found: dict[str, dict[int, set[str]]] = {}
    with quiet():  # it leaves the file open, which Python warns of
        OrtFormatModelProcessor(str(converted), found, None).process()
    lines = [
        f"{domain};{opset};{','.join(sorted(found[domain][opset]))}\n"
        for domain in sorted(found)
        for opset in sorted(found[domain])
    ]
    root = fbs.InferenceSession.InferenceSession.GetRootAsInferenceSession(converted.read_bytes(), 0)
    return "".join(lines), int(root.OrtVersion())


def _newer(model: str | None, version: int) -> str:
    """The later of the releases that read the model and the version of the format; unknown ones need this release.

    >>> _newer("1.14", 6), _newer("1.18", 6), _newer("1.14", 5)
    ('1.16', '1.18', '1.14')
    """
    installed = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    needed = tuple(int(part) for part in (model or "0.0").split("."))
    return ".".join(map(str, max(needed, FORMAT_SINCE.get(version, installed))))
