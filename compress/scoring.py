"""What methods share that score every unit once: sums over mini-batches, first-order saliency, what a mask leaves."""

from dataclasses import replace

import torch
from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks, Values
from compress.method import State, View
from compress.units import Keep, Units


def grads(view: View, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Gradients of the last step; zero for a parameter that the forward pass does not use."""
    return {name: view.grads[name] if name in view.grads else torch.zeros_like(view.values[name]) for name in names}


def saliency(view: View, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Gradient times weight: to first order, minus what the loss changes by when the entry becomes zero."""
    return {name: grad * view.values[name] for name, grad in grads(view, names).items()}


def accumulate(state: State, amounts: Values) -> State:
    """Add a mini-batch's amounts; sums rank as means do."""
    before = state.tensors
    return replace(state, tensors={n: before[n] + amount if n in before else amount for n, amount in amounts.items()})


def check_epochs(method: str, epochs: int) -> None:
    """Whether a method that ranks by gradients sees any.

    Raises:
        UsageError: the step has no epoch.
    """
    if not epochs:
        raise UsageError(f"{method} ranks by gradients, but the step has no epoch to see any; set epochs = 1 or more")


def left(units: Units, masks: Masks) -> Keep:
    """The units of which a mask leaves anything."""
    return {block: entries > 0 for block, entries in units.sums({n: m.float() for n, m in masks.items()}).items()}
