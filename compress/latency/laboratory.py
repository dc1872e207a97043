"""Networks cut to the widths asked for, exported and timed."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress import cost
from compress.budget import Budget, floors
from compress.channel_units import ChannelUnits, gather
from compress.compaction import ChannelGroup, Exported, channel_groups, exported, remove
from compress.latency.bench import Bench, Took
from compress.latency.table import Floats, Row

TOGETHER = 12
"""Files beside the dense one in one measurement, at most: a device holds them all at once."""
TOGETHER_BYTES = 256_000_000
"""Weights in these files, at most, where they are more than one."""


@dataclass(frozen=True)
class Candidate:
    """A measured network.

    Attributes:
        keep: channels of every block.
        macs: multiply-accumulates.
        timing: what it took.
    """

    keep: dict[str, int]
    macs: int
    timing: Took


@dataclass(frozen=True)
class Subject:
    """A network to be narrowed.

    Attributes:
        model: on the CPU, in evaluation mode.
        graph: of its operators.
        units: its blocks of channels.
        members: what goes with every channel, in the order of the units.
        scores: norm of every channel.
        least: channels that must stay, of every block.
    """

    model: nn.Module
    graph: Exported
    units: ChannelUnits
    members: Mapping[str, list[ChannelGroup]]
    scores: Mapping[str, torch.Tensor]
    least: Mapping[str, int]

    @classmethod
    def of(
        cls, model: nn.Module, dense: nn.Module, input_shape: tuple[int, int, int], budget: Budget, multiple: int
    ) -> "Subject":
        """Channels ranked by norm."""
        graph = exported(model, torch.zeros(2, *input_shape))
        groups = [group for group in channel_groups(model, graph) if group.removable_exactly]
        values, positions = dict(model.named_parameters()), cost.positions(model, input_shape)
        whole = cost.weight_count(dense), cost.macs(dense, input_shape)
        units = ChannelUnits.of(groups, values, positions, *whole, multiple)
        scores = {block: score.detach() for block, score in units.scores(values).items()}
        return cls(model, graph, units, gather(groups, values, positions), scores, floors(budget, scores))

    def lost(self, rows: Mapping[str, Row]) -> dict[str, Floats]:
        """What goes of every block at each of its widths, as ``balanced`` of `compress.ranking` counts it."""
        # clipped: a block of zeros loses nothing
        sums = {b: np.sort(score.double().numpy())[::-1].cumsum().clip(1e-300) for b, score in self.scores.items()}
        return {
            block: len(sums[block]) * np.log(sums[block][-1] / sums[block][np.array(row.widths) - 1])
            for block, row in rows.items()
        }

    def narrowed(self, keep: Mapping[str, int]) -> nn.Module:
        """The network with its blocks so wide; those not named stay whole."""
        gone = []
        for block, width in keep.items():
            order = self.scores[block].argsort(descending=True, stable=True)
            gone += [self.members[block][channel] for channel in order[width:].tolist()]
        return remove(self.model, self.graph, gone).model if gone else self.model


@dataclass(frozen=True)
class Laboratory:
    """Where a network's narrow forms are timed.

    Attributes:
        subject: the network.
        bench: the target.
        dense: the file of the dense network.
    """

    subject: Subject
    bench: Bench
    dense: Path

    def measured(self, asked: Sequence[Mapping[str, int]]) -> list[Candidate]:
        """Networks of the widths asked for."""
        found: list[Candidate] = []
        size = 4 * sum(value.numel() for value in self.subject.model.parameters())
        together = max(1, min(TOGETHER, TOGETHER_BYTES // max(1, size)))
        for start in range(0, len(asked), together):
            some = asked[start : start + together]
            networks = [self.subject.narrowed(widths) for widths in some]
            with tempfile.TemporaryDirectory(prefix="compress-latency-") as folder:
                files = [self.bench.write(net, Path(folder, f"candidate{n}")) for n, net in enumerate(networks)]
                timings = self.bench.times(self.dense, files)
            macs = [cost.macs(network, self.bench.input_shape) for network in networks]
            found += map(Candidate, map(dict, some), macs, timings)
            if len(asked) > 1:
                self.bench.tell(len(found), f"{len(found)} of {len(asked)} networks with one block narrowed measured")
        return found
