"""A budget of time: how wide every layer may be so that the network takes as long as asked, found by measuring.

Weights do not matter for time. So before anything is pruned, networks of several widths are cut from the network as
it is, exported and measured on the target beside the dense one. First with each block narrowed alone, which gives a
table of what every width saves (`table`); then whole candidates, whose widths the table says save the time needed
while as little as possible is lost of the logarithm of what every block keeps. The widths of the best one become the
step's budget, and the method prunes to exactly these. What was measured is what is trained.

In ONNX Runtime candidates have widths in multiples of eight, which is how its kernels compute channels, unless the
step says ``round_channels`` otherwise.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from compress import targets
from compress.budget import Budget, Goal
from compress.errors import UsageError
from compress.latency import table
from compress.latency.bench import BLOCK, Bench, Took, Write, no_writer
from compress.latency.laboratory import Candidate, Laboratory, Subject
from compress.latency.table import Row
from compress.run_directory import key_of

if TYPE_CHECKING:  # which imports this module
    from compress.run import Payload, Run

__all__ = ["Bench", "Write", "check", "counts", "no_writer", "search"]

SEARCHES = 8
"""Whole candidates measured, at most."""
NEAR = 1.02
"""A candidate may take this much longer than asked: less than a measurement varies."""
CLOSE = 0.98
"""A candidate that takes this share of the time asked for, or more, ends the search."""


def check(budget: Budget, asked: Sequence[str]) -> None:
    """Whether the first target can hold a budget of time at all; any other budget passes.

    Args:
        budget: of a step.
        asked: targets, as in the recipe.

    Raises:
        UsageError: there is none, or it measures something else.
    """
    if budget.latency is None:
        return
    said = f"latency budget {budget.latency}"
    if not asked:
        raise UsageError(f"{said} needs a target to measure on; add --target local")
    unit = targets.unit(asked[0])
    if not unit:
        raise UsageError(
            f"{said}: the first target, {asked[0]}, only compares outputs; put one that measures before it"
        )
    if unit != "ms" and Goal.read(budget.latency).ms is not None:
        raise UsageError(f"{said}: target {asked[0]} counts {unit}; write a share of the dense network's, such as 0.5x")


def counts(run: "Run", number: int, before: "Payload") -> Budget:
    """A step's budget of time as counts per layer, measured once per run directory.

    Args:
        run: what was found is added to its ``latencies``; that nothing has to go, to its directory's notes.
        number: of the step.
        before: the network it starts from.
    """
    step, checking = run.recipe.prune[number], run.recipe.validate_
    # as compaction rounds after this step
    target, multiple = checking.targets[0], run.recipe.multiple(number)
    if multiple == 1 and ".onnx" in targets.find(target).SUFFIXES:
        multiple = BLOCK
    how = {"target": target, "threads": checking.threads, "batch": run.recipe.export.batch, "multiple": multiple}
    key = key_of(network=run.key, budget=asdict(step.budget), **how)[:12]

    def choose() -> dict[str, Any]:
        with run.display.stage(f"latency-{number} {step.budget.latency} on {target}", 0):
            bench = Bench(target, run.write, run.data.input_shape, checking.threads, multiple, run.display.piece)
            return search(run.model(before), run.model(run.payloads["dense"]), step.budget, bench)

    found = run.directory.decide(f"latency-{number}-{key}", choose)
    if found.get("table") == {}:
        run.directory.notes.append(
            f"prune-{number}: the network already takes no more than latency budget {step.budget.latency} on {target}, "
            "so the step removes no channel"
        )
    run.latencies.append({"step": number, **found})
    return replace(step.budget, latency=None, keep=found["keep"], floor=0.0, skip=())


def search(model: nn.Module, dense: nn.Module, budget: Budget, bench: Bench) -> dict[str, Any]:
    """Measure what every width saves, then candidates until one takes the time asked for.

    A network that takes no more as it is stays as it is, and has no table.

    Args:
        model: to be narrowed, on the CPU, in evaluation mode.
        dense: what times are relative to.
        budget: its ``latency`` is asked for, and its floor and skip hold.
        bench: where and how files are written and measured.

    Returns:
        ``keep`` and the figures of the best candidate, all that were ``tried``, and the ``table``; JSON-able.

    Raises:
        UsageError: no candidate is as fast as asked, or the network has no channel to remove.
        RunError: the target does not measure.
    """
    goal = Goal.read(budget.latency or "")
    subject = Subject.of(model, dense, bench.input_shape, budget, bench.multiple)
    with tempfile.TemporaryDirectory(prefix="compress-latency-") as folder:
        laboratory = Laboratory(subject, bench, bench.write(dense, Path(folder, "dense")))
        tried, rows = laboratory.measured([subject.units.blocks]), dict[str, Row]()
        whole = tried[0].timing
        bench.tell(0, f"the network as it is takes {whole.ratio:.3f} of the dense network's time")
        if whole.ratio > goal.share(whole.dense):
            rows = table.measured(
                subject.units,
                subject.least,
                lambda asked: [whole.ratio - candidate.timing.ratio for candidate in laboratory.measured(asked)],
            )
            tried = _approach(laboratory, rows, whole, goal)
    return {**_chosen(tried, goal, budget, bench.target), "table": {block: asdict(row) for block, row in rows.items()}}


def _approach(laboratory: Laboratory, rows: Mapping[str, Row], whole: Took, goal: Goal) -> list[Candidate]:
    """Candidates nearer and nearer to the goal.

    What two blocks save together is not quite the sum. So the table is asked for what the last candidate missed by more
    or less, and where that leads nowhere, for the middle of what is left.
    """
    lost = laboratory.subject.lost(rows)
    low, high = whole.ratio - sum(row.saved[0] for row in rows.values()), whole.ratio
    guess, tried = goal.share(whole.dense), dict[tuple[int, ...], Candidate]()
    for _ in range(SEARCHES):
        widths = table.narrowest(rows, lost, whole.ratio - guess)
        key = tuple(widths.values())
        if key not in tried:
            tried[key] = laboratory.measured([widths])[0]
            said = f"candidate {len(tried)} takes {tried[key].timing.ratio:.3f} of the dense network's time"
            laboratory.bench.tell(len(tried), said)
        timing = tried[key].timing
        asked = goal.share(timing.dense)
        if CLOSE * asked <= timing.ratio <= NEAR * asked:
            break
        low, high = (guess, high) if timing.ratio <= asked else (low, guess)
        guess += asked - timing.ratio
        if not low < guess < high:
            guess = (low + high) / 2
    return list(tried.values())


def _chosen(tried: list[Candidate], goal: Goal, budget: Budget, target: str) -> dict[str, Any]:
    """The slowest candidate that is fast enough."""
    fast = [c for c in tried if c.timing.ratio <= NEAR * goal.share(c.timing.dense)]
    if not fast:
        best = min(tried, key=lambda c: c.timing.ratio)
        raise UsageError(
            f"latency budget {budget.latency} on target {target}: the fastest of {len(tried)} candidates took "
            f"{best.timing.ratio:.2f} of the dense network's time ({best.timing.time:.4g} against "
            f"{best.timing.dense:.4g}); ask for more, lower the budget's floor, or choose another network"
        )
    best = max(fast, key=lambda c: c.timing.ratio)
    history = [{"macs": c.macs, "ratio": c.timing.ratio, "time": c.timing.time} for c in tried]
    return {
        "target": target,
        "asked": budget.latency,
        "keep": best.keep,
        "macs": best.macs,
        **asdict(best.timing),
        "tried": history,
    }
