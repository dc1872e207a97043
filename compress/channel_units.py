"""Channels as units: what is cut from which tensors when a channel goes, and what that costs."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.compaction import ChannelGroup
from compress.errors import UsageError
from compress.masks import Values
from compress.units import Keep, Units, layer_name


@dataclass(frozen=True)
class Slot:
    """One axis of one tensor, cut along with the channels of a block.

    Attributes:
        name: parameter.
        axis: the axis that is cut.
        unit: int64, shape (size of the axis,): the unit each index belongs to, -1 for none of this block.
        producer: zeroing it makes the channel zero (rows, biases, normalisation), as opposed to a reader's column.
    """

    name: str
    axis: int
    unit: Tensor
    producer: bool


@dataclass(frozen=True)
class ChannelUnits(Units):
    """Every removable channel group is a unit: the rows, biases and normalisation entries that make a channel.

    Zeroing all that *produces* a channel makes it the constant 0, so compaction removes it with everything
    that reads it. Producers of different groups never overlap, so the selection by norm is an exact projection.

    Attributes:
        layers: slots per block; groups that cut the same axes of the same tensors form one block.
        sizes: units per block.
        shapes: shape of every parameter.
        positions: multiply-accumulates per single weight entry, per prunable parameter.
        multiple: what selections keep is, of every layer, a multiple of so many rows, or all of it.
    """

    layers: Mapping[str, Sequence[Slot]]
    sizes: Mapping[str, int]
    shapes: Mapping[str, torch.Size]
    positions: Mapping[str, int]
    dense_weights: int
    dense_macs: int
    multiple: int = 1
    noun: ClassVar[str] = "channel"

    @classmethod
    def of(
        cls,
        groups: Sequence[ChannelGroup],
        values: Values,
        positions: Mapping[str, int],
        dense_weights: int,
        dense_macs: int,
        multiple: int = 1,
    ) -> "ChannelUnits":
        """Gather the groups that can be removed exactly into blocks.

        Raises:
            UsageError: there is none.
        """
        blocks = gather([group for group in groups if group.removable_exactly], values, positions)
        if not blocks:
            raise UsageError("the network has no channel that can be removed exactly; see compress inspect")
        layers = {
            name: [_slot(members, values, *key) for key in _kind(members[0], values)]
            for name, members in blocks.items()
        }
        sizes = {name: len(members) for name, members in blocks.items()}
        shapes = {name: value.shape for name, value in values.items()}
        return cls(layers, sizes, shapes, positions, dense_weights, dense_macs, multiple)

    @property
    def blocks(self) -> Mapping[str, int]:
        return self.sizes

    def step(self, block: str) -> int:
        """Channels that make the multiple of rows: an attention head of 64 rows makes a multiple of 8 alone."""
        rows = [s.unit[s.unit >= 0].bincount() for s in self.layers[block] if s.producer and s.name in self.positions]
        return math.lcm(*(self.multiple // math.gcd(self.multiple, *each.tolist()) for each in rows))

    def sums(self, entries: Values) -> dict[str, Tensor]:
        return {
            block: torch.stack([per_unit(entries[s.name], s, size) for s in slots]).sum(0)
            for block, size in self.sizes.items()
            if (slots := [s for s in self.layers[block] if s.producer and s.name in entries])
        }

    def scores(self, values: Values) -> dict[str, Tensor]:
        squares = self.sums({name: value.square() for name, value in values.items()})
        # clamped: the slope of a square root at 0 is infinite
        return {block: square.clamp_min(1e-30).sqrt() * (square > 0) for block, square in squares.items()}

    def spread(self, amounts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._spread(amounts, producers_only=True)

    def remaining(self, keep: Keep) -> dict[str, Tensor]:
        return self._spread(keep, producers_only=False)

    def _spread(self, amounts: Mapping[str, Tensor], *, producers_only: bool) -> dict[str, Tensor]:
        spread: dict[str, Tensor] = {}
        for (name, axis), amount in self._along(amounts, producers_only=producers_only).items():
            shape = [1] * len(self.shapes[name])
            shape[axis] = -1
            whole = amount.view(shape).expand(self.shapes[name])
            spread[name] = spread[name] * whole if name in spread else whole.clone()
        return spread

    def allowed(self, scores: Mapping[str, Tensor]) -> Keep:
        return {block: torch.ones_like(score, dtype=torch.bool) for block, score in scores.items()}

    def weights(self, keep: Keep) -> int:
        return sum(self._left(keep).values())

    def macs(self, keep: Keep) -> int:
        return sum(left * self.positions[name] for name, left in self._left(keep).items())

    def _left(self, keep: Keep) -> dict[str, int]:
        """Weights left per prunable parameter after the channels that go are cut from both sides."""
        sizes = {name: list(self.shapes[name]) for name in self.positions}
        for (name, axis), kept in self._along(keep, producers_only=False).items():
            if name in sizes:
                sizes[name][axis] = int(kept.sum())
        return {name: torch.Size(size).numel() for name, size in sizes.items()}

    def _along(self, amounts: Mapping[str, Tensor], *, producers_only: bool) -> dict[tuple[str, int], Tensor]:
        """Per cut axis, the amount of every index along it: its unit's, 1 where it belongs to none."""
        along: dict[tuple[str, int], Tensor] = {}
        for block, slots in self.layers.items():
            padded = torch.cat([amounts[block], amounts[block].new_ones(1)])
            for slot in slots:
                if slot.producer or not producers_only:
                    now = padded[slot.unit.to(padded.device)]  # unit -1 reads the spare last cell
                    key = (slot.name, slot.axis)
                    along[key] = along[key] * now if key in along else now
        return along


def per_unit(entry: Tensor, slot: Slot, size: int) -> Tensor:
    """Sum of an entry-wise amount over each unit of a slot, shape (size,)."""
    cut = entry.float().movedim(slot.axis, 0)
    rows = cut.reshape(len(cut), -1).sum(1)
    # unit -1 lands in the spare last cell
    return rows.new_zeros(size + 1).index_add(0, slot.unit.to(rows.device) % (size + 1), rows)[:-1]


def gather(
    groups: Sequence[ChannelGroup], values: Mapping[str, object], weights: Collection[str]
) -> dict[str, list[ChannelGroup]]:
    """Groups that cut the same axes of the same tensors, as blocks.

    A block is named after the first layer that produces its channels; a group that none of the weights produces
    belongs to no block.

    Args:
        groups: the first of a block decides the block's place.
        values: tensors that tell blocks apart, by name.
        weights: names of the prunable weights.
    """
    kinds: dict[tuple[tuple[str, int, bool], ...], list[ChannelGroup]] = {}
    for group in groups:
        if _producer(group, weights) is not None:
            kinds.setdefault(_kind(group, values), []).append(group)
    blocks: dict[str, list[ChannelGroup]] = {}
    for members in kinds.values():
        blocks[_unused(layer_name(_producer(members[0], weights) or ""), blocks)] = members
    return blocks


def _producer(group: ChannelGroup, weights: Collection[str]) -> str | None:
    """The first prunable weight that makes the channels of a group."""
    return next((s.name for s in group.slices if s.producer and s.name in weights), None)


def _kind(group: ChannelGroup, values: Mapping[str, object]) -> tuple[tuple[str, int, bool], ...]:
    """What a group cuts: which axes of which tensors."""
    return tuple(sorted({(s.name, s.axis, s.producer) for s in group.slices if s.name in values}))


def _slot(groups: Sequence[ChannelGroup], values: Values, name: str, axis: int, producer: bool) -> Slot:
    unit = torch.full((values[name].shape[axis],), -1)
    for number, group in enumerate(groups):
        for s in group.slices:
            if (s.name, s.axis, s.producer) == (name, axis, producer):
                unit[list(s.indices)] = number
    return Slot(name, axis, unit, producer)


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """Block names stay distinct when one layer's channels fall into several kinds of group."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}#{number}", number + 1
    return candidate
