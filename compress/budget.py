"""The pruning goal, and the selection of units that meets it exactly."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch
from torch import Tensor

from compress.errors import UsageError, nearest
from compress.masks import rank
from compress.ranking import Ranking, comparable
from compress.units import Keep, Units
from compress.widths import choices, in_steps

FORMS = ("sparsity", "compression", "macs", "keep", "drop_points", "latency")
"""Ways to say how much may be left."""


@dataclass(frozen=True)
class Budget:
    """What may be left; at most one of the first six is given, and none keeps all that the units allow.

    Sparsity, compression and macs are measured against the *dense* model, also in a later step on a
    narrower one. Counts are met exactly: the largest selection that does not exceed the goal is kept.

    Attributes:
        sparsity: fraction of the prunable weights that become zero, in [0, 1).
        compression: prunable weights / weights left, >= 1.
        macs: multiply-accumulates left: a fraction in (0, 1], or a count above 1.
        keep: per layer, units left: a count (int >= 1) or a fraction (float in (0, 1]); layers not named stay whole.
        drop_points: percentage points that the held-out accuracy may fall before any retraining: the fewest units
            stay that hold it (Wang et al. 2020, doi 10.11772/j.issn.1001-9081.2019081374).
        latency: time on the run's first target, "0.5x" of the dense network's or "2ms"; the run replaces it by the
            counts per layer that `compress.latency` finds.
        scope: ``global`` ranks all units together, ``layer`` takes the same fraction of every layer.
        ranking: how the global scope compares scores of different layers (see `compress.ranking`): ``raw``,
            ``normalised`` by their layer's mean, or ``balanced``, which spares layers that are thin already and units
            that cost little.
        floor: least fraction of every layer that stays (one unit always does).
        skip: layers that stay whole, by name or pattern: ``["conv1", "*.conv2"]``; counts per layer need none.
    """

    sparsity: float | None = None
    compression: float | None = None
    macs: float | None = None
    keep: dict[str, int | float] | None = None
    drop_points: float | None = None
    latency: str | None = None
    scope: Literal["global", "layer"] = "global"
    ranking: Ranking = "raw"
    floor: float = 0.0
    skip: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # read when a recipe is validated

    def __post_init__(self) -> None:
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"a budget is one of {', '.join(FORMS)}; found {' and '.join(given)}")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity must be in [0, 1), got {self.sparsity:g}; for 90 % write 0.9")
        if self.compression is not None and not self.compression >= 1:
            raise UsageError(f"compression must be at least 1, got {self.compression:g}; 40 keeps 1/40 of the weights")
        if self.macs is not None and not self.macs > 0:
            raise UsageError(f"macs must be a fraction in (0, 1] or a count, got {self.macs:g}")
        if self.drop_points is not None and not 0 <= self.drop_points < 100:
            raise UsageError(f"drop_points must be in [0, 100), got {self.drop_points:g}; for 2 % write 2")
        if self.latency is not None:
            Goal.read(self.latency)
        if not 0 <= self.floor <= 1:
            raise UsageError(f"floor must be in [0, 1], got {self.floor:g}")
        for layer, amount in (self.keep or {}).items():
            if amount <= 0 or (isinstance(amount, float) and amount > 1):
                raise UsageError(
                    f"keep.{layer} must be a count >= 1 or a fraction in (0, 1] (write 1.0 for all), got {amount:g}"
                )

    @property
    def free(self) -> bool:
        """Whether no form is given: then a method that has a measure of its own decides how much stays."""
        return all(getattr(self, name) is None for name in FORMS)

    def describe(self) -> str:
        """Say the goal in a few words, for progress lines."""
        if self.keep is not None:
            return f"keep {sum(self.keep.values()):g} in {len(self.keep)} layers"
        name = next((n for n in FORMS if getattr(self, n) is not None), None)
        if name == "latency":
            return f"latency {self.latency}"
        return f"{name} {getattr(self, name):g}" if name else "all that the units allow"


@dataclass(frozen=True)
class Goal:
    """A time asked for.

    Attributes:
        ratio: of the dense network's time; None where it is absolute.
        ms: milliseconds; None where it is relative.
    """

    ratio: float | None = None
    ms: float | None = None

    @classmethod
    def read(cls, text: str) -> "Goal":
        """From "0.5x" or "2ms".

        Raises:
            UsageError: it is neither, or not positive, or a ratio of 1 or more.

        >>> Goal.read("0.5x"), Goal.read("2 ms")
        (Goal(ratio=0.5, ms=None), Goal(ratio=None, ms=2.0))
        """
        found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(x|ms)\s*", text)
        value = float(found[1]) if found else 0.0
        if found is None or value <= 0 or (found[2] == "x" and value >= 1):
            raise UsageError(
                f"latency budget {text!r}: write a share of the dense network's time, 0.5x, or a time, 2ms"
            )
        return cls(ratio=value) if found[2] == "x" else cls(ms=value)

    def share(self, dense: float) -> float:
        """Of the dense network's time."""
        return self.ratio if self.ratio is not None else (self.ms or 0.0) / dense


Relax = Callable[[float], float]
"""Maps the final kept fraction to the one in force now; the identity at the end of a schedule."""


def ending(kept: float) -> float:
    """The goal itself."""
    return kept


def select(
    budget: Budget,
    units: Units,
    scores: Mapping[str, Tensor],
    relax: Relax = ending,
    accuracy: Callable[[Keep], float] | None = None,
) -> Keep:
    """Units that stay: those with the largest scores, as many as the budget allows.

    For element units and scores ``|v|`` this is the Euclidean projection of ``v`` onto the budget's set
    (Zhang et al. 2018, eq. 9); for channel units and L2 norms, the projection onto group sparsity.

    Args:
        budget: the goal.
        units: what is counted, and the cost of a selection.
        scores: one tensor of shape (units,) per layer, larger = more important; -inf is dropped first.
        relax: schedule of the kept fraction.
        accuracy: held-out accuracy of a selection; needed for ``drop_points``.

    Raises:
        UsageError: ``keep`` names a layer that does not exist, or the goal cannot be met even with the floor.
    """
    allowed = units.allowed(scores)
    # What a pattern forbids ranks last, so the counts stay exact.
    ranked = {name: score.where(allowed[name], -torch.inf) for name, score in scores.items()}
    keep = _within(budget, units, ranked, relax, accuracy)
    return {name: kept & allowed[name] for name, kept in keep.items()}


def _within(
    budget: Budget,
    units: Units,
    scores: Mapping[str, Tensor],
    relax: Relax,
    accuracy: Callable[[Keep], float] | None,
) -> Keep:
    if budget.latency is not None:
        raise UsageError(f"{budget.describe()} has to be measured first; this is done in prune-and-export only")
    if budget.keep is not None:
        return _select_per_layer(budget, units, scores, relax)
    by_macs = budget.macs is not None
    cost, dense = (units.macs, units.dense_macs) if by_macs else (units.weights, units.dense_weights)
    joining = _joining(budget, units, scores, cost)
    total = sum(units.blocks.values())

    def path(count: int) -> Keep:
        return {name: first <= count for name, first in joining.items()}

    if budget.drop_points is not None:
        if accuracy is None:
            raise UsageError("drop_points needs data to measure the accuracy on; give another form of budget")
        least = accuracy(path(total)) - budget.drop_points / 100
        count = _fewest(lambda count: accuracy(path(count)) >= least, total)
        return path(round(relax(count / total) * total))
    kept = kept_fraction(budget, dense)
    if kept is None:
        return path(total)
    # A tolerance of one part in a billion keeps (1 - 0.9) * 1000 from becoming 99.
    goal = int(relax(kept) * dense * (1 + 1e-9))
    return _filled(_largest(path, total, cost, goal, budget), units, joining, cost, goal)


def kept_fraction(budget: Budget, dense: int) -> float | None:
    """Fraction of the dense network's weights or operations that may stay; None where a budget says it otherwise.

    Args:
        budget: the goal.
        dense: weights of the dense network, or operations where the budget counts these.
    """
    if budget.macs is not None:
        return budget.macs / dense if budget.macs > 1 else budget.macs
    if budget.sparsity is not None:
        return 1 - budget.sparsity
    return 1 / budget.compression if budget.compression is not None else None


def _fewest(holds: Callable[[int], bool], total: int) -> int:
    """Smallest count that holds, by bisection: with fewer units the accuracy falls, if not at every single one."""
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _largest(path: Callable[[int], Keep], total: int, cost: Callable[[Keep], int], goal: int, budget: Budget) -> Keep:
    """Largest selection on a nested path whose cost does not exceed the goal, by bisection."""
    if cost(path(total)) <= goal:
        return path(total)
    if (least := cost(path(0))) > goal:
        raise UsageError(
            f"{budget.describe()} leaves {goal}, but the least that stays of every layer (one unit, or round_channels; "
            f"floor {budget.floor:g}) already costs {least}; ask for less"
        )
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(path(middle)) <= goal else (low, middle)
    return path(low)


def floors(budget: Budget, scores: Mapping[str, Tensor]) -> dict[str, int]:
    """Units that stay in every block whatever the goal; one always does, and all of a layer that is skipped."""
    whole = {name for name in scores for pattern in budget.skip if fnmatchcase(name, pattern)}
    for pattern in budget.skip:
        if not any(fnmatchcase(name, pattern) for name in scores):
            raise UsageError(f"skip names no layer {pattern!r}; {nearest(pattern, scores)}")
    return {name: s.numel() if name in whole else max(1, round(budget.floor * s.numel())) for name, s in scores.items()}


def _joining(
    budget: Budget, units: Units, scores: Mapping[str, Tensor], cost: Callable[[Keep], int]
) -> dict[str, Tensor]:
    """Of every unit, the count of a selection from which on it stays; 0 on a layer's floor.

    Selections of rising counts are nested, and of a layer they keep the largest scores.
    """
    least = floors(budget, scores)
    if budget.scope == "global":
        joining = _in_one_ranking(comparable(budget.ranking, scores, units, cost), scores, least)
    else:
        joining = _alike(scores, least)
    steps = {name: units.step(name) for name in joining}
    return {n: in_steps(first, least[n], steps[n]) if steps[n] > 1 else first for n, first in joining.items()}


def _in_one_ranking(
    compared: Mapping[str, Tensor], scores: Mapping[str, Tensor], least: Mapping[str, int]
) -> dict[str, Tensor]:
    on_floor = {name: rank(score) < least[name] for name, score in scores.items()}
    flat = torch.cat([torch.where(on_floor[name], torch.inf, score.double()) for name, score in compared.items()])
    ranks = torch.split(rank(flat), [score.numel() for score in scores.values()])
    return {name: torch.where(on_floor[name], 0, r + 1) for name, r in zip(scores, ranks, strict=True)}


def _alike(scores: Mapping[str, Tensor], least: Mapping[str, int]) -> dict[str, Tensor]:
    """Every layer keeps the same fraction: of n units, ``count * n // total``."""
    total = sum(score.numel() for score in scores.values())
    ranks = {name: rank(score) for name, score in scores.items()}
    return {name: torch.where(r < least[name], 0, -(-(r + 1) * total // r.numel())) for name, r in ranks.items()}


def _filled(keep: Keep, units: Units, joining: Mapping[str, Tensor], cost: Callable[[Keep], int], goal: int) -> Keep:
    """Give what whole steps leave of the goal to the blocks that come next and fit, one step after another."""
    steps = [
        (at, name) for name, kept in keep.items() if units.step(name) > 1 for at in {*joining[name][~kept].tolist()}
    ]
    full = set[str]()
    for at, name in sorted(steps):
        wider = {**keep, name: joining[name] <= at}
        if name not in full and cost(wider) <= goal:
            keep = wider
        else:
            full.add(name)
    return keep


def _select_per_layer(budget: Budget, units: Units, scores: Mapping[str, Tensor], relax: Relax) -> Keep:
    keep = budget.keep or {}
    for layer in keep:
        if layer not in units.blocks:
            raise UsageError(f"keep names no layer {layer!r}; {nearest(layer, units.blocks)}")
    counts = {}
    for name, score in scores.items():
        amount = keep.get(name, 1.0)
        final = amount if isinstance(amount, int) else max(1, round(amount * score.numel()))
        if final > score.numel():
            raise UsageError(f"keep.{name} = {final}, but the layer has {score.numel()} {units.noun}s")
        now = max(final, int(relax(final / score.numel()) * score.numel()))
        counts[name] = choices(score.numel(), now, units.step(name))[0]
    return {name: rank(score) < counts[name] for name, score in scores.items()}
