"""Measures ONNX files where it runs: on this machine, or sent whole to another one.

It needs Python 3.8, numpy and onnxruntime and imports nothing of this package, so that this one file is all that a
device is sent.

Clock frequency and neighbours drift, and would be taken for a difference between files measured one after the
other. So each repeat times a block of inferences of every file in turn, the order reversed every other time, and
two files are compared within a repeat only.
"""

from __future__ import annotations

import functools
import gc
import glob
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # Python 3.8 could not evaluate these
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    Feed = dict[str, NDArray[Any]]
    Run = Callable[[], object]
    Block = Callable[[int], list[int]]
    """Nanoseconds of each of so many inferences."""
    Findings = dict[str, Any]
    """Of a file: ``load_ms``, ``first_ms`` and ``peak_memory_bytes``; or the ``reason`` why it does not run."""
    Subject = tuple[Block, Callable[[], Findings]]

# ONNX Runtime's wheel writes telemetry files unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

PROVIDER = "CPUExecutionProvider"

BLOCK_MS = 20.0
"""Least length of a block: long against the clock's resolution and a single interruption."""

FEWEST_REPEATS = 3
"""Below this there is no spread to speak of, whatever the time budget."""

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
WHOLE = {f"tensor({name})": name for name in ("int64", "int32", "int8", "uint8", "bool")}
"""Types fed with zeros, the one number that every table has an entry for; uint8 with pixels."""

FRESH_TIMEOUT_SECONDS = 300

UNKNOWN = {"load_ms": None, "first_ms": None, "peak_memory_bytes": None}
"""What a fresh process would have told."""

ARM_CORES = {
    "0xc07": "Cortex-A7", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15", "0xc0e": "Cortex-A17", "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78",
}  # fmt: skip
"""By "CPU part", as util-linux's lscpu names those of implementer 0x41."""

ANSWER = "compress-device: "
"""Begins the line of the answer; a device's login scripts may print lines of their own."""


def measure(
    paths: Sequence[str],
    *,
    threads: int,
    warm_up: int,
    repeats: int,
    budget_seconds: float,
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fresh: bool = True,
    others: Mapping[str, Subject | Findings] | None = None,
) -> dict[str, Any]:
    """Raw findings, as JSON can hold them.

    Args:
        paths: the files to compare.
        threads: that one operator may use.
        warm_up: inferences of each file before timing; fewer where they would take a quarter of the budget.
        repeats: blocks of each file; fewer, but at least 3, where the budget is short.
        budget_seconds: for the timed blocks of all files.
        batch: used where the file leaves its batch open.
        shapes: of inputs, by name, where a file leaves more open than its batch.
        fresh: whether a fresh process for each file also tells what loading, the first inference and memory take.
        others: files that something else than ONNX Runtime runs.

    Returns:
        ``device``: what it is; ``files``: of each its findings, and ``samples_ns`` (a list for each repeat).
    """
    before = conditions("before")
    opened = [(others or {}).get(path) or _open(path, threads, batch, shapes or {}, fresh) for path in paths]
    timings = iter(timed([found[0] for found in opened if isinstance(found, tuple)], warm_up, repeats, budget_seconds))
    device = {**describe(), **before, **conditions("after")}
    files = [{"samples_ns": next(timings), **it[1]()} if isinstance(it, tuple) else it for it in opened]
    return {"device": device, "files": files}


def _open(path: str, threads: int, batch: int, shapes: Mapping[str, Sequence[int]], fresh: bool) -> Subject | Findings:
    """What times a file, and a fresh process that opens it where one is wanted; or why it does not run."""
    try:
        session = open_session(path, threads)
        feed = feed_for(session, batch, shapes)
        session.run(None, feed)
    except Exception as error:  # whatever one file does, the others are measured
        return {"reason": (str(error).strip().splitlines() or [type(error).__name__])[0]}
    run = functools.partial(session.run, None, feed)
    alone = functools.partial(fresh_process, path, threads, feed) if fresh else functools.partial(dict, UNKNOWN)
    return functools.partial(block, run), alone


def open_session(path: str, threads: int) -> InferenceSession:
    """A quiet, sequential session of a file.

    Raises:
        ValueError: ONNX Runtime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # fatal: an error is raised, printing it as well says it twice
    try:
        return onnxruntime.InferenceSession(path, options, providers=[PROVIDER])
    except Exception as error:  # the runtime's errors share no base but Exception
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} refuses the file: {error}") from None


def feed_for(session: InferenceSession, batch: int = 1, shapes: Mapping[str, Sequence[int]] | None = None) -> Feed:
    """Random input of the types and shapes that a model takes, the same every time.

    Args:
        session: of the model.
        batch: used where only the batch is open.
        shapes: by input, where more is.

    Raises:
        ValueError: a type that no numbers are known for, or a free size other than the batch.
    """
    generator = np.random.default_rng(0)
    given = shapes or {}
    return {entry.name: _numbers(entry, batch, given.get(entry.name), generator) for entry in session.get_inputs()}


def _numbers(entry: Any, batch: int, given: Sequence[int] | None, generator: np.random.Generator) -> NDArray[Any]:
    shape = given or [batch if i == 0 and not isinstance(size, int) else size for i, size in enumerate(entry.shape)]
    if not all(isinstance(size, int) for size in shape):
        raise ValueError(f"input {entry.name!r} has shape {entry.shape}; only its batch may be free")
    if entry.type == "tensor(uint8)":
        return generator.integers(0, 256, shape, np.uint8)
    if entry.type in WHOLE:
        return np.zeros(shape, WHOLE[entry.type])
    if entry.type not in DTYPES:
        raise ValueError(f"input {entry.name!r} is {entry.type}; known: {', '.join((*DTYPES, *WHOLE))}")
    return np.asarray(generator.standard_normal(shape), DTYPES[entry.type])


def timed(blocks: Sequence[Block], warm_up: int, repeats: int, budget_seconds: float) -> list[list[list[int]]]:
    """Nanoseconds of each inference, of each block, of each file; interleaved, the order reversed every other time."""
    limit = budget_seconds * 1e9 / 4 / max(1, len(blocks))
    with no_collection():
        usual = [_warm(one, warm_up, limit) for one in blocks]
        counts, repeats = plan(usual, repeats, budget_seconds)
        rows: list[list[list[int]]] = [[] for _ in blocks]
        for repeat in range(repeats):
            order = range(len(blocks)) if repeat % 2 == 0 else reversed(range(len(blocks)))
            for i in order:
                rows[i].append(blocks[i](counts[i]))
    return rows


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
    total_ms = repeats * sum(np.multiply(wanted, usual_ms))
    share = min(1.0, budget_seconds * 1e3 / max(total_ms, 1e-9))
    blocks = [max(1, int(n * share)) for n in wanted]
    round_ms = sum(np.multiply(blocks, usual_ms))
    fitting = int(budget_seconds * 1e3 / max(round_ms, 1e-9))
    return blocks, min(repeats, max(FEWEST_REPEATS, fitting))


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection inside a timed block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _warm(one: Block, count: int, limit_ns: float) -> float:
    """Run until warm or out of time; gives the median in milliseconds."""
    taken: list[int] = []
    while not taken or (len(taken) < count and sum(taken) < limit_ns):
        taken += one(1)
    return float(np.median(taken)) / 1e6


def block(run: Run, count: int, clock: Callable[[], int] = perf_counter_ns) -> list[int]:
    """Nanoseconds of each of so many runs."""
    return [_once(run, clock) for _ in range(count)]


def _once(run: Run, clock: Callable[[], int]) -> int:
    start = clock()
    run()
    return clock() - start


def fresh_process(path: str, threads: int, feed: Feed) -> Findings:
    """Milliseconds to open and to run once, and peak memory in bytes; None each where the process fails."""
    # -P: a numpy.py beside this file must not be imported; before 3.11 only devices run it, in a folder of its own.
    words = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), os.path.abspath(__file__)]
    inputs = [(name, values.dtype.name, values.shape) for name, values in feed.items()]
    words += ["once", path, str(threads), json.dumps(inputs)]
    try:
        # no input of its own: what stands there is the request of a device
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=FRESH_TIMEOUT_SECONDS, check=True
        )
        found: Findings = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return dict(UNKNOWN)
    return found


def once(path: str, threads: str, inputs: str) -> Findings:
    """What `fresh_process` asks for, of this process."""
    import onnxruntime  # noqa: F401  # its import is no part of opening a file

    start = perf_counter_ns()
    session = open_session(path, int(threads))
    loaded = perf_counter_ns()
    feed = {name: np.zeros(shape, dtype) for name, dtype, shape in json.loads(inputs)}
    first = perf_counter_ns()
    session.run(None, feed)
    end = perf_counter_ns()
    return {"load_ms": (loaded - start) / 1e6, "first_ms": (end - first) / 1e6, "peak_memory_bytes": peak_memory()}


def peak_memory() -> int | None:
    """Most memory that this process has held, in bytes; None where it cannot be read."""
    # Not getrusage: its peak outlives exec, so it would report the parent's.
    found = [int(text.split()[0]) * 1024 for text in _fields(_read("/proc/self/status"), "VmHWM")]
    return found[0] if found else None


def describe() -> dict[str, str]:
    """What this machine says of itself; what it does not say is left out."""
    import onnxruntime

    found = {
        "board": _read("/sys/firmware/devicetree/base/model"),
        "cpu": cpu_name(_read("/proc/cpuinfo")) or platform.processor(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count() or ""),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }
    return {name: text for name, text in found.items() if text}


def conditions(when: str) -> dict[str, str]:
    """Temperature of the hottest zone and frequency of the fastest core, where they can be read."""
    degrees = _largest("/sys/class/thermal/thermal_zone*/temp")
    kilohertz = _largest("/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")
    found = {}
    if degrees is not None:
        found[f"temperature_{when}_c"] = f"{degrees / 1e3:.1f}"
    if kilohertz is not None:
        found[f"frequency_{when}_mhz"] = f"{kilohertz / 1e3:.0f}"
    return found


def _largest(pattern: str) -> int | None:
    texts = [_read(path) for path in glob.glob(pattern)]
    return max((int(text) for text in texts if text.lstrip("-").isdigit()), default=None)


def cpu_name(cpuinfo: str) -> str:
    """What /proc/cpuinfo calls the CPU; Linux on ARM gives numbers, one for each kind of core."""
    parts = [ARM_CORES.get(number, f"ARM part {number}") for number in _fields(cpuinfo, "CPU part")]
    return ", ".join(_fields(cpuinfo, "model name") or parts)


def _fields(text: str, name: str) -> list[str]:
    """The different values of the lines ``name: value``."""
    lines = [line.partition(":") for line in text.splitlines()]
    return list(dict.fromkeys(value.strip() for key, _, value in lines if key.strip() == name))


def _read(path: str) -> str:
    """A small file of the system, empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \n")
    except OSError:
        return ""


def serve() -> None:
    """Answer one request that stands on standard input, followed by the files; the folder stood in is private."""
    # a group of its own: the shell that will remove the folder must outlive it
    os.setpgid(0, 0)
    stream = sys.stdin.buffer
    asked = json.loads(stream.readline())
    paths = []
    for number, (suffix, size) in enumerate(asked["files"]):
        paths.append(f"{number}{suffix}")
        _receive(paths[-1], size)
    threading.Thread(target=_end_with_the_connection, daemon=True).start()
    found = measure(paths, **asked["how"]) if paths else {"device": describe(), "files": []}
    print(ANSWER + json.dumps(found), flush=True)


def _receive(path: str, size: int) -> None:
    with open(path, "wb") as file:
        while size:
            part = sys.stdin.buffer.read(min(size, 1 << 20))
            if not part:
                raise EOFError("the connection was lost")
            size -= file.write(part)


def _end_with_the_connection() -> None:
    """Standard input ends when the other side has gone: then nobody waits for the answer."""
    # not the buffered stream: its lock, held by a thread that waits, makes Python abort on its way out
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        print(json.dumps(once(*sys.argv[2:])))
    else:
        serve()
