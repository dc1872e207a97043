"""Networks, finished runs and ONNX files as any format; checkpoints compacted and validated: no training, no recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import conversion
from compress.checkpoint import attributes_of, delivered, load_network, load_weights
from compress.cost import nonzero_count, weight_count
from compress.data import Data, load
from compress.errors import GateError, UsageError
from compress.foreign import PARITY_BATCHES
from compress.onnx_file import open_onnx, session
from compress.onnx_import.inputs import inputs_of
from compress.pipeline import data_of, request
from compress.progress import Display
from compress.recipe import ExportSection
from compress.recipe_text import build, read
from compress.report.formats import size
from compress.run import Run
from compress.run_directory import RunDirectory, writing
from compress.validate import Parity, parity
from compress_exporters import Artifact, ExportError, Request
from compress_models import WeightsError

RANDOM_IMAGES = 16
_BATCH = 250


@dataclass(frozen=True)
class Question:
    """What to work on, and how a file of it is to be written.

    Attributes:
        spec: of a model, the directory of a finished run, or an ONNX file.
        weights: file of weights, for a model.
        input_shapes: "3,224,224" for a model, "NAME=1,3,224,224" for inputs that an ONNX file leaves open.
        assignments: "model.options.KEY=VALUE".
        data: data set spec, for parity on images and for formats that calibrate.
        data_root: where downloaded data sets live.
        form: keys of the recipe's export section that are asked for; a run's own, or the defaults, for the others.
    """

    spec: str
    weights: Path | None = None
    input_shapes: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    data: str | None = None
    data_root: Path | None = None
    form: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Written:
    """A file with its parity: with PyTorch, or with the ONNX file that it was made from."""

    artifact: Artifact
    parity: Parity

    @property
    def line(self) -> str:
        """One line for a person."""
        found, limit = self.parity.max_abs, self.parity.tolerance
        error = "an output is not finite" if found is None else f"max error {found:.3g}, tolerance {limit:.3g}"
        verdict = "passed" if self.parity.passed else "failed"
        said = f"{self.artifact.path}: {size(self.artifact.size_bytes)}; parity {verdict}: {error}"
        agreement = self.parity.top1_agreement
        # fewer bits round on purpose: how far says less than how often it matters
        same = "" if agreement is None or self.artifact.dtype == "float32" else f", same class for {agreement:.2%}"
        return f"{said}{same} on {self.parity.samples:,} inputs"


def is_onnx(spec: str) -> bool:
    """Whether a command's argument names an ONNX file and not a model."""
    return spec.lower().endswith(".onnx") or (Path(spec).is_file() and not spec.endswith(".py"))


def export(asked: Question, formats: Sequence[str], out: Path) -> list[Written]:
    """Write a network, a finished run's network or an ONNX file as every format asked for.

    Args:
        asked: what, and how.
        formats: by name.
        out: folder of the files.

    Raises:
        UsageError: it cannot be loaded, a format cannot be made of it, or the folder cannot be written to.
        RunError: the disk is full.
        GateError: a file does not compute what it was made from; it is written, and named.
    """
    try:
        with writing(out):
            written = _from_onnx(asked, formats, out) if is_onnx(asked.spec) else _from_network(asked, formats, out)
    except (ExportError, WeightsError) as error:
        raise UsageError(str(error)) from None
    if not all(one.parity.passed for one in written):
        raise GateError("\n".join(one.line for one in written))
    return written


def _from_onnx(asked: Question, formats: Sequence[str], out: Path) -> list[Written]:
    file = Path(asked.spec)
    if asked.weights or asked.assignments or asked.form:
        raise UsageError(
            f"{file} is an ONNX file; weights, options, opset, batch and input type are the model's to say"
        )
    wanted = [name for name in dict.fromkeys(formats) if name != "onnx"]
    if not wanted:
        raise UsageError(f"{file} is an ONNX file already; name other formats, for example --format sparse")
    conversion.check(wanted, file, images=asked.data is not None)
    opened = open_onnx(file)
    if opened.scattered:
        raise UsageError(f"{file} keeps tensors in other files; make it one file with onnx.save(onnx.load(...))")
    inputs = inputs_of(opened, None, asked.input_shapes)
    data = load(asked.data, root=asked.data_root, held_out=0) if asked.data else None
    paths = {name: _free(out / f"{file.stem}{conversion.found(name).suffix}") for name in wanted}
    floors = conversion.given_answers(opened, inputs, data)
    written = []
    for name, path in paths.items():
        artifact = conversion.convert(name, file, path, opened, inputs, data)
        parity = conversion.compare(path, file, opened, inputs, data, dtype=artifact.dtype, floors=floors)
        written.append(Written(artifact, parity))
    return written


def _from_network(asked: Question, formats: Sequence[str], out: Path) -> list[Written]:
    exporters = {name: conversion.found(name) for name in dict.fromkeys(formats)}
    paths = {name: _free(out / f"model{exporter.suffix}") for name, exporter in exporters.items()}
    wanted, data = _request(asked)
    for name, exporter in exporters.items():
        if getattr(exporter, "calibrates", False) and data is None:
            raise UsageError(f"format {name} chooses its ranges of numbers by images; give them with --data")
    images = _images(wanted, data)
    written = []
    for name, exporter in exporters.items():
        artifact = exporter.export(wanted, paths[name])
        opened = session(artifact.path) if artifact.min_ort else exporter.load(artifact.path)
        written.append(Written(artifact, parity(opened, wanted.model, images(), dtype=artifact.dtype)))
    return written


def _free(path: Path) -> Path:
    """The path, unless it is a file that a run's report tells of."""
    if path.exists() and (path.parent / "report.json").exists():
        raise UsageError(f"{path} belongs to a run, whose report tells of it; choose another --out")
    return path


def _images(wanted: Request, data: Data | None) -> Any:
    """What gives batches to compare on: test images, or random ones."""
    if data:
        return lambda: islice(data.test.batches(_BATCH), PARITY_BATCHES)
    generator = torch.Generator().manual_seed(0)
    return lambda: [(torch.randn(RANDOM_IMAGES, *wanted.input_shape, generator=generator), None)]


def _request(asked: Question) -> tuple[Request, Data | None]:
    """What exporters are asked for, and the data where some are known."""
    if Path(asked.spec).is_dir():
        return _request_of_run(asked)
    data = load(asked.data, root=asked.data_root, held_out=0) if asked.data else None
    model, shape = network(asked, data)
    form = _form({}, asked)
    if form.uint8_input and data is None:
        raise UsageError("--uint8-input writes the images' mean and std into the file; give the data with --data")
    known = Request(model, shape, form.batch, form.opset, (data.mean, data.std) if data and form.uint8_input else None)
    return (replace(known, calibration=conversion.calibration_images(data)) if data else known), data


def _request_of_run(asked: Question) -> tuple[Request, Data | None]:
    """The network that a finished run delivered, in the form that its recipe asks for unless told otherwise."""
    folder = Path(asked.spec)
    if asked.weights or asked.assignments or asked.input_shapes or asked.data:
        raise UsageError(f"{folder} is a run, which knows its weights, options and data; leave them out")
    weights = delivered(folder)
    table = read(str(folder / "recipe.toml"))
    recipe = build({**table, "export": _form(table.get("export", {}), asked).model_dump()})
    if asked.data_root:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": asked.data_root})})
    data = data_of(recipe, torch.device("cpu"))
    directory = RunDirectory(folder, overwrites=False)
    run = Run(recipe, directory, Display(quiet=True), data, torch.device("cpu"), None)
    fresh = run.build()
    dense = weight_count(fresh)
    model = load_weights(fresh, weights)
    payload = {
        "state": model.state_dict(),
        "attributes": attributes_of(model),
        "sparsity": 1 - nonzero_count(model) / dense,
    }
    return request(run, payload), data


def _form(table: dict[str, Any], asked: Question) -> ExportSection:
    return build({"export": {**table, **dict(asked.form)}}).export


def network(asked: Question, data: Data | None) -> tuple[nn.Module, tuple[int, int, int]]:
    """The PyTorch model that is asked for, and the images that it takes, (C, H, W).

    Raises:
        UsageError: it cannot be loaded, or takes no images.
    """
    if len(asked.input_shapes) > 1:
        raise UsageError(f"--input-shape: a PyTorch model takes one input, got {len(asked.input_shapes)} shapes")
    given = asked.input_shapes[0] if asked.input_shapes else None
    if given and "=" in given:
        raise UsageError(f"--input-shape {given}: of a PyTorch model the sizes alone, without the batch: 3,224,224")
    model, shape = load_network(asked.spec, asked.weights, shape=given, assignments=asked.assignments, data=data)
    if len(shape) != 3:
        raise UsageError(f"--input-shape {','.join(map(str, shape))}: images are C,H,W; for example 3,224,224")
    return model, (shape[0], shape[1], shape[2])
