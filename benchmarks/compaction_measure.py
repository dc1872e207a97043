"""One row of `compaction.py`: zero half of the removable groups, compact, count what is gone, time every phase."""

import functools
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from compaction_models import NORMS, build
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.compaction import ChannelGroup, Compaction, channel_groups, compact

VARIANTS = ("zero", "constants")
SHARE = 0.5
SEED = 1

PHASES = {
    "load": "export",
    "analyse": "analysis",
    "Liveness.__post_init__": "analysis",
    "Liveness.solve": "analysis",
    "make_plan": "analysis",
    "narrowed": "apply",
    "Rewriter.run": "apply",
    "install": "apply",
    "prove": "proof",
    "check_training": "proof",
    "refuse_hidden_parts": "proof",
    "shipped_error": "proof",
}
"""Function of compress.compaction -> the phase its time belongs to; the only place that knows these names."""


class Stopwatch:
    """Seconds per phase; a phase inside another one counts for itself only."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self._inner: list[float] = []

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            started = self.clock()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.clock() - started
                self.seconds[phase] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return run

    def watch_compaction(self) -> None:
        """Put a timer around every function of PHASES, wherever it was imported to; only for this process."""
        modules = [module for name, module in sys.modules.items() if name.startswith("compress.compaction")]
        for path, phase in PHASES.items():
            name, _, method = path.partition(".")
            holders = [module for module in modules if hasattr(module, name)]
            if not holders:
                print(f"compress.compaction has no {name} any more: {phase} is not timed; see PHASES", file=sys.stderr)
                continue
            target = getattr(holders[0], name)
            if method:
                setattr(target, method, self.timed(getattr(target, method), phase))
                continue
            timer = self.timed(target, phase)
            for module in holders:
                if getattr(module, name) is target:
                    setattr(module, name, timer)


def measure(name: str, variant: str) -> dict[str, Any]:
    """Compact one network and describe what happened."""
    watch = Stopwatch()
    watch.watch_compaction()
    model, example = build(name)
    row: dict[str, Any] = {"image": example.shape[-1], "params_before": size(model)}
    started = time.perf_counter()
    groups = channel_groups(model, example)
    row["seconds"] = {"groups": time.perf_counter() - started}
    chosen = choose(groups, model)
    row |= {"groups": len(groups), "exact": sum(g.removable_exactly for g in groups), "asked": len(chosen)}
    blank(model, chosen, variant)
    watch.seconds.clear()
    started = time.perf_counter()
    result = compact(model, example)
    row["seconds"] |= {"compact": time.perf_counter() - started, **watch.seconds}
    row |= {
        "removed": len(chosen) - survivors(result.model, chosen, model),
        "params_after": size(result.model),
        "kept": size(result.model) / size(model),
        "error": result.max_error_relative,
        "compaction": facts(result),
        "fresh_float32_difference": difference(model, result.model, example),
    }
    return row


def choose(groups: list[ChannelGroup], model: nn.Module) -> list[ChannelGroup]:
    """A random half of the groups that can go exactly; every axis they cut keeps at least one index."""
    exact = [group for group in groups if group.removable_exactly]
    tensors = model.state_dict(keep_vars=True)
    left = {(p.name, p.axis): tensors[p.name].shape[p.axis] for group in exact for p in group.slices}
    chosen: list[ChannelGroup] = []
    for index in torch.randperm(len(exact), generator=torch.Generator().manual_seed(SEED)).tolist():
        cut = Counter[tuple[str, int]]()
        for part in exact[index].slices:
            cut[part.name, part.axis] += len(part.indices)
        if len(chosen) < SHARE * len(exact) and all(left[key] > count for key, count in cut.items()):
            chosen.append(exact[index])
            for key, count in cut.items():
                left[key] -= count
    return chosen


@torch.no_grad()
def blank(model: nn.Module, chosen: list[ChannelGroup], variant: str) -> None:
    """Make the chosen channels constant: zero every producer, or leave random biases and normalisation shifts."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = dict(model.named_parameters())
    for part in [part for group in chosen for part in group.slices if part.producer]:
        tensor, indices = tensors[part.name], torch.tensor(part.indices)
        if variant == "zero" or makes_rows(model, part.name) or is_gamma(model, part.name):
            tensor.index_fill_(part.axis, indices, 0.0)
        elif part.name.endswith("bias"):
            shape = [*tensor.shape[: part.axis], len(indices), *tensor.shape[part.axis + 1 :]]
            tensor.index_copy_(part.axis, indices, torch.randn(shape, generator=generator))
        # what remains multiplies (layer scale): zero here would make the constant zero


def makes_rows(model: nn.Module, name: str) -> bool:
    """True for the weight of a convolution, a linear layer or the projections of an attention."""
    path, _, attribute = name.rpartition(".")
    layers = nn.modules.conv._ConvNd | nn.Linear | nn.MultiheadAttention
    return isinstance(model.get_submodule(path), layers) and attribute.endswith("weight")


def is_gamma(model: nn.Module, name: str) -> bool:
    """True for the weight of a normalisation."""
    path, _, attribute = name.rpartition(".")
    return isinstance(model.get_submodule(path), NORMS) and attribute == "weight"


def survivors(narrow: nn.Module, chosen: list[ChannelGroup], model: nn.Module) -> int:
    """How many chosen groups are still there: their rows, and no others, are zero in the narrowed weight.

    A group is looked for in the first weight that makes it. Counting lost rows instead would credit channels that
    died for another reason.
    """
    homes = [next(p for p in group.slices if p.producer and makes_rows(model, p.name)) for group in chosen]
    tensors = dict(narrow.named_parameters())
    count = 0
    for (name, axis, width), groups in Counter((p.name, p.axis, len(p.indices)) for p in homes).items():
        rows = int((tensors[name].movedim(axis, 0).flatten(1) == 0).all(1).sum())
        count += min(groups, -(-rows // width))
    return count


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def facts(result: Compaction) -> dict[str, Any]:
    """What the result says of itself: numbers and words, and frozen operators counted by kind."""
    said = {field.name: getattr(result, field.name) for field in fields(result)}
    said = {key: str(value) if isinstance(value, torch.dtype) else value for key, value in said.items()}
    plain = {key: value for key, value in said.items() if isinstance(value, int | float | str | None)}
    kinds = Counter(re.sub(r" in [^(]+\(", " (", text, count=1) for text in result.frozen_operators)
    return plain | {"frozen_operators": dict(kinds)}


@torch.no_grad()
def difference(model: nn.Module, narrow: nn.Module, example: Tensor) -> float:
    """Max |a - b| / max |a| in float32 on images that the proof never saw."""
    fresh = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(99))
    expected, found = ([leaf.double() for leaf in tree_leaves(network.eval()(fresh))] for network in (model, narrow))
    gap = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    return gap / max(float(a.abs().max()) for a in expected)


def peak_megabytes() -> float:
    """The largest resident size of this process since it started its program."""
    # not getrusage: after fork and exec its maximum includes the parent's
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
