"""``compress compact``: an ONNX file from anyone without what zeros made dead, proved equal in ONNX Runtime.

file -> network -> the same in ONNX Runtime? -> compact -> export -> the same in ONNX Runtime? -> file
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from compress.agreement import Output, nearness
from compress.compaction import LayerChange, compact
from compress.cost import macs, nonzero_count, weight_count
from compress.errors import GateError, RunError, UsageError
from compress.onnx_file import Array, OnnxFile, one_line, open_onnx, session
from compress.onnx_import import OnnxGraph, OnnxNetwork, read_graph
from compress.onnx_import.inputs import Input, draw, free_batch, inputs_of
from compress.onnx_parity import floors_of
from compress.run_directory import writing
from compress.validate import TOLERANCES
from compress_exporters._given import defaults_note
from compress_exporters._network import Interface, network_to_onnx
from compress_exporters._versions import min_ort, opset_of
from compress_exporters.artifact import ExportError, write_atomically

OLDEST_WRITTEN = 18
"""PyTorch's exporter writes no older operator set itself."""
NEWEST_WRITTEN = 23

EXAMPLE_BATCH = 2
"""A traced batch of 1 would be taken for a constant."""
OTHER_BATCHES = (8, 1)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Outcome:
    """What became of a file; pairs are before and after.

    Attributes:
        inputs: of the file, with their sizes settled.
        floors: what the tolerance of each output is at least, in its own units.
        removed: whether anything was; if not, the written file is the given one.
        layers: every convolution and linear layer.
        weights: numbers in these layers' weights.
        nonzero: those that are not zero.
        macs: multiply-accumulates of one sample; None where the inputs are not one image.
        size_bytes: of the files, tensors outside them included.
        opset: of the files.
        min_ort: oldest ONNX Runtime that loads the written file, "1.14" for instance.
        max_error: the largest difference of an output in ONNX Runtime, relative to the output's largest number.
        tolerance: what it may be; more than the type's where the given file rounds more (see `floors_of`).
        dtype: the least precise type that the file computes in, a key of `TOLERANCES`.
        proved: the error of the proof.
        proof_dtype: the number type of the proof: float64, or float32 where the file does not fit into memory twice.
        frozen: what had to stay, and why.
        notes: what a user must know of the written file or of the comparison, one sentence each.
    """

    file: Path
    out: Path
    inputs: tuple[Input, ...]
    floors: tuple[float, ...]
    removed: bool
    layers: tuple[LayerChange, ...]
    weights: tuple[int, int]
    nonzero: tuple[int, int]
    macs: tuple[int, int] | None
    size_bytes: tuple[int, int]
    opset: tuple[int, int]
    min_ort: str
    max_error: float
    tolerance: float
    dtype: str
    proved: float
    proof_dtype: str
    frozen: tuple[str, ...]
    notes: tuple[str, ...] = ()


def compact_file(file: Path, out: Path, input_shapes: Sequence[str] = (), *, round_channels: int = 1) -> Outcome:
    """Write a file that computes the same with fewer channels; nothing is written if anything fails.

    Args:
        file: any ONNX file; it is not trusted, and not changed.
        out: the file to write, another one.
        input_shapes: "NAME=1,3,224,224" for each input whose sizes the file leaves open.
        round_channels: keep channel counts at multiples of this where dead channels allow it.

    Raises:
        UsageError: the file cannot be used, holds what cannot be followed, or the new one cannot be written there.
        GateError: the file's network, or the new file, does not compute what the file computes.
        CompactionError: the narrower network cannot be proved equal.
        RunError: the disk is full, or there is not enough memory.
    """
    if out.exists() and file.exists() and out.samefile(file):
        raise UsageError(f"-o {out} is the given file itself; choose another name")
    try:
        opened = open_onnx(file)
        given = _Given(opened, input_shapes)
        network = given.network()
        result = compact(network, given.example, round_to=round_channels)
        narrow = result.model
        removed = _numbers(narrow) < _numbers(network)
        model = given.exported(narrow) if removed else opened.model
        data = model.SerializeToString(deterministic=True)
        error, tolerance = given.parity(session(data)) if removed else (0.0, TOLERANCES[given.dtype])
    except ExportError as failed:
        raise UsageError(f"{file}: {failed}") from None
    except MemoryError:
        raise RunError(f"out of memory on {file}; give smaller sizes with --input-shape") from None
    with writing(out):
        write_atomically(out, lambda scratch: scratch.write_bytes(data))
    return Outcome(
        file=file,
        out=out,
        inputs=given.inputs,
        floors=given.floors,
        removed=removed,
        layers=tuple(replace(layer, name=_in_file(layer.name)) for layer in result.layers),
        weights=(weight_count(network), weight_count(narrow)),
        nonzero=(nonzero_count(network), nonzero_count(narrow)),
        macs=given.macs(network, narrow),
        size_bytes=(len(opened.model.SerializeToString()), len(data)),
        opset=(opened.opset, opset_of(model)),
        min_ort=min_ort(opset_of(model), model.ir_version),
        max_error=error,
        tolerance=tolerance,
        dtype=given.dtype,
        proved=result.max_error_relative,
        proof_dtype=result.proof_dtype,
        frozen=tuple(_in_file(said) for said in result.frozen_operators),
        notes=(*given.constant_outputs(), *(defaults_note(opened.model) if removed else ())),
    )


class _Given:
    """The given file: its runtime, its inputs, and what it answers."""

    def __init__(self, opened: OnnxFile, input_shapes: Sequence[str]) -> None:
        self._opened = opened
        self._graph = _followed(opened)
        self._runtime = session(opened.model.SerializeToString())
        self.inputs = inputs_of(opened, self._graph, input_shapes)
        self._answers = [(feeds, _answers(self._runtime, feeds)) for feeds in _all_feeds(self.inputs)]
        if not any(answer.dtype.kind == "f" for answer in self._answers[0][1]):
            raise UsageError(f"{opened.path}: no output is a floating-point number, so nothing can be compared")
        if not all(np.isfinite(a).all() for _, answers in self._answers for a in answers if a.dtype.kind == "f"):
            raise UsageError(
                f"{opened.path}: an output is infinite or no number on random inputs, so nothing can be compared"
            )
        self.dtype = "float32"
        self.floors = floors_of(opened.model.SerializeToString(), self._answers)

    @property
    def example(self) -> tuple[Tensor, ...]:
        """One tensor for each input."""
        return _tensors(self.inputs, self._answers[0][0])

    def network(self) -> OnnxNetwork:
        """The file as a network, held against ONNX Runtime.

        Raises:
            UsageError: an operator cannot be followed.
            GateError: the network computes something else than the file.
        """
        path = self._opened.path
        try:
            network = OnnxNetwork(self._graph).eval()
            network.say_sizes_by_input(self.example)
            self.dtype = _coarsest(network)
            with torch.inference_mode():
                found = [network.run(_tensors(self.inputs, feeds)) for feeds, _ in self._answers]
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        except MemoryError:
            raise
        except Exception as error:  # torch on a foreign graph: no narrower base
            where = " ".join(getattr(error, "__notes__", ()))
            raise UsageError(f"{path}: cannot be run as a PyTorch network {where}: {one_line(error)}") from None
        self._hold(([answer.numpy() for answer in answers] for answers in found), f"{path}, read as a PyTorch network,")
        return network

    def exported(self, network: nn.Module) -> onnx.ModelProto:
        """The network as a file with the given one's inputs, outputs and metadata."""
        interface = Interface(
            tuple(entry.name for entry in self.inputs),
            tuple(value.name for value in self._opened.outputs),
            free_batch(self._opened, self.inputs),
            tuple(entry.batched for entry in self.inputs),
            self._opened.metadata,
        )
        opset = min(max(self._opened.opset, OLDEST_WRITTEN), NEWEST_WRITTEN)
        return network_to_onnx(network, self.example, interface, opset=opset)

    def parity(self, runtime: InferenceSession) -> tuple[float, float]:
        """The largest error of another file, relative to the outputs' size, and what it may be.

        Raises:
            GateError: it is larger than the tolerance, or the outputs are of another kind.
        """
        asked = [(value.name, value.type) for value in self._runtime.get_inputs() if value.name in self._names()]
        offered = [(value.name, value.type) for value in runtime.get_inputs()]
        if asked != offered:
            raise GateError(f"the new file takes {offered}, the given one {asked}; nothing is written")
        return self._hold((_answers(runtime, feeds) for feeds, _ in self._answers), "the new file")

    def macs(self, before: nn.Module, after: nn.Module) -> tuple[int, int] | None:
        """Multiply-accumulates of one sample, where the only input is one of floating-point numbers."""
        only = self.inputs[0]
        if len(self.inputs) > 1 or np.dtype(only.dtype).kind != "f":
            return None
        sizes = [size for size in only.shape[1:] if size is not None]
        try:
            return macs(before, sizes), macs(after, sizes)
        except UsageError:  # the file fixes another batch than 1
            return None

    def constant_outputs(self) -> Iterator[str]:
        """Notes on outputs that are one number on every input tried: any network that gives it is equal."""
        for place, value in enumerate(self._opened.outputs):
            numbers = [answers[place] for _, answers in self._answers]
            first = next((array.flat[0] for array in numbers if array.size), None)
            if all((array == first).all() for array in numbers):
                yield f"Output {value.name!r} is {first} on all random inputs, so that its equality says little."

    def _names(self) -> set[str]:
        return {entry.name for entry in self.inputs}

    def _hold(self, found: Iterable[Sequence[Array]], who: str) -> tuple[float, float]:
        """The largest error of an output, relative to its size, and what it may be; `found` holds answers by feed."""
        names = [value.name for value in self._opened.outputs]
        outputs = [Output() for _ in names]
        for (_, expected), answers in zip(self._answers, found, strict=True):
            for name, output, want, got in zip(names, outputs, expected, answers, strict=True):
                if want.shape != got.shape or want.dtype != got.dtype:
                    raise GateError(
                        f"{who} gives {got.dtype} {list(got.shape)} as {name!r}, ONNX Runtime gave {want.dtype} "
                        f"{list(want.shape)}; nothing is written"
                    )
                output.add(want, got)
        worst = 0.0, TOLERANCES[self.dtype]
        for name, output, floor in zip(names, outputs, self.floors, strict=True):
            gap, allowed = result = output.result(TOLERANCES[self.dtype], floor)
            size = output.scale or 1.0
            error, tolerance = math.nan if gap is None else gap / size, allowed / size
            if nearness(result) > 1:
                raise GateError(
                    f"parity failed: {who} differs from the given file in ONNX Runtime by {error:.3g} of the size of "
                    f"{name!r}, tolerance {tolerance:.3g}; nothing is written"
                )
            worst = max(worst, (error, tolerance) if not output.whole else worst)
        return worst


def _followed(opened: OnnxFile) -> OnnxGraph:
    try:
        return read_graph(opened)
    except UsageError as error:
        raise UsageError(f"{opened.path}: {error}") from None


def _all_feeds(inputs: Sequence[Input]) -> Iterator[dict[str, Array]]:
    for seed in SEEDS:
        yield draw(inputs, EXAMPLE_BATCH, seed)
    if any(entry.batched for entry in inputs):
        for seed, batch in enumerate(OTHER_BATCHES, start=len(SEEDS)):
            yield draw(inputs, batch, seed)


def _answers(runtime: InferenceSession, feeds: Mapping[str, Array]) -> list[Array]:
    try:
        return list(runtime.run(None, dict(feeds)))
    except Exception as error:  # the runtime's errors share no base but Exception
        shapes = ", ".join(f"{name!r} {list(value.shape)}" for name, value in feeds.items())
        raise UsageError(
            f"ONNX Runtime cannot run the file on inputs of shape {shapes} ({one_line(error)}); "
            "give sizes that it takes with --input-shape"
        ) from None


def _tensors(inputs: Sequence[Input], feeds: Mapping[str, Array]) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(feeds[entry.name]) for entry in inputs)


def _coarsest(network: OnnxNetwork) -> str:
    """The least precise type that the network computes in, a key of `TOLERANCES`."""
    tensors: list[Any] = [*network.parameters(), *network.buffers()]
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
    casts = {step.node.attributes.get("to") for step in network.steps if step.node.operator == "Cast"}
    names |= {name for code, name in ((10, "float16"), (16, "bfloat16")) if code in casts}
    return next((name for name in ("bfloat16", "float16") if name in names), "float32")


def _numbers(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))


def _in_file(said: str) -> str:
    """What compaction says of the network, as said of the file: where a network keeps its layers is no news."""
    return re.sub(r"\b(layers|constants)\.", "", said).replace("in the model's forward", "in the graph")
