"""``compress validate``: accuracy, latency and parity of an ONNX file from anyone."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import onnx
from onnxruntime import InferenceSession
from torch import Tensor

from compress import targets
from compress.data import Data, Reading, load
from compress.errors import GateError, UsageError
from compress.onnx_file import OnnxFile, open_onnx, session
from compress.validate import Accuracy, accuracy, check_gates, file_parity

_BATCH = 250
PARITY_BATCHES = 4
"""Parity is checked on the first 1,000 test images."""


@dataclass(frozen=True)
class Question:
    """What is asked of a file.

    Attributes:
        file: the ONNX file; it is not trusted.
        data: data set spec; its test part is read.
        data_root: where downloaded data sets live.
        reference: another file whose outputs it must reproduce.
        mean: comma-separated, per channel of pixels in 0..1; by default the file's own, else the data's.
        std: as mean.
        layout: NCHW or NHWC; by default told from the input's shape.
        threads: ONNX Runtime's threads.
        gates: limits, as `compress.validate.check_gates` takes them.
    """

    file: Path
    data: str
    data_root: Path | None = None
    reference: Path | None = None
    mean: str | None = None
    std: str | None = None
    layout: str | None = None
    threads: int = 1
    gates: Mapping[str, float] | None = None


def validate_file(asked: Question) -> list[str]:
    """What was found, in lines for a person.

    Raises:
        UsageError: the file or the data cannot be used.
        GateError: parity or a gate failed; the message holds all lines.
    """
    opened = open_onnx(asked.file)
    mean, std = normalisation(opened, asked.mean, asked.std)
    data = load(asked.data, root=asked.data_root, held_out=0, reading=Reading(mean=mean, std=std))
    runtime = session_for(opened, data, asked.threads)
    score = accuracy(runtime, TestBatches(data, takes_nhwc(opened, data, asked.layout)), metric=data.metric)
    measured = targets.find("local").measure([asked.file], targets.Timing(threads=asked.threads), "local")[0][0]
    size = asked.file.stat().st_size
    lines = [f"{asked.file}: opset {opened.opset}, {size:,} bytes", _accuracy_line(score, data)]
    p50 = None
    if latency := measured.latency_ms:
        p50 = latency.p50
        lines.append(
            f"latency: p50 {p50:.3f} ms, p90 {latency.p90:.3f} ms, p99 {latency.p99:.3f} ms, {asked.threads} thread(s)"
        )
    passed = True
    if asked.reference is not None:
        passed, line = _parity(runtime, opened, data, asked, asked.reference)
        lines.append(line)
    values = {"accuracy": score.value, "latency_ms": p50, "size_kb": size / 1000}
    gates = check_gates(asked.gates or {}, values)
    lines += [gate.message for gate in gates]
    if not (passed and all(gate.passed for gate in gates)):
        raise GateError("\n".join(lines))
    return lines


def _parity(
    runtime: InferenceSession, opened: OnnxFile, data: Data, asked: Question, reference: Path
) -> tuple[bool, str]:
    other = open_onnx(reference)
    nhwc = takes_nhwc(opened, data, asked.layout)
    if takes_nhwc(other, data, asked.layout) != nhwc:
        raise UsageError(f"{asked.file} and {reference} take their input in different layouts; export both alike")
    found = file_parity(
        runtime, session_for(other, data, asked.threads), islice(TestBatches(data, nhwc), PARITY_BATCHES)
    )
    worst = "an output is not finite" if found.max_abs is None else f"max error {found.max_abs:.3g}"
    top1 = "" if found.top1_agreement is None else f", top-1 agreement {found.top1_agreement:.2%}"
    return found.passed, (
        f"{'passed' if found.passed else 'failed'}: parity with {reference}: {worst}, tolerance {found.tolerance:.3g}"
        f"{top1} on {found.samples:,} images"
    )


def session_for(opened: OnnxFile, data: Data, threads: int = 1) -> InferenceSession:
    """The file's session; one that takes raw pixels is told how they are normalised where it does not say."""
    model = opened.model
    if "input_mean" not in opened.metadata:
        labels = {"input_mean": json.dumps(data.mean), "input_std": json.dumps(data.std)}
        model = onnx.ModelProto.FromString(model.SerializeToString())
        onnx.helper.set_model_props(model, {**opened.metadata, **labels})
    return session(model.SerializeToString(), threads=threads)


def normalisation(
    opened: OnnxFile, mean: str | None, std: str | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std: the command line's, else what the file's metadata says, else None for the data's own.

    Raises:
        UsageError: only one of the two is given, or what is said is no numbers that images can be normalised by.
    """
    given = [_numbers(name, text) for name, text in (("mean", mean), ("std", std))]
    if (given[0] is None) != (given[1] is None):
        raise UsageError("--mean and --std are given together; for pixels in 0..1 use --mean 0 --std 1")
    if given[0] is not None:
        return given[0], given[1]
    try:
        said = json.loads(opened.metadata["preprocessing"])
        shift, scale = tuple(map(float, said["mean"])), tuple(map(float, said["std"]))
    except (KeyError, ValueError, TypeError, RecursionError):  # others write other things under this name
        return None, None
    if len(shift) != len(scale) or not all(map(math.isfinite, shift)) or not all(0 < s < math.inf for s in scale):
        raise UsageError(
            f"{opened.path}: its metadata 'preprocessing' says mean {shift} and std {scale}, by which nothing can be "
            "normalised; say what is right with --mean and --std (in prune-and-export --set data.mean and data.std)"
        )
    return shift, scale


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--{name} wants numbers separated by commas, got {text!r}; for example --{name} 0.485,0.456,0.406"
        ) from None


def takes_nhwc(opened: OnnxFile, data: Data, layout: str | None = None) -> bool:
    """Whether a float input wants channels last (raw pixels are turned where the file is fed)."""
    first = opened.inputs[0]
    if first.dtype == "uint8":
        return False
    if layout:
        return layout == "NHWC"
    channels, height, width = data.input_shape
    return first.shape is not None and first.shape[1:] == (height, width, channels) != (
        channels,
        height,
        width,
    )


@dataclass(frozen=True)
class TestBatches:
    """The test part in the layout of the file."""

    __test__ = False  # no test of pytest's

    data: Data
    nhwc: bool

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.data.test.batches(_BATCH):
            yield images.permute(0, 2, 3, 1) if self.nhwc else images, labels


def _accuracy_line(score: Accuracy, data: Data) -> str:
    if score.low is None or score.high is None:
        return f"score: {score.value:.4f} on {score.total:,} test images of {data.name}"
    return (
        f"accuracy: {score.value:.2%} (95 % interval {score.low:.2%} to {score.high:.2%}) "
        f"on {score.total:,} test images of {data.name}"
    )
