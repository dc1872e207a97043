"""Runs ExecuTorch programs with its Python runtime."""

import contextlib
import os
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np

from compress_exporters._images import Array, batches
from compress_exporters._quiet import quiet, reason
from compress_exporters.artifact import ExportError, installed
from compress_exporters.runtimes import Run, Start

suffix = ".pte"
private_memory = False


def version() -> str:
    """Name and version."""
    with quiet():
        installed("executorch.runtime", "executorch")
    return f"ExecuTorch {version_of('executorch')}"


def start(path: Path, threads: int = 1) -> Start:
    """Open a program.

    Raises:
        ExportError: ExecuTorch is not installed, or refuses the file.
    """
    try:
        with quiet(), _no_standard_error():
            runtime = installed("executorch.runtime", "executorch").Runtime.get()
            bindings = installed("executorch.extension.pybindings.portable_lib", "executorch")
            bindings._unsafe_reset_threadpool(threads)  # "unsafe" while a program runs, and none does
            # From bytes: the runtime says no more of a missing file than that it failed.
            program = runtime.load_program(path.read_bytes())
            size = program.load_method("forward").metadata.input_tensor_meta(0).sizes()[0]
    except (RuntimeError, OSError, KeyError) as error:
        raise ExportError(f"ExecuTorch refuses {path}: {reason(error)}; export it again") from error
    torch = installed("torch", "executorch")

    def prepare(images: Array) -> Run:
        # Asked of the program each time, which keeps its methods: a method alone outlives the memory it runs in.
        parts = [[torch.from_numpy(part)] for part in batches(images.astype(np.float32), size)]
        return lambda: np.concatenate([program.load_method("forward").execute(p)[0].numpy().copy() for p in parts])[
            : len(images)
        ]

    return prepare


@contextlib.contextmanager
def _no_standard_error() -> Iterator[None]:
    """The runtime's libraries write past Python to the process's standard error, about the processor for instance."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
