"""A budget of time: how wide every layer may be so that the network takes as long as asked, found by measuring.

Weights do not matter for time. So candidates of several sizes are cut from the network as it is, exported and measured
on the target beside the dense network, before anything is trained; the widths of the best one become the step's
budget, and the method prunes to exactly these. What was measured is what is trained.

Runtimes compute channels in blocks of eight or more, and a width between two multiples costs what the larger one does.
So in ONNX Runtime candidates have widths in multiples of eight, unless the step says ``round_channels`` otherwise.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import cost, targets
from compress.budget import Budget, Goal, select
from compress.channel_units import ChannelUnits, gather
from compress.compaction import ChannelGroup, channel_groups, remove
from compress.errors import RunError, UsageError
from compress.targets import Measurement, Speedup
from compress.units import Keep

BLOCK = 8
SEARCHES = 8
"""Candidates measured, at most."""
SECONDS = 1.5
"""Given to each measurement of two files."""
ROUNDS = 3
"""Measurements of each candidate, with the files opened anew: where a session's memory lies is worth some percent."""
NEAR = 1.02
"""A candidate may take this much longer than asked: less than a measurement varies."""

Write = Callable[[nn.Module, Path], Path]
"""Exports a network into a folder and gives the file that the target runs."""


def no_writer(model: nn.Module, path: Path) -> Path:
    """Of a run that exports nothing.

    Raises:
        UsageError: always.
    """
    raise UsageError("a latency budget needs exported files to measure; this is done in prune-and-export only")


@dataclass(frozen=True)
class Candidate:
    """A measured size.

    Attributes:
        keep: channels of every block.
        macs: multiply-accumulates.
        ratio: of the dense network's time.
        time: milliseconds, or instructions where the target counts them.
        dense: of the dense network, in the same run.
    """

    keep: dict[str, int]
    macs: int
    ratio: float
    time: float
    dense: float


def search(model: nn.Module, dense: nn.Module, budget: Budget, bench: "Bench") -> dict[str, Any]:
    """Measure candidates until one takes the time asked for.

    Args:
        model: to be narrowed, on the CPU, in evaluation mode.
        dense: what times are relative to.
        budget: its ``latency`` is asked for; ranking, floor and skip say which channels go first.
        bench: where and how files are written and measured.

    Returns:
        ``keep`` and the figures of the best candidate, and all that were ``tried``; JSON-able.

    Raises:
        UsageError: no candidate is as fast as asked.
        RunError: the target does not measure.
    """
    goal = Goal.read(budget.latency or "")
    example = torch.zeros(2, *bench.input_shape)
    groups = channel_groups(model, example)
    values, positions = dict(model.named_parameters()), cost.positions(model, bench.input_shape)
    whole, macs = cost.weight_count(dense), cost.macs(dense, bench.input_shape)
    units = ChannelUnits.of(groups, values, positions, whole, macs)
    members = gather([group for group in groups if group.removable_exactly], values, positions)
    scores = {block: score.detach() for block, score in units.scores(values).items()}
    low, high = (
        0.0,
        units.macs({block: torch.ones(size, dtype=torch.bool) for block, size in units.blocks.items()}) / macs,
    )
    tried: dict[tuple[int, ...], Candidate] = {}
    with tempfile.TemporaryDirectory(prefix="compress-latency-") as folder:
        reference = bench.write(dense, Path(folder, "dense"))
        for number in range(SEARCHES):
            share = (low + high) / 2
            keep = _widths(units, scores, budget, share, bench.multiple)
            key = tuple(int(kept.sum()) for kept in keep.values())
            if key not in tried:
                narrow = _narrowed(model, example, members, keep)
                file = bench.write(narrow, Path(folder, f"candidate{number}"))
                tried[key] = bench.measured(reference, file, keep, cost.macs(narrow, bench.input_shape))
            found = tried[key]
            if found.ratio <= goal.share(found.dense):
                low = share
            else:
                high = share
    return _chosen(list(tried.values()), goal, budget, bench.target)


def _chosen(tried: list[Candidate], goal: Goal, budget: Budget, target: str) -> dict[str, Any]:
    """The slowest candidate that is fast enough."""
    fast = [c for c in tried if c.ratio <= NEAR * goal.share(c.dense)]
    if not fast:
        best = min(tried, key=lambda c: c.ratio)
        raise UsageError(
            f"latency budget {budget.latency} on target {target}: the fastest of {len(tried)} candidates took "
            f"{best.ratio:.2f} of the dense network's time ({best.time:.4g} against {best.dense:.4g}); ask for more, "
            "lower the budget's floor, or choose another network"
        )
    best = max(fast, key=lambda c: c.ratio)
    history = [{"macs": c.macs, "ratio": c.ratio, "time": c.time} for c in tried]
    return {"target": target, "asked": budget.latency, **dataclasses.asdict(best), "tried": history}


@dataclass(frozen=True)
class Bench:
    """Where candidates are measured.

    Attributes:
        target: as in the recipe.
        write: exports a network.
        input_shape: (C, H, W).
        threads: that one operator may use.
        multiple: widths are multiples of this.
    """

    target: str
    write: Write
    input_shape: tuple[int, int, int]
    threads: int = 1
    multiple: int = BLOCK

    def measured(self, dense: Path, file: Path, keep: Keep, macs: int) -> Candidate:
        """One candidate beside the dense network.

        Raises:
            RunError: one of them was not measured.
        """
        how = targets.Timing(threads=self.threads, warm_up=20, budget_seconds=SECONDS)
        rounds = []
        for _ in range(ROUNDS):
            found, speedup = targets.find(self.target).measure([dense, file], how, self.target)
            before, after = (_time(measurement) for measurement in found)
            ratio = 1 / speedup.value if isinstance(speedup, Speedup) else after / before
            rounds.append((ratio, after, before))
        ratio, after, before = sorted(rounds)[ROUNDS // 2]
        return Candidate({name: int(kept.sum()) for name, kept in keep.items()}, macs, ratio, after, before)


def _time(measurement: Measurement) -> float:
    """Milliseconds, or instructions."""
    if measurement.latency_ms is not None:
        return measurement.latency_ms.p50
    if measurement.instructions is not None:
        return float(measurement.instructions)
    reason = measurement.reason or "it measures no time"
    raise RunError(f"target {measurement.target} cannot hold a latency budget: {measurement.artifact}: {reason}")


def _widths(
    units: ChannelUnits, scores: Mapping[str, torch.Tensor], budget: Budget, share: float, multiple: int
) -> Keep:
    """Channels of a network of about this share of the multiply-accumulates, in multiples."""
    asked = dataclasses.replace(budget, latency=None, macs=share)
    try:
        keep = select(asked, units, scores)
    except UsageError:  # smaller than one unit per layer, or than the floor: as small as it gets
        keep = select(dataclasses.replace(asked, macs=None, keep=dict.fromkeys(units.blocks, 1)), units, scores)
    rounded = {}
    for block, kept in keep.items():
        size = len(kept)
        count = min(size, max(1, round(int(kept.sum()) / multiple)) * multiple)
        order = scores[block].argsort(descending=True, stable=True)
        rounded[block] = torch.zeros(size, dtype=torch.bool).index_fill(0, order[:count], True)
    return rounded


def _narrowed(model: nn.Module, example: torch.Tensor, members: dict[str, list[ChannelGroup]], keep: Keep) -> nn.Module:
    gone = [
        group for block, kept in keep.items() for group, stays in zip(members[block], kept, strict=True) if not stays
    ]
    return remove(model, example, gone).model if gone else model
