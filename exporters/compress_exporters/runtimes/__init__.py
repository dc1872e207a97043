"""Runtimes beside ONNX Runtime: one module for each format that needs one, and the folder is the table.

A module has the format's name. ``suffix`` ends its files' names, ``version()`` names the runtime, and ``start(path,
threads)`` opens a file. Nothing but numpy and the runtime's own package is imported there, so that a process that
measures a file holds nothing else.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Run = Callable[[], "npt.NDArray[np.float32]"]
"""Answers to the images that it was made for; all that is timed."""

Start = Callable[["npt.NDArray[Any]"], Run]
"""For normalised images, float32 NCHW, what runs the network on them once."""


class Runtime(Protocol):
    """What a module offers."""

    suffix: str
    """End of the file name."""
    private_memory: bool
    """False where Python's package of the runtime brings much that a program on a device does not; else left out."""

    def version(self) -> str:
        """Name and version.

        Raises:
            ExportError: it is not installed.
        """

    def start(self, path: Path, threads: int) -> Start:
        """Open a written file on the CPU, to compute in float32.

        Args:
            path: the file.
            threads: that one operator may use.

        Raises:
            ExportError: the runtime is not installed, or refuses the file.
        """


def modules() -> dict[str, str]:
    """Name of the module for each suffix.

    >>> modules()[".xml"]
    'compress_exporters.runtimes.openvino'
    """
    names = [f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__)]
    return {cast(Runtime, importlib.import_module(name)).suffix: name for name in names}
