"""This machine: every file in ONNX Runtime, interleaved in one run.

Clock frequency and neighbours drift, and would be taken for a difference between files measured one after the
other. So each repeat times a block of inferences of every file in turn, the order reversed every other time, and
two files are compared within a repeat only.
"""

import functools
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.errors import UsageError
from compress.onnx_file import one_line, session
from compress.targets import SAMPLES_KEPT, Latency, Measurement, Speedup

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUFFIXES = (".onnx", ".ort")

PROVIDER = "CPUExecutionProvider"

BLOCK_MS = 20.0
"""Least length of a block: long against the clock's resolution and a single interruption."""

FEWEST_REPEATS = 3
"""Below this there is no spread to speak of, whatever the time budget."""

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}

FRESH_PROCESS = """
import json, sys
from time import perf_counter_ns as now
import numpy, onnxruntime
path, threads, dtype, shape = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
start = now()
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
loaded = now()
feed = {session.get_inputs()[0].name: numpy.zeros(shape, dtype)}
first = now()
session.run(None, feed)
end = now()
peak = None
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    pass  # only Linux tells
print(json.dumps([(loaded - start) / 1e6, (end - first) / 1e6, peak]))
"""
"""Opens a file and runs it once, with nothing imported that a deployment would not. Not getrusage: its peak
outlives exec, so it would report the parent's."""

FRESH_TIMEOUT_SECONDS = 300

Run = Callable[[], object]
Clock = Callable[[], int]
Array = npt.NDArray[Any]


def measure(
    paths: Sequence[Path],
    *,
    threads: int = 1,
    warm_up: int = 50,
    repeats: int = 20,
    budget_seconds: float = 10.0,
    batch: int = 1,
    target: str = "local",
) -> tuple[list[Measurement], Speedup | None]:
    """Measure files against each other.

    Args:
        paths: the dense file first.
        threads: that one operator may use.
        warm_up: inferences of each file before timing; fewer where they would take a quarter of the budget.
        repeats: blocks of each file; fewer, but at least 3, where the budget is short.
        budget_seconds: for the timed blocks of all files.
        batch: used where the file leaves its batch open.
        target: name in the measurements.

    Returns:
        One measurement for each file, and the speed-up of the second over the first; None unless both ran. A
        file that does not run has status failed and the reason.

    Raises:
        UsageError: the target was given an address.
    """
    if target != "local":
        raise UsageError(f"target {target!r}: local is this machine and takes no address; write local")
    opened = [_open(path, threads, batch) for path in paths]
    working = [i for i, subject in enumerate(opened) if not isinstance(subject, str)]
    runs = [subject[0] for subject in opened if not isinstance(subject, str)]
    timings = dict(zip(working, timed(runs, warm_up, repeats, budget_seconds), strict=True))
    found = []
    for i, (path, subject) in enumerate(zip(paths, opened, strict=True)):
        if isinstance(subject, str):
            found.append(Measurement(path.name, target, PROVIDER, threads, "failed", subject))
        else:
            found.append(_measurement(path, threads, timings[i], subject[1]))
    both = 0 in timings and 1 in timings
    return found, speedup(timings[0], timings[1]) if both else None


def _open(path: Path, threads: int, batch: int) -> tuple[Run, Array] | str:
    """One inference of a file, and the input it is given; or why it does not run."""
    try:
        opened = session(path, threads=threads, provider=PROVIDER)
        feed = feed_for(opened, batch)
        opened.run(None, feed)
    except Exception as error:  # whatever one file does, the others are measured
        return one_line(error)
    return functools.partial(opened.run, None, feed), next(iter(feed.values()))


def feed_for(opened: "InferenceSession", batch: int = 1) -> dict[str, Array]:
    """Random input of the type and shape that a model takes, the same every time.

    Raises:
        UsageError: more than one input, a type that is no image, or a free size other than the batch.
    """
    entries = opened.get_inputs()
    if len(entries) != 1:
        raise UsageError(f"the model has {len(entries)} inputs; one image input is measured")
    entry = entries[0]
    shape = [batch if i == 0 and not isinstance(size, int) else size for i, size in enumerate(entry.shape)]
    if not all(isinstance(size, int) for size in shape):
        raise UsageError(f"input {entry.name!r} has shape {entry.shape}; only its batch may be free")
    generator = np.random.default_rng(0)
    if entry.type == "tensor(uint8)":
        return {entry.name: generator.integers(0, 256, shape, np.uint8)}
    if entry.type not in DTYPES:
        raise UsageError(f"input {entry.name!r} is {entry.type}; known: tensor(uint8), {', '.join(DTYPES)}")
    return {entry.name: generator.standard_normal(shape).astype(DTYPES[entry.type])}


def timed(
    runs: Sequence[Run],
    warm_up: int,
    repeats: int,
    budget_seconds: float,
    clock: Clock = perf_counter_ns,
) -> list[Array]:
    """Latencies of each run in milliseconds, shape (repeats, inferences of a block), interleaved."""
    limit = int(budget_seconds * 1e9 / 4 / max(1, len(runs)))
    with _no_collection():
        usual = [_warm(run, warm_up, limit, clock) for run in runs]
        blocks, repeats = plan(usual, repeats, budget_seconds)
        rows: list[list[list[int]]] = [[] for _ in runs]
        for repeat in range(repeats):
            order = range(len(runs)) if repeat % 2 == 0 else reversed(range(len(runs)))
            for i in order:
                rows[i].append([_once(runs[i], clock) for _ in range(blocks[i])])
    return [np.array(row) / 1e6 for row in rows]


def plan(usual_ms: Sequence[float], repeats: int, budget_seconds: float) -> tuple[list[int], int]:
    """Inferences in a block of each file, and repeats, such that all fit the budget.

    >>> plan([1.0, 4.0], 20, 10.0)
    ([20, 5], 20)
    >>> plan([1.0, 4.0], 20, 0.4)  # half the time: half the block
    ([10, 2], 20)
    >>> plan([500.0, 250.0], 20, 7.5)
    ([1, 1], 10)
    """
    wanted = [math.ceil(BLOCK_MS / max(ms, 1e-3)) for ms in usual_ms]
    total_ms = repeats * sum(n * ms for n, ms in zip(wanted, usual_ms, strict=True))
    share = min(1.0, budget_seconds * 1e3 / max(total_ms, 1e-9))
    blocks = [max(1, int(n * share)) for n in wanted]
    round_ms = sum(n * ms for n, ms in zip(blocks, usual_ms, strict=True))
    fitting = int(budget_seconds * 1e3 / max(round_ms, 1e-9))
    return blocks, min(repeats, max(FEWEST_REPEATS, fitting))


def speedup(dense_ms: Array, pruned_ms: Array) -> Speedup:
    """How many times faster the second file ran.

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


def kept(samples_ms: Array) -> tuple[float, ...]:
    """Evenly many of the sorted latencies, for plots."""
    flat = np.sort(samples_ms, axis=None)
    return tuple(flat[np.linspace(0, flat.size - 1, min(SAMPLES_KEPT, flat.size)).round().astype(int)].tolist())


def _measurement(path: Path, threads: int, samples_ms: Array, feed: Array) -> Measurement:
    load_ms, first_ms, peak = _fresh_process(path, threads, feed)
    return Measurement(
        artifact=path.name,
        target="local",
        provider=PROVIDER,
        threads=threads,
        status="measured",
        latency_ms=latency(samples_ms),
        load_ms=load_ms,
        first_ms=first_ms,
        peak_memory_bytes=peak,
        samples_ms=kept(samples_ms),
    )


def _fresh_process(path: Path, threads: int, feed: Array) -> tuple[float | None, float | None, int | None]:
    """Milliseconds to open and to run once, and peak memory in bytes; None each where the process fails."""
    # -P: a numpy.py in the user's folder must not be imported.
    words = [sys.executable, "-P", "-c", FRESH_PROCESS]
    words += [str(path), str(threads), feed.dtype.name, json.dumps(feed.shape)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=FRESH_TIMEOUT_SECONDS, check=True)
        load_ms, first_ms, peak = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None, None, None
    return load_ms, first_ms, peak


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside a timed block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _warm(run: Run, count: int, limit_ns: int, clock: Clock) -> float:
    """Run until warm or out of time; gives the median in milliseconds."""
    taken: list[int] = []
    start = clock()
    while not taken or (len(taken) < count and clock() - start < limit_ns):
        taken.append(_once(run, clock))
    return float(np.median(taken)) / 1e6


def _once(run: Run, clock: Clock) -> int:
    start = clock()
    run()
    return clock() - start
