"""A file in the runtime that it is for, in a process of its own, which times a block of inferences whenever told.

The process holds numpy, the runtime and the file, and nothing of ONNX Runtime: so its first inference and peak memory
are the runtime's own, and a library that ends the process ends no measurement of others. It is this file, run as a
program; a line with a number of inferences asks it for a block.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import IO, Any

import numpy as np

from compress.targets import _device
from compress_exporters.artifact import ExportError
from compress_exporters.runtimes import Runtime

TIMEOUT_SECONDS = 300.0
"""For opening a file, and for a block."""

CHANGE = 1e-3
"""Relative to the largest output: threads add in another order each time, which moves float32 by far less."""

SPARE_PROCESSORS = 0.5
"""Beyond the threads asked for; a runtime that does not keep to them uses at least one more."""

FEWEST_NS = 20_000_000
"""Processor time is told of no less than a block's usual length."""


class Process:
    """A file that is open in a process of its own.

    Attributes:
        findings: of opening it and of its first inference, and ``runtime``, its name and version; where it does not run
            also ``status`` and ``reason``.
    """

    def __init__(self, module: str, path: Path, threads: int, shape: Sequence[int]) -> None:
        self._threads = threads
        self._wall_ns = self._processor_ns = 0
        # The paths that this process finds modules on; -P, so that the folder it stands in is not one more.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        words = [sys.executable, "-P", "-m", __name__, module, str(path), str(threads), json.dumps(list(shape))]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
        )
        self.findings = {"runtime": module.rpartition(".")[2], **self._answer()}

    def block(self, count: int) -> list[int]:
        """Nanoseconds of each of so many inferences; zeros from when it has ended, which `result` tells."""
        if "reason" not in self.findings:
            found = self._answer(count)
            if "reason" not in found:
                samples: list[int] = found["samples_ns"]
                self._wall_ns += sum(samples)
                self._processor_ns += found["processor_ns"]
                return samples
            self.findings |= found
        return [0] * count

    def result(self) -> dict[str, Any]:
        """The findings, after all blocks: a runtime that took more processors than it was given is not measured."""
        used = self._processor_ns / max(self._wall_ns, 1)
        if "reason" not in self.findings and self._wall_ns > FEWEST_NS and used > self._threads + SPARE_PROCESSORS:
            self.findings |= _failed(f"it kept {used:.1f} processors busy, and threads = {self._threads}")
        return self.findings

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self, count: int | None = None) -> dict[str, Any]:
        """What it says, after it has started or to a request; a failure where it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        timer.start()
        try:
            if count is not None:
                print(count, file=self._process.stdin, flush=True)
            found: dict[str, Any] = json.loads(self._process.stdout.readline())
            return found
        except (BrokenPipeError, ValueError):
            self._process.kill()
            return _failed(f"its runtime ended without an answer ({_how(self._process.wait())})")
        finally:
            timer.cancel()


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason}


def serve(module: str, path: str, threads: str, shape: str) -> None:
    """Open a file, say what that took, and time as many inferences as each line of standard input says."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes print
    try:
        runtime: Runtime = importlib.import_module(module)
        name = runtime.version()
    except ExportError as error:
        _say(answers, {"status": "missing", "reason": str(error)})
        return
    try:
        _time(answers, name, runtime, Path(path), int(threads), json.loads(shape))
    except Exception as error:  # whatever it is, the others are measured
        _say(answers, _failed((str(error).strip().splitlines() or [type(error).__name__])[0]))


def _time(answers: IO[str], name: str, runtime: Runtime, path: Path, threads: int, shape: Sequence[int]) -> None:
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    start = perf_counter_ns()
    prepare = runtime.start(path, threads)
    loaded = perf_counter_ns()
    run = prepare(images)
    before = perf_counter_ns()
    expected = np.array(run())
    end = perf_counter_ns()
    peak = _device.peak_memory() if getattr(runtime, "private_memory", True) else None
    if len(expected) != len(images) or not np.isfinite(expected).all():
        raise ValueError(f"its answer to {len(images)} images is of shape {expected.shape}, or not finite")
    found = {"load_ms": (loaded - start) / 1e6, "first_ms": (end - before) / 1e6, "peak_memory_bytes": peak}
    _say(answers, {"runtime": name, **found})
    last = expected

    def once() -> None:
        nonlocal last
        last = run()

    for line in sys.stdin:
        with _device.no_collection():
            started = process_time_ns()
            samples = _device.block(once, int(line))
            processor_ns = process_time_ns() - started
        if not np.abs(last - expected).max() <= CHANGE * np.abs(expected).max():  # also where it is NaN
            raise ValueError("its answer to the same images changed from one inference to another")
        _say(answers, {"samples_ns": samples, "processor_ns": processor_ns})


def _say(answers: IO[str], found: dict[str, Any]) -> None:
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
