"""Is the exported file the model that was trained, is it still accurate, and does it keep the limits set?"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.agreement import Output, nearest_to_its_limit, nearness
from compress.errors import UsageError, nearest
from compress.onnx_file import as_seen, predict, predict_all

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor, nn

Array = npt.NDArray[Any]
Batches = Iterable[tuple[Any, Any]]
"""Pairs of images (float32, NCHW, normalised) and labels, as numpy arrays or tensors."""

Predict = Callable[[Array], Array]
"""Outputs for normalised images, as a format's own runtime gives them."""

TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2, "int8": 0.5}
"""Largest difference allowed between two runtimes, relative to the largest output, by the type computed in.

float32: a sum of n terms errs by about sqrt(n) u, with u = 6e-8 (Higham and Mary, SIAM J. Sci. Comput. 41(5),
2019); PyTorch and ONNX Runtime differ by less than 2e-6 on ResNet-18, MobileNetV2 and VGG-11. Five times that
is room for deeper networks, and far below what changing one weight of LeNet-5 does.
float16, bfloat16: every layer's output is rounded to u = 4.9e-4 or 3.9e-3, and the roundings of 50 layers add
up to sqrt(50) u; the next round number above.
int8: rounded to 8 bits on purpose, and the accuracy says whether it may; what is off by half of the largest output is
not rounded, it is another network.
"""

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""

GATES = {
    "max_accuracy_drop_points": ("accuracy_drop_points", "at most"),
    "max_latency_ms": ("latency_ms", "at most"),
    "max_size_kb": ("size_kb", "at most"),
    # The low end of the spread: a speed-up that holds only on average would fail on the device.
    "min_speedup": ("speedup_low", "at least"),
    "min_accuracy": ("accuracy", "at least"),
}
"""Every gate: the measured value that it reads, and which side of the limit is good."""


@dataclass(frozen=True)
class Parity:
    """Agreement of two runtimes on the same images.

    Attributes:
        max_abs: largest difference of two outputs; None where an output is not finite.
        tolerance: what it may be, in the outputs' own units.
        top1_agreement: fraction of the images with the same largest output; None where no output tells classes.
        samples: images compared.
        passed: all outputs are finite and max_abs is within the tolerance.
    """

    max_abs: float | None
    tolerance: float
    top1_agreement: float | None
    samples: int
    passed: bool


@dataclass(frozen=True)
class Accuracy:
    """Score on a data set.

    Attributes:
        value: fraction correct, or the mean of another metric.
        correct: images classified correctly; None for another metric.
        total: images.
        low: lower end of the Wilson 95 % interval; None for another metric.
        high: upper end.
    """

    value: float
    correct: int | None
    total: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Gate:
    """A limit the run must meet; `file` is a further file that it is held against, None for the run itself."""

    name: str
    limit: float
    value: float | None
    passed: bool
    file: str | None = None

    @property
    def message(self) -> str:
        """One line for a person.

        >>> Gate("max_latency_ms", 2.0, None, False).message
        'failed: max_latency_ms: latency_ms was not measured, limit at most 2'
        """
        quantity, side = GATES[self.name]
        found = "was not measured" if self.value is None else f"is {self.value:.6g}"
        verdict = "passed" if self.passed else "failed"
        of = f" of {self.file}" if self.file else ""
        return f"{verdict}: {self.name}: {quantity}{of} {found}, limit {side} {self.limit:.6g}"


def parity(
    session: "InferenceSession | Predict", model: "nn.Module", batches: Batches, *, dtype: str = "float32"
) -> Parity:
    """Compare an exported file with the PyTorch model, run on the CPU in evaluation mode.

    Args:
        session: of the exported file, or what its own runtime answers.
        model: the model it was exported from; left as it is.
        batches: images and labels; the labels are not read.
        dtype: the type the file computes in, a key of `TOLERANCES`.

    Raises:
        UsageError: no images, or images that do not fit the file.
    """
    import torch

    reference = copy.deepcopy(model).cpu().eval()

    def run(images: Array) -> list[Array]:
        with torch.inference_mode():
            return [_array(reference(torch.tensor(images)))]

    images = (_array(x) for x, _ in batches)
    return _compare(session, run, images if callable(session) else (as_seen(session, x) for x in images), dtype)


def file_parity(
    session: "InferenceSession",
    reference: "InferenceSession",
    batches: Batches,
    *,
    dtype: str = "float32",
    floors: Sequence[float] = (),
) -> Parity:
    """Compare all outputs of a file with those of a reference file; either may take raw pixels.

    Args:
        session: of the file under test.
        reference: of the other.
        batches: images and labels; the labels are not read.
        dtype: the least precise type computed in, a key of `TOLERANCES`.
        floors: for each output, what its tolerance is at least (`compress.onnx_parity.floors_of`).

    Raises:
        UsageError: no images, or images that do not fit one of the files; or the outputs have other shapes.
    """
    images = (as_seen(reference, as_seen(session, _array(x))) for x, _ in batches)
    return _compare(session, lambda x: predict_all(reference, x), images, dtype, floors)


def _answer(session: "InferenceSession | Predict", images: Array) -> Array:
    return session(images) if callable(session) else predict(session, images)


def _compare(
    session: "InferenceSession | Predict",
    reference: Callable[[Array], list[Array]],
    images: Iterable[Array],
    dtype: str,
    floors: Sequence[float] = (),
) -> Parity:
    outputs: list[Output] = []
    samples, agree = 0, [0.0]
    for batch in images:
        found = [session(batch)] if callable(session) else predict_all(session, batch)
        expected = reference(batch)
        if len(found) != len(expected):
            raise UsageError(f"one has {len(found)} outputs, the other {len(expected)}; these are two different models")
        outputs = outputs or [Output() for _ in expected]
        for output, want, got in zip(outputs, expected, found, strict=True):
            output.add(want, got)
        scores = next((i for i, want in enumerate(expected) if want.dtype.kind == "f"), None)
        if scores is not None:
            agree.append(float((_top(found[scores]) == _top(expected[scores])).mean(1).sum()))
        samples += len(batch)
    if not samples:
        raise UsageError("parity needs at least one image; none was given")
    worst, tolerance = result = nearest_to_its_limit(outputs, TOLERANCES[dtype], floors)
    agreement = sum(agree) / samples if len(agree) > 1 else None
    return Parity(worst, tolerance, agreement, samples, passed=nearness(result) <= 1)


def _top(outputs: Array) -> Array:
    """Class of the largest output, shape (batch, places): one place, or one for each pixel."""
    classes = outputs.shape[1] if outputs.ndim > 1 else 1
    return np.asarray(outputs.reshape(len(outputs), classes, -1).argmax(1))


def accuracy(
    session: "InferenceSession | Predict",
    batches: Batches,
    *,
    metric: "Callable[[Tensor, Tensor], Tensor] | None" = None,
) -> Accuracy:
    """Score an exported file: top-1 accuracy, or the mean over images of another metric.

    An output that is not finite counts as wrong.

    Args:
        session: of the exported file, for a fixed or a dynamic batch, or what its own runtime answers.
        batches: images and labels, shape (batch,).
        metric: f(outputs, labels) -> one score per image, as `compress.data.Data` has it.

    Raises:
        UsageError: no images, or images that do not fit the file.
    """
    score, total = 0.0, 0
    for images, labels in batches:
        outputs, expected = _answer(session, _array(images)), _array(labels)
        if metric is None:
            finite = np.isfinite(outputs).reshape(len(outputs), -1).all(1)
            score += int(((outputs.argmax(1) == expected) & finite).sum())
        else:
            import torch

            score += float(metric(torch.tensor(outputs), torch.tensor(expected)).sum())
        total += len(outputs)
    if not total:
        raise UsageError("accuracy needs at least one image; none was given")
    if metric is not None:
        return Accuracy(score / total, None, total, None, None)
    return Accuracy(score / total, int(score), total, *wilson(int(score), total))


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a fraction: (p + z^2/2n -+ z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Wilson, J. Am. Stat. Assoc. 22, 1927.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    p, z2n = correct / total, Z95**2 / total
    middle = p + z2n / 2
    half = math.sqrt(z2n * p * (1 - p) + z2n**2 / 4)
    # p itself bounds both ends, so that no rounding puts it outside.
    return min(p, max(0.0, (middle - half) / (1 + z2n))), max(p, min(1.0, (middle + half) / (1 + z2n)))


def _array(values: Any) -> Array:
    """A numpy array of an array or a tensor on any device."""
    return np.ascontiguousarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def check_gates(limits: Mapping[str, float], values: Mapping[str, float | None]) -> list[Gate]:
    """Hold measured values against the limits; what was not measured fails.

    Args:
        limits: by gate name.
        values: by the names in `GATES`: accuracy_drop_points (dense minus pruned, in percentage points),
            latency_ms, size_kb (of 1000 bytes), speedup_low, accuracy.

    Raises:
        UsageError: no such gate, or a limit that is not a number.

    >>> [gate.passed for gate in check_gates({"max_size_kb": 40, "min_speedup": 2}, {"size_kb": 35.4})]
    [True, False]
    """
    gates = []
    for name, limit in limits.items():
        if name not in GATES:
            raise UsageError(f"no gate {name!r}; {nearest(name, GATES)}")
        if not math.isfinite(limit):
            raise UsageError(f"gate {name} needs a number as its limit; got {limit}")
        quantity, side = GATES[name]
        value = values.get(quantity)
        if value is None or not math.isfinite(value):
            gates.append(Gate(name, limit, None, passed=False))
        else:
            gates.append(Gate(name, limit, value, passed=value <= limit if side == "at most" else value >= limit))
    return gates


def check_files(limits: Mapping[str, float], dense: float | None, accuracies: Mapping[str, float | None]) -> list[Gate]:
    """The gate on the accuracy's drop, for each further file: one of fewer bits may lose what the network has kept.

    Args:
        limits: by gate name.
        dense: accuracy of the unpruned network, 0..1.
        accuracies: of further files, by their names.
    """
    asked = {name: limit for name, limit in limits.items() if name == "max_accuracy_drop_points"}
    drops = {
        file: None if dense is None or accuracy is None else 100 * (dense - accuracy)
        for file, accuracy in accuracies.items()
    }
    return [
        replace(gate, file=file)
        for file, drop in drops.items()
        for gate in check_gates(asked, {"accuracy_drop_points": drop})
    ]
