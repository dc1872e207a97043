"""What is pruned as one piece: a weight (element) or a whole channel group (channel).

A method ranks units and never asks which kind they are. A layer's units form a *block*; a selection
(`Keep`) says per block which units stay, and the units turn it into masks and into its cost.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.masks import Values

Keep = dict[str, Tensor]
"""Per block, bool of shape (units,), True = stays."""


class Units(ABC):
    """The pieces a budget counts, with the cost of any selection of them."""

    noun: ClassVar[str]
    dense_weights: int
    """Prunable weights of the dense model; the reference of sparsity and compression."""
    dense_macs: int
    """Multiply-accumulates of the dense model, batch 1."""

    @property
    @abstractmethod
    def blocks(self) -> Mapping[str, int]:
        """Number of units per layer, by the layer's name."""

    def step(self, block: str) -> int:
        """A selection keeps multiples of this of a block, or all of it."""
        return 1

    @abstractmethod
    def sums(self, entries: Values) -> dict[str, Tensor]:
        """Sum over each unit of an amount per entry, shape (units,) per block, float32; differentiable.

        Args:
            entries: amounts in the shape of their parameter; a parameter not named counts nothing.
        """

    @abstractmethod
    def spread(self, amounts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give every entry its unit's amount, in the shape of its parameter; entries of no unit get 1.

        Args:
            amounts: shape (units,) per block.
        """

    @abstractmethod
    def allowed(self, scores: Mapping[str, Tensor]) -> Keep:
        """Units that may stay at all, given their scores; a pattern allows only some."""

    @abstractmethod
    def scores(self, values: Values) -> dict[str, Tensor]:
        """L2 norm of every unit, shape (units,) per block, float32; differentiable, with gradient 0 at 0."""

    def masks(self, keep: Keep) -> dict[str, Tensor]:
        """Masks that zero exactly what belongs to the units that go."""
        return self.spread(keep)

    def remaining(self, keep: Keep) -> dict[str, Tensor]:
        """Masks of what is left once the units that go are removed: of channels, their readers' columns go as well."""
        return self.masks(keep)

    @abstractmethod
    def weights(self, keep: Keep) -> int:
        """Prunable weights left once the units that go are removed."""

    @abstractmethod
    def macs(self, keep: Keep) -> int:
        """Multiply-accumulates left, batch 1; an element's cost is the number of positions it is used at."""


def everything(units: Units) -> Keep:
    """The selection that keeps all units."""
    return {block: torch.ones(size, dtype=torch.bool) for block, size in units.blocks.items()}


def layer_name(parameter: str) -> str:
    """Name of the layer a weight belongs to: ``conv1.weight`` -> ``conv1``."""
    return parameter.rpartition(".")[0] or parameter


@dataclass(frozen=True)
class ElementUnits(Units):
    """Every prunable weight is a unit.

    With an N:M pattern, at most N of M neighbours along the input axis stay (2:4 of NVIDIA's sparse tensor
    cores: Mishra et al. 2021, arXiv:2104.08378); a weight whose input axis is no multiple of M stays whole.

    Attributes:
        shapes: shape per prunable parameter.
        positions: multiply-accumulates per single weight entry, per parameter.
        pattern: (N, M), or None for any selection.
    """

    shapes: Mapping[str, torch.Size]
    positions: Mapping[str, int]
    dense_weights: int
    dense_macs: int
    pattern: tuple[int, int] | None = None
    noun: ClassVar[str] = "weight"

    @property
    def blocks(self) -> Mapping[str, int]:
        return {layer_name(name): shape.numel() for name, shape in self.shapes.items()}

    def sums(self, entries: Values) -> dict[str, Tensor]:
        # reshape, not view: trained weights may be channels_last
        return {layer_name(name): entries[name].float().reshape(-1) for name in self.shapes if name in entries}

    def scores(self, values: Values) -> dict[str, Tensor]:
        return self.sums({name: values[name].abs() for name in self.shapes})

    def spread(self, amounts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: amounts[layer_name(name)].view(shape) for name, shape in self.shapes.items()}

    def allowed(self, scores: Mapping[str, Tensor]) -> Keep:
        return {layer_name(name): self._pattern(scores[layer_name(name)], shape) for name, shape in self.shapes.items()}

    def _pattern(self, score: Tensor, shape: torch.Size) -> Tensor:
        if self.pattern is None or shape[1] % self.pattern[1]:
            return torch.ones_like(score, dtype=torch.bool)
        most, of = self.pattern
        groups = score.view(shape).movedim(1, -1).reshape(-1, of)
        # rank, not value: of equal neighbours only N stay
        ranks = groups.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        inner = shape[:1] + shape[2:] + shape[1:2]
        kept: Tensor = (ranks < most).view(inner).movedim(-1, 1).reshape(-1)
        return kept

    def weights(self, keep: Keep) -> int:
        return sum(int(kept.sum()) for kept in keep.values())

    def macs(self, keep: Keep) -> int:
        return sum(int(keep[layer_name(name)].sum()) * at for name, at in self.positions.items())
