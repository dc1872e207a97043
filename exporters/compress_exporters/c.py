"""C99: one self-contained file and its header, no heap and no dependency, for microcontrollers and anything else.

Zeros cost nothing: weights are stored sparse where that is smaller, and only those are walked, a vector of columns
of an output row at a time. Working memory is one arena that the caller provides; its size is in the header. One
image at a time, float32, normalised, channels first.

    cc -std=c99 -O3 -march=native -ffp-contract=fast -c model.c
"""

from pathlib import Path

import onnx

from compress_exporters import onnx as dense
from compress_exporters._c.host import predict
from compress_exporters._c.source import source_of
from compress_exporters.artifact import Artifact, Predict, Request, describe, scratch_beside, write_atomically

suffix = ".c"
companions = (".h",)
compares = True


def export(request: Request, path: Path) -> Artifact:
    """Write the model as C; a batch or raw pixels asked for are left out: C takes one normalised image.

    Raises:
        ExportError: as `compress_exporters.onnx.export`, or an operator has no C; it is named.
    """
    with scratch_beside(path) as scratch:
        dense.export(Request(request.model, request.input_shape, 1, request.opset), scratch)
        model = onnx.load(scratch)
    return write(model, request, path, "float32")


def write(model: onnx.ModelProto, request: Request, path: Path, dtype: str, notes: tuple[str, ...] = ()) -> Artifact:
    """Write a graph of batch 1 as C.

    Args:
        model: the graph.
        request: that it was made for.
        path: of the .c file.
        dtype: what it computes in.
        notes: what is known of it.
    """
    title = (
        f"{request.metadata.get('producer', 'compress')}: a network as C, see the functions at the end of the .c file"
    )
    source = source_of(model, path, title=title.replace("*/", ""))
    write_atomically(path.with_suffix(".h"), lambda file: file.write_text(source.header, "utf-8"))
    write_atomically(path, lambda file: file.write_text(source.code, "utf-8"))
    note = f"working memory {4 * source.arena} bytes; {source.macs} multiply-accumulates"
    return describe(path, "c" if dtype == "float32" else "c-int8", dtype=dtype, notes=(note, *notes))


def load(path: Path) -> Predict:
    """Compile the file with this machine's compiler.

    Raises:
        ExportError: there is none, or it refuses the file.
    """
    return predict(path)
