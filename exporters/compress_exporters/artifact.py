"""What is asked of an exporter and what it gives back."""

import hashlib
import importlib.util
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

Predict = Callable[["npt.NDArray[np.float32]"], "npt.NDArray[np.float32]"]
"""Outputs for normalised images, both with the batch first, as float32."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels scaled to 0..1."""

_CHUNK = 1 << 20


class ExportError(ValueError):
    """The model cannot be written as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Request:
    """A model to write and the form to write it in.

    Attributes:
        model: in evaluation mode; takes images (batch, C, H, W), gives one tensor.
        input_shape: (C, H, W).
        batch: a fixed batch size, or "dynamic".
        opset: version of the ONNX operator set.
        normalisation: None for an input that is float32 NCHW and already normalised. With mean and standard
            deviation the graph's input is uint8 NHWC raw pixels, and the graph itself casts, divides by 255,
            normalises and transposes.
        metadata: written into the file, text to text.
        calibration: normalised training images (n, C, H, W), for formats that choose ranges of numbers by them.
    """

    model: "nn.Module"
    input_shape: tuple[int, int, int]
    batch: int | Literal["dynamic"] = 1
    opset: int = 18
    normalisation: Normalisation | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    calibration: "Tensor | None" = None


@dataclass(frozen=True)
class Artifact:
    """A written file.

    Attributes:
        path: where it is.
        format: name of the exporter.
        size_bytes: of the file, and of its weights where they are in a file of their own.
        size_zip_bytes: of the same, deflated.
        sha256: of the file, hexadecimal.
        opset: ONNX operator set, None for a format without one.
        min_ort: oldest ONNX Runtime that loads it, "1.14" for instance; None where it is not for that.
        dtype: what it computes in; decides how far its outputs may be from PyTorch's.
        notes: what a user must know of this file, one sentence each.
    """

    path: Path
    format: str
    size_bytes: int
    size_zip_bytes: int
    sha256: str
    opset: int | None = None
    min_ort: str | None = None
    dtype: str = "float32"
    notes: tuple[str, ...] = ()


def describe(path: Path, format: str, weights: Path | None = None, **known: Any) -> Artifact:
    """Measure a written file, reading it once.

    Args:
        path: the file.
        format: name of the exporter.
        weights: a file without which it is of no use, counted with it.
        known: what else is known of it, by name.
    """
    size, packed, digest = _measure(path)
    if weights is not None:
        more, more_packed, _ = _measure(weights)
        size, packed = size + more, packed + more_packed
    return Artifact(path, format, size, packed, digest, **known)


def _measure(path: Path) -> tuple[int, int, str]:
    """Bytes, bytes deflated, and SHA-256 of a file."""
    digest = hashlib.sha256()
    deflate = zlib.compressobj()
    size = packed = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            packed += len(deflate.compress(chunk))
    return size, packed + len(deflate.flush()), digest.hexdigest()


def installed(package: str, extra: str) -> Any:
    """An optional package.

    Args:
        package: its module.
        extra: name of the extra that installs it.

    Raises:
        ExportError: it is not installed; the command is given.
    """
    check_installed(package, extra)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(f"the package {package} is here and cannot be imported: {error}; install it again") from error


def check_installed(package: str, extra: str) -> None:
    """Refuse a format whose package is not there, without importing it.

    Raises:
        ExportError: with the command that installs it.
    """
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        raise ExportError(
            f"the format {extra} needs the package {package}, and it is not installed; "
            f"run: pip install 'compress-edge[{extra}]'"
        )


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then give it its name: no reader ever sees half a file."""
    with scratch_beside(path) as scratch:
        write(scratch)
        # mkstemp makes the file private; a delivered file gets what the user's umask allows.
        mask = os.umask(0)
        os.umask(mask)
        scratch.chmod(0o666 & ~mask)
        os.replace(scratch, path)
