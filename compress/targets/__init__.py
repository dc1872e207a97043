"""Where latency is measured: one file per target, and the folder is the table.

A file ``foo_bar.py`` is the target ``foo-bar``; ``foo-bar:ADDRESS`` is the same with an address that the target reads
itself.
Each says in ``SUFFIXES`` which files it runs and gives ``measure(paths, how, target)``: the dense file first, then what
is compared with it. One that must be reached first says so in ``check(target)``, one that measures something else than
milliseconds in ``UNIT``.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

from compress.errors import UsageError, nearest

SAMPLES_KEPT = 200
"""Latencies kept of each file for plots."""

APART = 1.05
"""What differs by less is not told apart, nor called a speed-up. The spread of one run does not hold where a session's
memory lies: of six sessions of one file, by turns, the medians were up to 4 % apart (ResNet-20, one thread)."""


@dataclass(frozen=True)
class Timing:
    """How files are measured; a target that has no use for one of these leaves it.

    Attributes:
        threads: that one operator may use.
        warm_up: inferences of each file before timing; fewer where they would take a quarter of the budget.
        repeats: blocks of each file; fewer, but at least 3, where the budget is short.
        budget_seconds: for the timed blocks of all files.
        batch: used where the file leaves its batch open.
        shapes: of inputs, by name, where a file leaves more open than its batch.
        fresh: whether a fresh process for each file also tells what loading, the first inference and memory take.
    """

    threads: int = 1
    warm_up: int = 50
    repeats: int = 20
    budget_seconds: float = 10.0
    batch: int = 1
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fresh: bool = True


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference.

    Attributes:
        p50: median over all inferences.
        p90: 90th percentile.
        p99: 99th percentile.
        repeats: blocks of inferences that were timed.
        spread: 5th to 95th percentile of the blocks' medians, relative to their median.
    """

    p50: float
    p90: float
    p99: float
    repeats: int
    spread: float


@dataclass(frozen=True)
class Speedup:
    """How many times faster a file ran than the first.

    Attributes:
        value: median over the repeats of the ratio of paired block medians.
        low: 5th percentile of those ratios.
        high: 95th percentile.
    """

    value: float
    low: float
    high: float

    @property
    def claimed(self) -> bool:
        """Whether it may be spoken of: the spread is well apart from 1.

        >>> Speedup(1.1, 0.9, 1.3).claimed, Speedup(1.02, 1.01, 1.04).claimed, Speedup(1.1, 1.06, 1.2).claimed
        (False, False, True)
        """
        return self.low > APART or self.high < 1 / APART


@dataclass(frozen=True)
class Measurement:
    """What a target found for one file; None is unknown.

    Attributes:
        artifact: name of the file.
        target: as asked for.
        provider: ONNX Runtime's execution provider, or the other runtime that ran it.
        threads: that one operator could use.
        status: measured; missing, where the target could not be reached; failed, where the file did not run.
        reason: why it was not measured, else empty.
        latency_ms: of one inference.
        load_ms: opening the file in a fresh process.
        first_ms: the first inference there.
        peak_memory_bytes: of that process, everything included.
        samples_ms: at most 200 latencies, sorted.
        instructions: of one inference, where a target counts them in place of time.
        max_abs: largest difference of an output from this machine's, where a target only compares.
        speedup: over the first file of the same call, timed interleaved with it.
        device: what the target says of itself.
    """

    artifact: str
    target: str
    provider: str
    threads: int
    status: Literal["measured", "missing", "failed"]
    reason: str = ""
    latency_ms: Latency | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    peak_memory_bytes: int | None = None
    samples_ms: tuple[float, ...] = ()
    instructions: int | None = None
    max_abs: float | None = None
    speedup: Speedup | None = None
    device: Mapping[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """Names of the targets."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def find(target: str) -> ModuleType:
    """The module of a target, whatever its address.

    Raises:
        UsageError: no such target; the nearest names are given.
    """
    name = target.partition(":")[0]
    if name not in names():
        raise UsageError(f"no target {target!r}; {nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def unit(target: str) -> str:
    """What a target measures: "ms", "instructions", or "" where it only compares outputs.

    >>> unit("local"), unit("mcu"), unit("qemu-aarch64")
    ('ms', 'instructions', '')
    """
    found: str = getattr(find(target), "UNIT", "ms")
    return found


def check(target: str) -> Mapping[str, str]:
    """Reach a target before hours are spent; what it says of itself, nothing where it has no such check.

    Raises:
        UsageError: no such target, or it is not set up for measuring.
        RunError: it cannot be reached.
    """
    found: Mapping[str, str] = getattr(find(target), "check", lambda target: {})(target)
    return found
