"""An ONNX file from anyone, made ready for the formats that compute in fewer bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.inliner import inline_local_functions

from compress_exporters.artifact import ExportError

LISTED_ONLY = 4
"""From this version of the file format on an initialiser need not be listed among the inputs."""


def given(onnx_path: Path, format: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The file with every weight as an initialiser that no caller can replace, and without functions of its own.

    Args:
        onnx_path: a self-contained ONNX file.
        format: name of the exporter, for the message.

    Returns:
        The model, and notes for its user.

    Raises:
        ExportError: it is quantised already, or has control flow.
    """
    model = onnx.load(onnx_path)
    notes = defaults_note(model)
    if model.functions:
        model = inline_local_functions(model)
    for node in model.graph.node:
        if "Quantize" in node.op_type or node.op_type.endswith("Integer") or node.op_type.startswith("QLinear"):
            raise ExportError(
                f"the file is quantised already ({node.op_type}); make {format} of the floating-point file"
            )
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(f"the file has control flow ({node.op_type}), which {format} cannot follow; use onnx")
    _hold_constants(model.graph)
    hold_defaults(model)
    return model, notes


def defaults_note(model: onnx.ModelProto) -> tuple[str, ...]:
    """What a user must know where inputs with default values become constants; empty where there are none.

    Before version 4 of the file format every initialiser had to be listed, and none could be replaced.
    """
    names = [value.name for value in model.graph.input if value.name in _held(model.graph)]
    if not names or model.ir_version < LISTED_ONLY:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"Inputs with default values became constants, and can no longer be fed: {', '.join(names[:3])}{more}.",)


def hold_defaults(model: onnx.ModelProto) -> None:
    """Take the initialisers from among the inputs."""
    inputs = [value for value in model.graph.input if value.name not in _held(model.graph)]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, LISTED_ONLY)


def _held(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def _hold_constants(graph: onnx.GraphProto) -> None:
    """Constant operators become initialisers."""
    nodes = []
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type != "Constant" or value is None or node.output[0] in outputs:
            nodes.append(node)
            continue
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def refusing(format: str) -> Iterator[None]:
    """Say in one sentence what stopped a conversion: the tools for it fail in ways of their own."""
    try:
        yield
    except (ExportError, MemoryError, OSError):
        raise
    except Exception as error:  # the runtime's and its tools' errors share no base but Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(f"the file cannot be written as {format}: {reason}; use the format onnx") from error
