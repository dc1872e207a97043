"""Channel groups: what a structured pruning method may remove, and what each removal saves."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.compaction.analysis import Analysis
from compress.compaction.compact import Exported, prepared, unreached
from compress.compaction.graph import analyse, values
from compress.compaction.inputs import ExampleInputs
from compress.compaction.liveness import columns_of


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


@dataclass(frozen=True)
class Survey:
    """What can be removed from a model, and what stands in the way (see `Compaction.frozen_operators`)."""

    groups: list[ChannelGroup]
    frozen_operators: tuple[str, ...]


def channel_groups(model: nn.Module, example_inputs: ExampleInputs | Exported) -> list[ChannelGroup]:
    """The groups that can be cut, in the order of the model's parameters; the model is not changed.

    Raises:
        CompactionError: the model cannot be exported.
        UsageError: no example input is given.
    """
    return survey(model, example_inputs).groups


def survey(model: nn.Module, example_inputs: ExampleInputs | Exported) -> Survey:
    """`channel_groups`, with the operators that limit them."""
    _, subject = prepared(model, example_inputs)
    tensors = values(subject.model)
    analysis = in_groups(analyse(subject.graph, tensors))
    table = removable_slices(analysis, subject.model)
    everything = [part for slices in table.values() for part in slices]
    exact = exactly_removable(analysis, table, in_groups(analyse(subject.graph, zeroed(tensors, everything))))
    costs = _Costs(analysis, tensors)
    groups = [ChannelGroup(tuple(slices), root in exact, *costs.saved(slices)) for root, slices in table.items()]
    return Survey(groups, (*analysis.frozen_operators, *unreached(subject.graph, subject.model)))


def in_groups(analysis: Analysis) -> Analysis:
    """Of channels in rows and columns a group is a whole row: an attention head with all its dimensions."""
    for grid in analysis.grids:
        analysis.ids.tie_along(torch.cat(grid.parts, 1), 1)
    return analysis


def removable_slices(analysis: Analysis, model: nn.Module) -> dict[int, list[Slice]]:
    """Class -> its slices; only classes that are not frozen, leave no axis empty and come from a layer."""
    frozen = analysis.ids.frozen(exact=False).tolist()
    parameters = dict(model.named_parameters())
    made_at = {use.weight: use.out_axis for use in analysis.uses}
    table: dict[int, list[Slice]] = {}
    refused: set[int] = set()
    made: set[int] = set()
    for (name, axis), slot in analysis.slots.items():
        members = by_class(analysis.ids.find(slot))
        if len(members) == 1:
            refused.update(members)
        producer = name in parameters and made_at.get(name, axis) == axis and not _is_slope(model, name)
        makes = made_at.get(name) == axis
        for root, indices in members.items():
            if not frozen[root]:
                table.setdefault(root, []).append(Slice(name, axis, indices, producer))
                if makes:
                    made.add(root)
    return {root: slices for root, slices in table.items() if root in made and root not in refused}


def by_class(roots: Tensor) -> dict[int, tuple[int, ...]]:
    """Class -> the indices that hold it, in order of first appearance.

    >>> by_class(torch.tensor([7, 4, 7]))
    {7: (0, 2), 4: (1,)}
    """
    members: dict[int, list[int]] = {}
    for index, root in enumerate(roots.tolist()):
        members.setdefault(root, []).append(index)
    return {root: tuple(indices) for root, indices in members.items()}


def _is_slope(model: nn.Module, name: str) -> bool:
    """PReLU's weight multiplies negative inputs only; zero or not, zero stays zero."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.PReLU)


def zeroed(tensors: Mapping[str, Tensor], slices: list[Slice]) -> dict[str, Tensor]:
    """Copies of the tensors in which all producer slices are zero."""
    indices: dict[tuple[str, int], list[int]] = {}
    for part in slices:
        if part.producer:
            indices.setdefault((part.name, part.axis), []).extend(part.indices)
    result = dict(tensors)
    for (name, axis), zeros in indices.items():
        result[name] = result[name].index_fill(axis, torch.tensor(zeros), 0.0)
    return result


def exactly_removable(analysis: Analysis, table: dict[int, list[Slice]], trial: Analysis) -> set[int]:
    """Classes that end as zeros, or as constants every reader can fold, once their producers are zero.

    `trial` is the analysis with the producers of all groups zero: what stays unknown there depends on a frozen
    channel. A group's own rows do not count as readers: they go with it (depthwise).
    """
    exact = set(table) - set(analysis.ids.frozen(exact=True).nonzero()[:, 0].tolist())
    for use in trial.uses:
        if use.weight in trial.groups:
            continue
        columns = columns_of(use)
        free = (use.known & ~columns.nonzero) | columns.folds
        exact -= set(trial.ids.find(use.cols[~free]).tolist())
    return exact


class _Costs:
    """Weights and multiply-accumulates of convolutions and linear layers."""

    def __init__(self, analysis: Analysis, tensors: Mapping[str, Tensor]) -> None:
        self._shapes = {use.weight: tensors[use.weight].shape for use in analysis.uses if use.counted}
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
