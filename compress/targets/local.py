"""This machine: every file in ONNX Runtime, or in the runtime that it is for, all interleaved in one run.

See `compress.targets._device` for how, and `compress.targets._own_runtime` for what ONNX Runtime does not run.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import UsageError
from compress.onnx_file import one_line
from compress.targets import SAMPLES_KEPT, Latency, Measurement, Speedup, Timing, _device, _own_runtime
from compress_exporters import runtimes

OWN_RUNTIMES = runtimes.modules()
SUFFIXES = (".onnx", ".ort", *OWN_RUNTIMES)

Array = npt.NDArray[Any]


def check(target: str) -> Mapping[str, str]:
    """Nothing has to be reached.

    Raises:
        UsageError: the target was given an address.
    """
    if target != "local":
        raise UsageError(f"target {target!r}: local is this machine and takes no address; write local")
    return {}


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Measure files against each other.

    Args:
        paths: the dense file first.
        how: threads, time and shapes.
        target: as asked for.

    Returns:
        One measurement for each file, and the speed-up of the second over the first; None unless both ran. A
        file that does not run has status failed and the reason.

    Raises:
        UsageError: the target was given an address.
    """
    check(target)
    with contextlib.ExitStack() as stack:
        others = {
            str(path): _subject(path, paths, how, stack) for path in paths if path.name.endswith(tuple(OWN_RUNTIMES))
        }
        found = _device.measure([str(path) for path in paths], **asdict(how), others=others)
    return summarised(found, paths, target, how.threads)


def _subject(path: Path, paths: Sequence[Path], how: Timing, stack: contextlib.ExitStack) -> Any:
    """A file that is open in its own runtime until the stack is left, as `_device.measure` takes it."""
    shape = _images(paths, how)
    if shape is None:
        return {"reason": "no ONNX file beside it tells what images it takes"}
    module = next(module for suffix, module in OWN_RUNTIMES.items() if path.name.endswith(suffix))
    process = _own_runtime.Process(module, path, how.threads, shape)
    stack.callback(process.close)
    return process.findings if "reason" in process.findings else (process.block, process.result)


def _images(paths: Sequence[Path], how: Timing) -> Sequence[int] | None:
    """Shape of the images, batch first, that the first ONNX file takes; None where none tells."""
    for path in paths:
        if path.suffix == ".onnx":
            with contextlib.suppress(ValueError):
                (images,) = _device.feed_for(_device.open_session(str(path), 1), how.batch, how.shapes).values()
                batch, *size = images.shape
                # raw pixels are NHWC
                return [batch, size[-1], *size[:-1]] if images.dtype == np.uint8 else images.shape
    return None


def summarised(
    found: Mapping[str, Any], paths: Sequence[Path], target: str, threads: int, provider: str = _device.PROVIDER
) -> tuple[list[Measurement], Speedup | None]:
    """What `measure` returns, from the raw findings of `compress.targets._device`."""
    samples_ms = [None if "reason" in file else np.array(file["samples_ns"]) / 1e6 for file in found["files"]]
    dense = samples_ms[0] if samples_ms else None
    measurements: list[Measurement] = []
    for path, file, samples in zip(paths, found["files"], samples_ms, strict=True):
        common = (path.name, target, file.get("runtime", provider), threads)
        if samples is None:
            reason = one_line(ValueError(file["reason"]))
            status = file.get("status", "failed")
            measurements.append(Measurement(*common, status, reason, device=found["device"]))
            continue
        measurement = Measurement(
            *common,
            "measured",
            latency_ms=latency(samples),
            load_ms=file["load_ms"],
            first_ms=file["first_ms"],
            peak_memory_bytes=file["peak_memory_bytes"],
            samples_ms=_kept(samples),
            speedup=speedup(dense, samples) if measurements and dense is not None else None,
            device=found["device"],
        )
        measurements.append(measurement)
    return measurements, measurements[1].speedup if len(measurements) > 1 else None


def speedup(dense_ms: Array, pruned_ms: Array) -> Speedup:
    """How many times faster the second of two files ran.

    Args:
        dense_ms: latencies, shape (repeats, inferences of a block).
        pruned_ms: of the same repeats; the blocks may be of another size.

    >>> speedup(np.full((4, 2), 3.0), np.full((4, 5), 1.5))
    Speedup(value=2.0, low=2.0, high=2.0)
    """
    ratios = np.median(dense_ms, axis=1) / np.median(pruned_ms, axis=1)
    low, value, high = np.percentile(ratios, (5, 50, 95)).tolist()
    return Speedup(value, low, high)


def latency(samples_ms: Array) -> Latency:
    """Percentiles over all inferences, and the spread of the blocks, shape (repeats, inferences of a block)."""
    p50, p90, p99 = np.percentile(samples_ms, (50, 90, 99)).tolist()
    low, middle, high = np.percentile(np.median(samples_ms, axis=1), (5, 50, 95)).tolist()
    return Latency(p50, p90, p99, len(samples_ms), (high - low) / middle)


def _kept(samples_ms: Array) -> tuple[float, ...]:
    flat = np.sort(samples_ms, axis=None)
    return tuple(flat[np.linspace(0, flat.size - 1, min(SAMPLES_KEPT, flat.size)).round().astype(int)].tolist())
