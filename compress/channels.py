"""What the channel methods share: the channels behind a view, who reads them, and the scales that normalise them."""

import torch
from torch import Tensor

from compress.channel_units import ChannelUnits, Slot, per_unit
from compress.errors import UsageError
from compress.masks import Values
from compress.method import View


def channel_units(view: View) -> ChannelUnits:
    """The view's units, known to be channels.

    Raises:
        UsageError: single weights are pruned.
    """
    if not isinstance(view.units, ChannelUnits):
        raise UsageError(f'the method prunes whole channels, not single {view.units.noun}s; set units = "channel"')
    return view.units


def reads(units: ChannelUnits, entries: Values) -> dict[str, Tensor]:
    """Sum, over the columns that read each channel, of an amount per entry; shape (units,) per block.

    The counterpart of ``units.sums``, which adds up what makes a channel. After a flattening, several columns
    read one channel.

    Args:
        units: the channels.
        entries: amounts in the shape of their parameter; a parameter not named counts nothing.
    """
    return {
        block: torch.stack([per_unit(entries[s.name], s, size) for s in slots]).sum(0)
        for block, size in units.blocks.items()
        if (slots := [s for s in units.layers[block] if not s.producer and s.name in entries])
    }


def along(slot: Slot, amounts: Tensor, dims: int) -> Tensor:
    """The amount of each index's channel along a slot's axis, 1 where it belongs to none, ready to multiply.

    Args:
        slot: one axis of a tensor.
        amounts: shape (units,).
        dims: axes of the tensor.
    """
    shape = [1] * dims
    shape[slot.axis] = -1
    padded = torch.cat([amounts, amounts.new_ones(1)])  # unit -1 reads the spare last cell
    return padded[slot.unit.to(padded.device)].view(shape)


def scales(view: View, method: str) -> dict[str, Tensor]:
    """The normalisation scales (gamma) that make removable channels, by name.

    Raises:
        UsageError: no channel has one.
    """
    made = {s.name for slots in channel_units(view).layers.values() for s in slots if s.producer}
    found = {name: view.values[name] for name in view.scales if name in made}
    if not found:
        raise UsageError(
            f"{method} ranks channels by the scale of the normalisation behind them, and no channel that can be "
            "removed has one; add batch normalisation to the network or choose another method"
        )
    return found


def scale_scores(view: View, method: str) -> dict[str, Tensor]:
    """Mean |gamma| of every channel; coupled layers share their channels, and each brings a gamma.

    The mean, not the sum: a channel of many coupled layers is no more important for having many scales. A channel
    without any, as inside a squeeze-and-excitation, ranks before all that have one, by its norm.
    """
    units, gammas = channel_units(view), scales(view, method)
    totals = units.sums({name: gamma.abs() for name, gamma in gammas.items()})
    counts = units.sums({name: torch.ones_like(gamma) for name, gamma in gammas.items()})
    scores = {block: total / counts[block] for block, total in totals.items()}
    top = torch.cat(list(scores.values())).max()
    return {block: scores.get(block, top + norm) for block, norm in units.scores(view.values).items()}
