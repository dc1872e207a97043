"""Channel groups: what a structured pruning method may remove, and what each removal saves."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.compaction.compact import attempt_once, checked_inputs, reference_inputs
from compress.compaction.graph import Graph, analyse, load, reference_copy, values
from compress.compaction.ids import squash
from compress.compaction.liveness import columns_of
from compress.compaction.trace import Analysis
from compress.compaction.verify import Inputs
from compress.errors import CompactionError


@dataclass(frozen=True)
class Slice:
    """Indices of one axis of a parameter or buffer; `producer` if zeroing them makes the channel constant."""

    name: str
    axis: int
    indices: tuple[int, ...]
    producer: bool


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only go together.

    slices: everything that is cut with the group.
    removable_exactly: with all producer slices zero, `compact` removes the group.
    macs: multiply-accumulates of convolutions and linear layers saved by removing this group alone, batch 1.
    weights: their weights saved by removing this group alone.
    """

    slices: tuple[Slice, ...]
    removable_exactly: bool
    macs: int
    weights: int


def channel_groups(model: nn.Module, example_inputs: Tensor | Inputs) -> list[ChannelGroup]:
    """The groups that can be cut in place, in the order of the model's parameters; the model is not changed.

    Raises:
        CompactionError: the model cannot be exported.
        UsageError: no example input is given.
    """
    reference = reference_copy(model)
    example = reference_inputs(checked_inputs(example_inputs))
    graph = load(reference, example)
    analysis = analyse(graph, values(reference), trust_sizes=True)
    table = removable_slices(analysis, reference)
    trusted = not analysis.trusted or sizes_follow(graph, reference, example, analysis, table)
    if not trusted:
        analysis = analyse(graph, values(reference), trust_sizes=False)
        table = removable_slices(analysis, reference)
    exact = exactly_removable(graph, reference, analysis, table, trust_sizes=trusted)
    costs = _Costs(analysis, values(reference))
    return [ChannelGroup(tuple(slices), root in exact, *costs.saved(slices)) for root, slices in table.items()]


def removable_slices(analysis: Analysis, model: nn.Module) -> dict[int, list[Slice]]:
    """Class -> its slices; only classes that are not frozen, leave no axis empty and come from a layer."""
    frozen = analysis.ids.frozen(exact=False)
    parameters = dict(model.named_parameters())
    rows = {use.weight for use in analysis.uses}
    table: dict[int, list[Slice]] = {}
    refused: set[int] = set()
    made: set[int] = set()
    for (name, axis), slot in analysis.slots.items():
        members: dict[int, list[int]] = {}
        for index, root in enumerate(analysis.ids.find(slot).tolist()):
            members.setdefault(root, []).append(index)
        if len(members) == 1:
            refused.update(members)
        producer = name in parameters and (axis == 0 or name not in rows) and not _is_slope(model, name)
        for root, indices in members.items():
            if frozen[root]:
                continue
            table.setdefault(root, []).append(Slice(name, axis, tuple(indices), producer))
            if name in rows and axis == 0:
                made.add(root)
    return {root: slices for root, slices in table.items() if root in made and root not in refused}


def _is_slope(model: nn.Module, name: str) -> bool:
    """PReLU's weight multiplies negative inputs only; zero or not, zero stays zero."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.PReLU)


def zeroed(tensors: Mapping[str, Tensor], slices: list[Slice]) -> dict[str, Tensor]:
    """Copies of the tensors in which all producer slices are zero."""
    result = dict(tensors)
    for part in slices:
        if part.producer:
            if result[part.name] is tensors[part.name]:
                result[part.name] = tensors[part.name].clone()
            result[part.name].index_fill_(part.axis, torch.tensor(part.indices), 0.0)
    return result


def exactly_removable(
    graph: Graph, model: nn.Module, analysis: Analysis, table: dict[int, list[Slice]], *, trust_sizes: bool
) -> set[int]:
    """Classes that end as zeros, or as constants every reader can fold, once their producers are zero.

    Seen in one pass with the producers of all groups zero: what stays unknown depends on a frozen channel.
    A group's own rows do not count as readers: they go with it (depthwise).
    """
    everything = [part for slices in table.values() for part in slices]
    trial = analyse(graph, zeroed(values(model), everything), trust_sizes=trust_sizes)
    exact = set(table) - set(analysis.ids.frozen(exact=True).nonzero()[:, 0].tolist())
    for use in trial.uses:
        if use.weight in trial.groups:
            continue
        columns = columns_of(use)
        free = (use.known & ~columns.nonzero) | columns.folds
        exact -= set(trial.ids.find(use.cols[~free]).tolist())
    return exact


def sizes_follow(
    graph: Graph, model: nn.Module, example: Inputs, analysis: Analysis, table: dict[int, list[Slice]]
) -> bool:
    """Whether the sizes that were trusted really follow: one group of each is compacted away on trial."""
    picked: dict[int, None] = {}
    for ids in analysis.trusted:
        roots = sorted(set(analysis.ids.find(squash(ids)).flatten().tolist()))
        picked.update(dict.fromkeys([root for root in roots if root in table][:1]))
    slices = [part for root in picked for part in table[root]]
    trial = reference_copy(model)
    tensors = values(trial)
    for name, value in zeroed(tensors, slices).items():
        tensors[name].copy_(value)
    try:
        attempt_once(graph, trial, example, round_to=1, trust_sizes=True)
    except CompactionError:
        return False
    return True


class _Costs:
    """Weights and multiply-accumulates of convolutions and linear layers."""

    def __init__(self, analysis: Analysis, tensors: Mapping[str, Tensor]) -> None:
        self._shapes = {use.weight: tensors[use.weight].shape for use in analysis.uses}
        self._positions: dict[str, int] = {}
        for use in analysis.uses:
            self._positions[use.weight] = self._positions.get(use.weight, 0) + use.positions

    def saved(self, slices: list[Slice]) -> tuple[int, int]:
        """(macs, weights) saved by cutting these slices alone."""
        cuts: dict[str, dict[int, int]] = {}
        for part in slices:
            if part.name in self._shapes:
                cuts.setdefault(part.name, {})[part.axis] = len(part.indices)
        macs = weights = 0
        for name, cut in cuts.items():
            shape = self._shapes[name]
            left = torch.Size(length - cut.get(axis, 0) for axis, length in enumerate(shape)).numel()
            weights += shape.numel() - left
            macs += (shape.numel() - left) * self._positions[name]
        return macs, weights
