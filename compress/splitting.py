"""What the splitting methods share: copies of the pruned tensors, kept by name in a method's state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.masks import Values
from compress.method import View
from compress.units import everything


def check_price(method: str, knob: str, price: float, budget: Budget) -> None:
    """Whether at most one of a price per weight and a budget says how much stays.

    Raises:
        UsageError: both do.
    """
    if price and not budget.free:
        raise UsageError(
            f"{method} takes a budget or {knob}, found both ({budget.describe()}; {knob} = {price:g}): set {knob} = 0, "
            "or a budget without a goal, such as budget = { floor = 0.005 }"
        )


def pruned(view: View) -> dict[str, Tensor]:
    """The tensors that the units cover, detached: weights for elements, biases and normalisation too for channels."""
    return {name: view.values[name].detach() for name in view.units.masks(everything(view.units))}


def pack(**parts: Values) -> dict[str, Tensor]:
    """Several sets of tensors as one flat mapping, as a state holds it.

    >>> list(pack(z={"w": torch.ones(1)}, u={"w": torch.ones(1)}))
    ['z/w', 'u/w']
    """
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def unpack(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """One of the sets that `pack` put together."""
    prefix = f"{part}/"
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def zeros(values: Values) -> dict[str, Tensor]:
    """Zeros in the shape and layout of the values."""
    return {name: torch.zeros_like(value) for name, value in values.items()}


def plus(first: Values, second: Values) -> dict[str, Tensor]:
    """Sum, tensor by tensor."""
    return {name: value + second[name] for name, value in first.items()}


def minus(first: Values, second: Values) -> dict[str, Tensor]:
    """Difference, tensor by tensor."""
    return {name: value - second[name] for name, value in first.items()}


def norm(values: Values) -> float:
    """Euclidean norm of all tensors together."""
    return float(torch.stack([value.float().square().sum() for value in values.values()]).sum().sqrt())


def distance(values: Values, anchor: Values) -> Tensor:
    """0.5 sum ||W - A||_F^2 in float32, over the anchor's tensors; differentiable in the values."""
    # One fused kernel per tensor: the term is to cost next to nothing beside a training step.
    terms = [torch.nn.functional.mse_loss(values[n].float(), a, reduction="sum") for n, a in anchor.items()]
    return 0.5 * torch.stack(terms).sum()
