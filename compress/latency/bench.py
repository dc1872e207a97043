"""Times of exported networks on a target, each beside the dense one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compress import targets
from compress.errors import RunError, UsageError
from compress.targets import Measurement, Timing

BLOCK = 8
"""Channels that ONNX Runtime's kernels compute together."""
SECONDS = 0.75
"""Timed of each file in each measurement."""
ROUNDS = 3
"""Measurements of each file, opened anew: where a session's memory lies is worth some percent."""

Write = Callable[[nn.Module, Path], Path]
"""Exports a network into a folder and gives the file that the target runs."""


def no_writer(model: nn.Module, path: Path) -> Path:
    """Of a run that exports nothing.

    Raises:
        UsageError: always.
    """
    raise UsageError("a latency budget needs exported files to measure; this is done in prune-and-export only")


@dataclass(frozen=True)
class Took:
    """Of one file.

    Attributes:
        ratio: of the dense network's time.
        time: milliseconds, or instructions where the target counts them.
        dense: of the dense network, in the same run.
    """

    ratio: float
    time: float
    dense: float


@dataclass(frozen=True)
class Bench:
    """Where candidates are measured.

    Attributes:
        target: as in the recipe.
        write: exports a network.
        input_shape: (C, H, W).
        threads: that one operator may use.
        multiple: widths are multiples of this.
        tell: takes how far a search is, and a line about it.
    """

    target: str
    write: Write
    input_shape: tuple[int, int, int]
    threads: int = 1
    multiple: int = BLOCK
    tell: Callable[[int, str], None] = lambda done, text: None

    def times(self, dense: Path, files: Sequence[Path]) -> list[Took]:
        """Every file beside the dense network's, the median of the rounds; counts, which do not vary, are taken once.

        Raises:
            RunError: one of them was not measured.
        """
        rounds = [self._round(dense, files) for _ in range(ROUNDS if targets.unit(self.target) == "ms" else 1)]
        return [sorted(timings, key=lambda t: t.ratio)[len(rounds) // 2] for timings in zip(*rounds, strict=True)]

    def _round(self, dense: Path, files: Sequence[Path]) -> list[Took]:
        how = Timing(self.threads, warm_up=20, budget_seconds=SECONDS * (1 + len(files)), fresh=False)
        (first, *others), _ = targets.find(self.target).measure([dense, *files], how, self.target)
        before = _time(first)
        times = [(m, _time(m)) for m in others]
        return [Took(1 / m.speedup.value if m.speedup else time / before, time, before) for m, time in times]


def _time(measurement: Measurement) -> float:
    """Milliseconds, or instructions."""
    if measurement.latency_ms is not None:
        return measurement.latency_ms.p50
    if measurement.instructions is not None:
        return float(measurement.instructions)
    reason = measurement.reason or "it measures no time"
    raise RunError(f"target {measurement.target} cannot hold a latency budget: {measurement.artifact}: {reason}")
