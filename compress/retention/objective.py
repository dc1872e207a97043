"""The loss of a selection on calibration images, and what every unit contributes to it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from compress.masks import Masks, Values, burn
from compress.method import Batch, View, both
from compress.retention.pool import join, part

BATCH = 256
ENTRIES = 2**24
"""Entries of gradients per sample that are held at once."""


@dataclass(frozen=True)
class Objective:
    """The calibration loss as a function of the selection, a bool of shape (units,).

    A unit's *contribution* to the loss of a sample is ``a``, the sum over its entries of ``g w``: to first order,
    what that loss changes when the unit is scaled from 0 to its value.

    Attributes:
        view: the network and its units.
        masks: in force; their zeros stay.
        batches: calibration images, held in memory.
        curvature: of how many of the images single gradients are taken.
    """

    view: View
    masks: Masks
    batches: Sequence[Batch]
    curvature: int

    @classmethod
    def of(cls, view: View, masks: Masks, samples: int, curvature: int) -> "Objective":
        """On training images, as many as asked for, rounded up to whole batches."""
        batches = view.probe.batches(math.ceil(samples / BATCH), min(BATCH, samples))
        return cls(view, masks, tuple(batches), curvature)

    def kept(self, keep: Tensor) -> dict[str, Tensor]:
        """Masks of a selection."""
        return both(self.masks, self.view.units.masks(part(self.view.units, keep)))

    def loss(self, keep: Tensor) -> float:
        """Mean loss of the network with this selection."""
        values = burn(self.view.values, self.kept(keep))
        return sum(float(self.view.probe.loss(values, batch)) * share for batch, share in self._shares())

    def point(self, keep: Tensor, share: float) -> Values:
        """The weights with the units that go scaled by ``share``."""
        units, values = self.view.units, self.view.values
        amounts = units.spread(part(units, torch.where(keep, 1.0, share)))
        scaled = {name: values[name].detach() * amount for name, amount in amounts.items()}
        return burn({**values, **scaled}, self.masks)

    def mean(self, point: Values) -> Tensor:
        """Mean contribution of every unit, with the gradient taken at a point; shape (units,)."""
        total = torch.zeros(sum(self.view.units.blocks.values()), device=self.batches[0][1].device)
        for batch, share in self._shares():
            total += share * self._contributions(dict(self.view.probe.grads(point, batch)))
        return total

    def each(self, point: Values) -> Iterator[Tensor]:
        """Contributions to the losses of a few samples after another, shape (samples, units)."""
        rows = max(1, ENTRIES // sum(value.numel() for value in point.values()))
        left = self.curvature
        for images, targets in self.batches:
            if not left:
                return
            asked = min(left, len(targets))
            left -= asked
            for some in zip(torch.split(images[:asked], rows), torch.split(targets[:asked], rows), strict=True):
                yield vmap(self._contributions)(dict(self.view.probe.per_sample_grads(point, some)))

    def _shares(self) -> Iterator[tuple[Batch, float]]:
        """Batches with their share of the images."""
        total = sum(len(targets) for _, targets in self.batches)
        return ((batch, len(batch[1]) / total) for batch in self.batches)

    def _contributions(self, grads: dict[str, Tensor]) -> Tensor:
        units, values = self.view.units, self.view.values
        return join(units, units.sums({name: grad * values[name].detach() for name, grad in grads.items()}))
