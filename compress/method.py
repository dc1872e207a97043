"""The contract of a pruning method, and the values that pass between a method and the training loop.

A method is one frozen dataclass in one file of ``compress/methods``; its fields are its knobs. It owns no
loop, model or optimizer: it reads a `View` and returns values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from compress.budget import Budget, Relax
from compress.masks import Masks, Values, burn
from compress.units import Units


@dataclass(frozen=True)
class View:
    """What a method may read. Tensors are live: a method never writes to them.

    Attributes:
        values: every parameter of the model, by name.
        prunable: names of the prunable weights, in forward order.
        units: what is pruned as one piece.
        budget: the goal.
        grads: gradients of the *effective* weights of the last step (unmasked); empty before the first step.
        relax: maps the final kept fraction to this round's goal (rounds that tighten the budget).
    """

    values: Values
    prunable: tuple[str, ...]
    units: Units
    budget: Budget
    grads: Values
    relax: Relax


@dataclass(frozen=True)
class Clock:
    """Where training stands after an optimizer step.

    Attributes:
        step: optimizer steps done in this phase, from 1.
        steps: optimizer steps of the whole phase.
        steps_per_epoch: optimizer steps of one epoch.
    """

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def progress(self) -> float:
        """Fraction of the phase that is done, in (0, 1]."""
        return self.step / self.steps

    def due(self, times_per_epoch: int) -> bool:
        """Whether one of ``times_per_epoch`` evenly spaced moments of the epoch has just come."""
        inside = (self.step - 1) % self.steps_per_epoch + 1
        before, now = ((inside - d) * times_per_epoch // self.steps_per_epoch for d in (1, 0))
        return now > before


@dataclass(frozen=True)
class State:
    """All a method remembers; checkpointed as it is.

    Attributes:
        masks: masks in force.
        trainable: extra tensors the loop trains in an optimizer group of their own.
        tensors: everything else that is a tensor (auxiliary and dual variables).
        numbers: scalars (the penalty in force, counters).
        metrics: scalars for the log.
    """

    masks: Masks = field(default_factory=dict)
    trainable: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A method's answer: what stays, and new values where the method sets them."""

    masks: Masks
    values: Values | None = None


@dataclass(frozen=True)
class PruningMethod:
    """Base of every method; the defaults train normally under the masks in force.

    The loop calls ``init`` once, ``effective`` and ``penalty`` at every step, ``update`` after every optimizer
    step, and ``finish`` at the end; it copies what is returned.
    """

    trains: ClassVar[bool] = True
    """False: weights are not updated, batches are only fed forward and backward."""

    def init(self, view: View, masks: Masks) -> State:
        """State at the start; ``masks`` are already in force and their zeros stay."""
        return State(masks=masks)

    def effective(self, values: Values, state: State) -> Values:
        """The weights the forward pass uses."""
        return burn(values, state.masks)

    def penalty(self, view: View, state: State) -> Tensor | float:
        """Term added to the loss, in float32."""
        return 0.0

    def update(self, view: View, state: State, clock: Clock) -> State | tuple[State, Values]:
        """State after an optimizer step, with new values where the method sets them."""
        return state

    def finish(self, view: View, state: State) -> Outcome:
        """Masks that meet the budget."""
        return Outcome(state.masks)


@dataclass(frozen=True)
class Retrain(PruningMethod):
    """Training under fixed masks: the gradient of a dropped weight is zero, and it stays exactly zero."""


def alive(view: View, scores: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """Scores in which units that are already fully masked rank behind all others."""
    ones = {
        name: masks.get(name, value.detach().new_ones(())).expand(value.shape) for name, value in view.values.items()
    }
    present = view.units.scores({name: one.float() for name, one in ones.items()})
    return {name: score.where(present[name] > 0, -1.0) for name, score in scores.items()}


def both(first: Masks, second: Masks) -> dict[str, Tensor]:
    """Entries kept by both masks; a tensor only one of them names is left to that one."""
    shared = {name: first[name] & second[name] for name in first if name in second}
    return {**first, **second, **shared}
