"""Runs ncnn's files on the CPU, one image after the other."""

from pathlib import Path
from typing import Any

import numpy as np

from compress_exporters._images import Array
from compress_exporters.artifact import ExportError, installed
from compress_exporters.runtimes import Run, Start

suffix = ".ncnn.param"
WEIGHTS = ".ncnn.bin"


def version() -> str:
    """Name and version."""
    return f"ncnn {installed('ncnn', 'ncnn').__version__}"


def start(path: Path, threads: int = 1) -> Start:
    """Open a file, to compute in float32.

    Raises:
        ExportError: ncnn is not installed, or refuses the file.
    """
    ncnn = installed("ncnn", "ncnn")
    net = ncnn.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = threads
    if not path.is_file() or not weights_of(path).is_file():
        raise ExportError(f"{path} and {weights_of(path).name} are not both there; export the model again")
    if net.load_param(str(path)) or net.load_model(str(weights_of(path))):
        raise ExportError(f"ncnn refuses {path}: it has an operator that ncnn does not know, or is damaged")

    def answer(image: Array, mat: Any) -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", mat)
        status, output = extractor.extract("out0")
        if status:
            raise ExportError(f"ncnn cannot run {path} on an image of shape {image.shape}; export the model again")
        found = np.array(output)
        # A row of numbers keeps the batch of one that pnnx traced, where the network flattens its input itself.
        return found[0] if found.ndim == 2 and len(found) == 1 else found

    def prepare(images: Array) -> Run:
        # A Mat points into its array, which must live as long as it.
        held = [np.ascontiguousarray(image, np.float32) for image in images]
        mats = [(image, ncnn.Mat(image)) for image in held]
        return lambda: np.stack([answer(image, mat) for image, mat in mats])

    return prepare


def weights_of(path: Path) -> Path:
    """The file of the weights."""
    return path.with_name(path.name.removesuffix(suffix) + WEIGHTS)
