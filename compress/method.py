"""The contract of a pruning method, and the values that pass between a method and the training loop.

A method is one frozen dataclass in one file of ``compress/methods``; its fields are its knobs. It owns no
loop, model or optimizer: it reads a `View` and returns values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from compress.budget import Budget, Relax, ending, floors, select
from compress.masks import Masks, Values, burn, rank
from compress.units import Units
from compress.widths import choices

Batch = tuple[Tensor, Tensor]
"""Images and their targets."""


class Probe(Protocol):
    """What a method may ask of the network and its data; nothing it asks changes either.

    The network runs in evaluation mode: normalisation statistics are frozen.
    """

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """At most ``count`` batches of the training set, without augmentation; the same at every call."""

    def loss(self, values: Values, batch: Batch) -> Tensor:
        """Mean loss with these parameters; differentiable in them."""

    def grads(self, values: Values, batch: Batch) -> Values:
        """Gradients of the mean loss."""

    def per_sample_grads(self, values: Values, batch: Batch) -> Values:
        """Gradient of every sample's loss, shape (samples, ...) each: keep the batches small."""

    def inputs(self, values: Values, layers: tuple[str, ...], batch: Batch) -> Mapping[str, Tensor]:
        """What enters each of the named layers."""

    def windows(self, values: Values, layers: tuple[str, ...], batch: Batch) -> Mapping[str, Tensor]:
        """What each output position of the named layers is computed from: (images, *positions, inputs, *kernel)."""

    def accuracy(self, values: Values) -> float:
        """Score on the held-out part of the training set."""


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
        probe: loss, accuracy, activations and gradients on demand.
        scales: names of the normalisation layers' scales (gamma).
        samples: size of the training set, for terms that are stated for all of it (the loss is a mean).
        start: the kept fraction at the start of the round, in the budget's own measure.
    """

    values: Values
    prunable: tuple[str, ...]
    units: Units
    budget: Budget
    grads: Values
    relax: Relax
    probe: Probe
    scales: tuple[str, ...] = ()
    samples: int = 1
    start: float = 1.0

    def select(self, scores: Mapping[str, Tensor], masks: Masks, schedule: Relax = ending) -> dict[str, Tensor]:
        """Masks that keep the units with the largest scores, as many as the budget allows.

        Args:
            scores: one tensor of shape (units,) per block, larger = more important.
            masks: in force; what they zero stays zero, and ranks behind all else.
            schedule: the kept fraction in force now, from this round's goal.
        """
        keep = select(
            self.budget,
            self.units,
            self._alive(scores, masks),
            lambda kept: schedule(self.relax(kept)),
            lambda keep: self.probe.accuracy(burn(self.values, both(masks, self.units.masks(keep)))),
        )
        return both(masks, self.units.masks(keep))

    def above(self, scores: Mapping[str, Tensor], limit: float, masks: Masks) -> dict[str, Tensor]:
        """Masks that keep the units whose score exceeds a limit, and every layer's floor: no budget decides.

        Args:
            scores: as in `select`.
            limit: in units of the scores.
            masks: in force; what they zero stays zero.
        """
        ranked = self._alive(scores, masks)
        allowed, least = self.units.allowed(ranked), floors(self.budget, ranked)
        keep = {block: ((s > limit) | (rank(s) < least[block])) & allowed[block] for block, s in ranked.items()}
        for block, kept in keep.items():
            if (step := self.units.step(block)) > 1:
                keep[block] = rank(ranked[block]) < choices(len(kept), int(kept.sum()), step)[0]
        return both(masks, self.units.masks(keep))

    def _alive(self, scores: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        """Scores in which units that are already fully masked rank behind all others."""
        if not masks:
            return dict(scores)
        ones = {name: masks.get(name, torch.ones_like(value)).float() for name, value in self.values.items()}
        present = self.units.sums(ones)
        return {block: score.where(present[block] > 0, -torch.inf) for block, score in scores.items()}


def both(first: Masks, second: Masks) -> dict[str, Tensor]:
    """Entries kept by both masks; a tensor only one of them names is left to that one."""
    shared = {name: first[name] & second[name] for name in first if name in second}
    return {**first, **second, **shared}


@dataclass(frozen=True)
class Clock:
    """Where training stands after an optimizer step.

    Attributes:
        step: optimizer steps done in this phase, from 1.
        steps: optimizer steps of the whole phase.
        steps_per_epoch: optimizer steps of one epoch.
        lr: learning rate of the step.
    """

    step: int
    steps: int
    steps_per_epoch: int
    lr: float = 0.0

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
    step, and ``finish`` at the end; it copies what is returned. Gradients are recorded in ``effective`` and
    ``penalty`` only.
    """

    trains: ClassVar[bool] = True
    """False: weights are not updated and normalisation statistics are frozen; batches are fed forward and backward,
    and only the state's trainables learn."""
    epochs: ClassVar[int] = 5
    """Epochs of a step that does not say how many."""
    retrains: ClassVar[bool] = True
    """False: the values are the answer, and retraining would undo them."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """Kinds of unit the method cannot prune, each with one sentence why not."""
    meets_budget: ClassVar[bool] = True
    """False: what it leaves at the end is not pruned to a budget."""

    @property
    def needs_budget(self) -> bool:
        """False: without one a measure of the method's own decides how much stays, or pruning is not what it does."""
        return True

    def check(self, budget: Budget, epochs: int) -> None:
        """Whether a step with these knobs can work; asked when the recipe is read.

        Raises:
            UsageError: it cannot.
        """

    def check_network(self, view: View) -> None:
        """Whether the method can prune the network; asked before anything is trained.

        Args:
            view: of the network as it is then; of its probe only single images are worth the time.

        Raises:
            UsageError: it cannot.
        """

    def init(self, view: View, masks: Masks) -> State:
        """State at the start; ``masks`` are already in force and their zeros stay."""
        return State(masks=masks)

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """The weights the forward pass uses; ``training`` is False when the model is evaluated."""
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
