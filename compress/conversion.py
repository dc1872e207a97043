"""An ONNX file as further formats, each compared with the file that it was made from."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compress.data import Data
from compress.errors import UsageError
from compress.foreign import PARITY_BATCHES, TestBatches, session_for, takes_nhwc
from compress.onnx_file import OnnxFile, open_onnx, predict_all, session
from compress.onnx_import.inputs import Input, draw
from compress.onnx_parity import BATCHES, SEEDS, answers, floors_of, random_parity
from compress.validate import Parity, file_parity
from compress_exporters import Artifact, ExportError, Format, find

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RANDOM_IMAGES = 50
RANDOM_NUMBERS = 2**24
"""At most, where a format looks at values on images and there are none."""

CALIBRATION_BATCH = 100
CALIBRATION_BATCHES = 5
"""Training images that formats may choose ranges of numbers by: 500."""


def found(format: str) -> Format:
    """The module of a format.

    Raises:
        UsageError: no such format.
    """
    try:
        return find(format)
    except ExportError as error:
        raise UsageError(str(error)) from None


def check(formats: Sequence[str], file: Path, *, images: bool) -> None:
    """Refuse, before any work, formats that cannot be made of an ONNX file.

    Args:
        formats: by name.
        file: for the message.
        images: whether there are some to calibrate by.

    Raises:
        UsageError: no such format, one that needs the PyTorch model, or one that needs images.
    """
    for name in formats:
        exporter = found(name)
        if name != "onnx" and not hasattr(exporter, "convert"):
            raise UsageError(f"format {name} is made from a PyTorch model, and {file} is an ONNX file")
        if getattr(exporter, "calibrates", False) and not images:
            raise UsageError(f"format {name} chooses its ranges of numbers by images; give them with --data")


def convert(
    format: str, source: Path, path: Path, opened: OnnxFile, inputs: Sequence[Input], data: Data | None
) -> Artifact:
    """Write an ONNX file as another format.

    Args:
        format: one that `check` has passed.
        source: a self-contained ONNX file.
        path: the file to write.
        opened: a file of the same inputs.
        inputs: with their sizes settled.
        data: images to calibrate by; without them random ones of these sizes are given.

    Raises:
        ExportError: the file cannot be converted.
        UsageError: the images do not fit the file.
    """
    exporter = found(format)
    images = _calibration(opened, data) if data else _random(inputs)
    return exporter.convert(source, path, calibration=images)


def runtime(path: Path, data: Data | None) -> "InferenceSession":
    """A session; a file that takes raw pixels is told how they are normalised where it does not say."""
    return session_for(open_onnx(path), data) if data and path.suffix == ".onnx" else session(path)


def given_answers(opened: OnnxFile, inputs: Sequence[Input], data: Data | None) -> tuple[float, ...]:
    """Run the given file, before anything is made of it, on what its conversions will be compared on.

    Args:
        opened: the file.
        inputs: with their sizes settled.
        data: images, where there are some.

    Returns:
        For each output, what its tolerance is at least; see `compress.onnx_parity.floors_of`.

    Raises:
        UsageError: it does not run on them, or gives what is no number.
    """
    if data:
        check_images(opened, data)
    model = opened.model.SerializeToString()
    run = answers(session(model))
    known = [(feeds, run(feeds)) for feeds in (draw(inputs, BATCHES[0], seed) for seed in SEEDS)]
    if data is None and not all(np.isfinite(a).all() for _, outputs in known for a in outputs if a.dtype.kind == "f"):
        raise UsageError(
            f"{opened.path}: an output is infinite or no number on random inputs; give images to compare on with --data"
        )
    return floors_of(model, known)


def check_images(opened: OnnxFile, data: Data) -> None:
    """Refuse images that the file does not take, before any work.

    Raises:
        UsageError: it does not run on the first test image.
    """
    images, _ = next(iter(TestBatches(data, takes_nhwc(opened, data))))
    predict_all(session_for(opened, data), images[:1].cpu().numpy())


def compare(
    other: Path,
    given: Path,
    opened: OnnxFile,
    inputs: Sequence[Input],
    data: Data | None,
    *,
    dtype: str,
    floors: Sequence[float] = (),
) -> Parity:
    """Parity of all outputs of a file with the one that it was made from: on test images, else on random inputs.

    Args:
        other: the file under test.
        given: the reference.
        opened: a file of the same inputs.
        inputs: with their sizes settled.
        data: images, where there are some.
        dtype: the least precise type computed in.
        floors: as for `random_parity`.

    Raises:
        UsageError: a file does not run, or the images do not fit it.
    """
    if data:
        batches = islice(TestBatches(data, takes_nhwc(opened, data)), PARITY_BATCHES)
        return file_parity(runtime(other, data), runtime(given, data), batches, dtype=dtype, floors=floors)
    return random_parity(answers(session(given)), answers(session(other)), inputs, dtype=dtype, floors=floors)


def calibration_images(data: Data) -> Tensor:
    """Normalised training images on the CPU, shape (n, C, H, W)."""
    return torch.cat([x.cpu() for x, _ in islice(data.train.batches(CALIBRATION_BATCH), CALIBRATION_BATCHES)])


def _random(inputs: Sequence[Input]) -> Any:
    """Random images for a file of one input, where no others are known."""
    if len(inputs) != 1:
        return None
    count = max(1, min(RANDOM_IMAGES, RANDOM_NUMBERS // math.prod(size or 1 for size in inputs[0].shape)))
    (images,) = draw([replace(inputs[0], shape=(None, *inputs[0].shape[1:]))], count, 0).values()
    return images


def _calibration(opened: OnnxFile, data: Data) -> Any:
    """Training images as the file takes them."""
    if opened.inputs[0].dtype != "uint8":
        images = calibration_images(data)
        return images.permute(0, 2, 3, 1) if takes_nhwc(opened, data) else images
    stored = data.train.raw(0, CALIBRATION_BATCH * CALIBRATION_BATCHES)
    if stored is None:
        raise UsageError(f"{opened.path} takes 8-bit pixels; those of data {data.name} are not")
    return torch.tensor(stored[0])
