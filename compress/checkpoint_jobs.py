"""A checkpoint compacted, or scored and validated, from its model and its weights alone."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress import conversion
from compress.checkpoint import attributes_of, save_weights
from compress.compaction import Compaction
from compress.compaction import compact as compact_network
from compress.cost import nonzero_count, weight_count
from compress.data import load
from compress.errors import GateError, UsageError
from compress.exporting import RANDOM_IMAGES, Question, Written, network
from compress.foreign import PARITY_BATCHES, validate_file
from compress.foreign import Question as FileQuestion
from compress.onnx_file import Array, session
from compress.report.formats import count, percent, size
from compress.run_directory import writing
from compress.validate import Parity, accuracy, parity
from compress_exporters import ExportError, Request
from compress_exporters.artifact import write_atomically

_BATCH = 250


def compact(asked: Question, out: Path, *, round_channels: int = 1) -> list[str]:
    """Compact a checkpoint exactly, and write its weights (.safetensors) or an ONNX file.

    Args:
        asked: a model, usually with weights that hold zeros.
        out: the file; its suffix says which.
        round_channels: keep channel counts at multiples of this where dead channels allow it.

    Returns:
        What was done, in lines for a person.

    Raises:
        UsageError: the model cannot be loaded, or the suffix is another.
        CompactionError: the narrower network cannot be proved equal.
        GateError: the ONNX file does not compute what the network computes; it is not written.
    """
    if out.suffix not in (".onnx", ".safetensors"):
        raise UsageError(f"-o {out}: a checkpoint is written as .onnx or .safetensors; choose one of these")
    model, shape = network(asked, None)
    result = compact_network(
        model, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), round_to=round_channels
    )
    lines = _summary(asked, model, result)
    if out.suffix == ".safetensors":
        state = {name: value.contiguous() for name, value in result.model.state_dict().items()}
        with writing(out):
            write_atomically(out, lambda file: save_weights(state, attributes_of(result.model), file))
        return [*lines, f"{out}: weights, {size(out.stat().st_size)}; for --weights beside the same model"]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model.onnx")
        wanted = Request(result.model.eval(), shape)
        written = Written(conversion.found("onnx").export(wanted, file), _parity_of(file, model, shape))
        if not written.parity.passed:
            raise GateError(f"{written.line}; nothing is written")
        with writing(out):
            write_atomically(out, lambda placed: placed.write_bytes(file.read_bytes()))
    return [*lines, replace(written, artifact=replace(written.artifact, path=out)).line]


def _parity_of(file: Path, model: nn.Module, shape: tuple[int, ...]) -> Parity:
    """Of a file with the network before compaction, on random images."""
    images = torch.randn(RANDOM_IMAGES, *shape, generator=torch.Generator().manual_seed(1))
    return parity(session(file), model, [(images, None)])


def _summary(asked: Question, model: nn.Module, result: Compaction) -> list[str]:
    before, after, left = weight_count(model), weight_count(result.model), nonzero_count(model)
    narrower = sum((a.in_before, a.out_before) != (a.in_after, a.out_after) for a in result.layers)
    lines = [
        f"{asked.spec}: {narrower} of {len(result.layers)} layers are narrower, {result.channels_removed} channels "
        "removed" if narrower else f"{asked.spec}: nothing is dead; zeros scattered over living channels stay",
        f"weights: {count(before)} -> {count(after)} ({percent(1 - left / before if before else 0.0)} were zero)",
        f"proof: largest error {result.max_error_relative:.1e} of the outputs' size in {result.proof_dtype}",
    ]  # fmt: skip
    return lines + [f"left alone: {name}" for name in result.frozen_operators]


def validate(asked: Question, checked: FileQuestion) -> list[str]:
    """Score a checkpoint in PyTorch, export it, and validate the export as any ONNX file.

    Args:
        asked: a model with its weights.
        checked: the data, gates and threads; its file is not read.

    Raises:
        UsageError: the model or the data cannot be used.
        GateError: parity or a gate failed; the message holds all lines.
    """
    data = load(checked.data, root=checked.data_root, held_out=0)
    model, shape = network(asked, data)
    score = accuracy(_predictor(model), data.test.batches(_BATCH), metric=data.metric)
    name = asked.spec if asked.weights is None else f"{asked.spec} with {asked.weights}"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model.onnx")
        try:
            artifact = conversion.found("onnx").export(Request(model, shape), file)
        except ExportError as error:
            raise UsageError(str(error)) from None
        found = parity(session(file), model, islice(data.test.batches(_BATCH), PARITY_BATCHES))
        line = Written(artifact, found).line.removeprefix(f"{file}: ")
        lines = [
            f"{name}: {score.value:.2%} of {score.total:,} test images of {data.name} in PyTorch",
            f"export: {line}",
        ]
        try:
            said = validate_file(replace(checked, file=file))
        except GateError as error:
            raise GateError("\n".join([*lines, *_unnamed(str(error).splitlines(), file)])) from None
    lines += _unnamed(said, file)
    if not found.passed:
        raise GateError("\n".join(lines))
    return lines


def _unnamed(lines: Sequence[str], file: Path) -> Iterator[str]:
    """Lines without the name of a file that is gone."""
    return (line.replace(f"{file}: ", "export: ") for line in lines)


def _predictor(model: nn.Module) -> Any:
    def predict(images: Array) -> Array:
        with torch.inference_mode():
            outputs: Tensor = model(torch.tensor(images))
            return outputs.numpy()

    return predict
