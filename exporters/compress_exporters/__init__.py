"""Files a pruned network ships as: one module per output format, and the folder is the table.

A module ``foo_bar.py`` is the format ``foo-bar``. Its docstring's first line describes it, ``suffix`` ends its files'
names, and ``export(request, path) -> Artifact`` writes one. A format that ONNX Runtime does not read has
``load(path)`` as well, which runs a written file in the runtime that it is for; `compress_exporters.runtimes` has those
that are called from Python.
"""

import ast
import importlib
import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

# ONNX Runtime's wheel writes telemetry files unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from torch import Tensor

    from compress_exporters.artifact import Artifact, ExportError, Predict, Request

__all__ = ["Artifact", "ExportError", "Format", "Request", "find", "formats"]


class Format(Protocol):
    """What a format's module offers."""

    suffix: str
    """End of the file name, ``.onnx`` for instance."""
    companions: tuple[str, ...]
    """Ends of the names of further files beside it, ``(".h",)`` for instance; left out where there are none."""
    package: str
    """Module of the optional package that it needs, installed by the extra named as the format; left out elsewhere."""
    calibrates: bool
    """True where `convert` needs calibration images; left out elsewhere."""
    compares: bool
    """True where the unpruned network is written as well, because targets compare the two; left out elsewhere."""

    def export(self, request: "Request", path: Path) -> "Artifact":
        """Write the file.

        Raises:
            ExportError: the model cannot be written as asked.
        """

    def convert(self, onnx_path: Path, path: Path, calibration: "Tensor | None" = None) -> "Artifact":
        """Write the file from an ONNX file of anyone's; left out where only a PyTorch model will do.

        Args:
            onnx_path: a self-contained ONNX file that ONNX Runtime loads.
            path: the file to write.
            calibration: normalised images in the layout that the file takes, for formats that choose ranges of
                numbers by them.

        Raises:
            ExportError: the file cannot be converted.
        """

    def load(self, path: Path) -> "Predict":
        """Run a written file in its own runtime; left out where that is ONNX Runtime.

        Raises:
            ExportError: the runtime is not here, or refuses the file.
        """


def formats() -> dict[str, str]:
    """Every format with the first line of its description, read without importing the format.

    >>> {"onnx", "sparse"} <= set(formats())
    True
    """
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        if file.stem != "artifact":
            text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
            found[file.stem.replace("_", "-")] = text.partition("\n")[0]
    return found


def find(format: str) -> Format:
    """The module of a format.

    Raises:
        ExportError: no such format; the nearest names are given.
    """
    from compress_exporters.artifact import ExportError

    known = list(formats())
    if format not in known:
        close = get_close_matches(format, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
        raise ExportError(f"no export format {format!r}; {hint}")
    return cast(Format, importlib.import_module(f"{__name__}.{format.replace('-', '_')}"))


def __getattr__(name: str) -> Any:
    if name in ("Artifact", "ExportError", "Request"):
        return getattr(importlib.import_module("compress_exporters.artifact"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
