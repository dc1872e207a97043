"""Rounds around a method: prune towards the budget, retrain under the masks, tighten, repeat."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.budget import Budget, Relax, ending
from compress.descent import Optimization
from compress.errors import RunError
from compress.masks import Masks, Values, burn
from compress.method import PruningMethod, Retrain, View
from compress.probe import TaskProbe
from compress.scoring import left
from compress.train import Epoch, Snapshot, Task, fit
from compress.units import ElementUnits, Units

Save = Callable[[dict[str, Any]], None]

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose weight scales a normalised channel."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training: a method's, or retraining under its masks."""

    name: str
    method: PruningMethod
    optimization: Optimization
    share: float
    """Exponent of the kept fraction: 1/2 after the first of two rounds, 1 at the end."""
    prunes: bool


@dataclass(frozen=True)
class Plan:
    """What one ``[[prune]]`` step does."""

    stage: str
    method: PruningMethod
    units: Units
    budget: Budget
    prune: Optimization
    finetune: Optimization
    rounds: int = 1
    rewind: Values | None = None
    """Values of an early moment of the dense training; retraining starts from them."""
    apart: bool = False
    """Whether the last retraining is left to `training`, on the compacted network."""

    def phases(self) -> list[Phase]:
        """Method and retraining of every round, in order."""
        phases = []
        for number in range(1, self.rounds + 1):
            share = number / self.rounds
            suffix = f" round {number}/{self.rounds}" if self.rounds > 1 else ""
            phases.append(Phase(f"{self.stage}{suffix}", self.method, self.prune, share, True))
            if self.method.retrains and not (self.apart and number == self.rounds):
                phases.append(Phase(f"{self.stage} retrain{suffix}", Retrain(), self.finetune, share, False))
        return phases


def training(task: Task, stage: str, optimization: Optimization, masks: Masks, **hooks: Any) -> None:
    """Training with no method: every weight that the masks keep learns; hooks as in `run_phases`."""
    phase = Phase(stage, Retrain(), optimization, 1.0, False)
    run_phases(task, [phase], masks, _view(task, (), ElementUnits({}, {}, 0, 0), Budget()), **hooks)


def prune(task: Task, plan: Plan, masks: Masks, prunable: tuple[str, ...], **hooks: Any) -> dict[str, Tensor]:
    """Run a step's rounds; the model ends with exact zeros where the returned masks say so.

    Args:
        task: model (changed in place), data, device.
        plan: the step.
        masks: masks already in force; their zeros stay zero.
        prunable: names of the prunable weights.
        hooks: as in `run_phases`.
    """
    view = _view(task, prunable, plan.units, plan.budget)
    view = replace(view, start=_left(view, masks))
    return run_phases(task, plan.phases(), masks, view, rewind=plan.rewind, **hooks)


def scales(model: nn.Module) -> tuple[str, ...]:
    """Names of the normalisation layers' scales (gamma)."""
    modules = ((name, module) for name, module in model.named_modules() if isinstance(module, NORMS))
    return tuple(f"{name}.weight" for name, module in modules if getattr(module, "weight", None) is not None)


def _view(task: Task, prunable: tuple[str, ...], units: Units, budget: Budget) -> View:
    values, samples = dict(task.model.named_parameters()), len(task.data.train)
    return View(values, prunable, units, budget, {}, ending, TaskProbe(task), scales(task.model), samples)


def run_phases(
    task: Task,
    phases: list[Phase],
    masks: Masks,
    view: View,
    *,
    rewind: Values | None = None,
    saved: dict[str, Any] | None = None,
    save: Save = lambda snapshot: None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Tensor]:
    """Run phases one after another, from where a checkpoint left them.

    Args:
        task: model (changed in place), data, device.
        phases: what to run.
        masks: masks in force at the start.
        view: what the methods see; a round's share of the budget, and what is left when it begins, are filled in.
        rewind: values the weights are set back to whenever a method has chosen its masks.
        saved: a checkpoint written by ``save`` in an interrupted run of the same phases.
        save: called with a weights-only checkpoint after every epoch and between phases.
        report: called with every epoch's figures.
        tick: called with the fraction of the epoch that is done.
    """
    first, current, begin = 0, dict(masks), view.start
    snapshot: Snapshot | None = None
    if saved:
        first = saved["phase"]
        current = {name: mask.to(task.device) for name, mask in saved["masks"].items()}
        task.model.load_state_dict(saved["model"])
        snapshot = Snapshot(**saved["snapshot"]) if saved["snapshot"] else None
    for number, phase in enumerate(phases[first:], first):
        if phase.prunes:
            view = replace(view, relax=_relax(begin, phase.share), start=_left(view, current))

        def keep(now: Snapshot, number: int = number, entering: Masks = current) -> None:
            save({"phase": number, "masks": dict(entering), "model": now.model, "snapshot": vars(now)})

        state = fit(
            task, phase.optimization, phase.method, current, view,
            stage=phase.name, snapshot=snapshot, save=keep, report=report, tick=tick,
        )  # fmt: skip
        snapshot = None
        if phase.prunes:
            with torch.no_grad():
                outcome = phase.method.finish(view, state)
            current = dict(outcome.masks)
            _assign(task, outcome.values)
            _assign(task, rewind)
        _burn(task, current)
        save({"phase": number + 1, "masks": current, "model": task.model.state_dict(), "snapshot": None})
    return current


def _left(view: View, masks: Masks) -> float:
    """Kept fraction under the masks, measured as the budget is; counts per layer are of the layer as it is now."""
    budget, units = view.budget, view.units
    if not masks or budget.keep is not None:
        return 1.0
    keep = left(units, masks)
    if budget.drop_points is not None:
        return sum(int(kept.sum()) for kept in keep.values()) / sum(units.blocks.values())
    if budget.macs is not None:
        return min(1.0, units.macs(keep) / units.dense_macs)
    return min(1.0, units.weights(keep) / units.dense_weights)


def _relax(start: float, share: float) -> Relax:
    return lambda kept: float(start ** (1 - share) * kept**share)


@torch.no_grad()
def _assign(task: Task, values: Values | None) -> None:
    for name, parameter in task.model.named_parameters():
        if values and name in values:
            parameter.copy_(values[name])


@torch.no_grad()
def _burn(task: Task, masks: Masks) -> None:
    """Write the zeros into the weights; a layer that lost everything would make the network constant."""
    parameters = dict(task.model.named_parameters())
    for name, value in burn(parameters, masks).items():
        if name in masks:
            parameters[name].copy_(value)
            if not bool(masks[name].any()) and value.dim() > 1:
                raise RunError(f"{name} lost every weight: no input reaches the output; raise the budget or its floor")
