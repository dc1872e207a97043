"""What one pass over the graph yields: tied ids, who reads which channel, and which axes can be cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from compress.compaction.ids import ChannelIds, any_along


@dataclass(frozen=True)
class FoldTarget:
    """Where a constant contribution can go: `name` += sign * constant; a name not in the model is created."""

    name: str
    sign: float


@dataclass
class Use:
    """One call of a convolution or linear layer: it reads columns (inputs) and makes rows (outputs).

    weight: parameter name. rows: ids, shape (out,). cols: ids, shape (in,).
    values: the weight, shape (out, in / groups, kernel...).
    maps: values of constant columns, shape (in, positions), NaN elsewhere. known: those columns, shape (in,).
    padded: a constant column does not give a constant contribution, because zeros are padded around it.
    mergeable: columns may be added to each other (one call, no groups).
    out_axis: the axis of the parameter that makes rows.
    pattern: the weight in the model's own number type, if that is at hand: half as much to read for its zeros.
    counted: its multiply-accumulates belong to the model's (see `compress.cost`); recurrent layers' do not.
    positions: output positions per sample; macs = weights * positions.
    """

    weight: str
    rows: Tensor
    cols: Tensor
    values: Tensor
    maps: Tensor
    padded: bool
    mergeable: bool
    fold: FoldTarget | None
    groups: int = 1
    out_axis: int = 0
    pattern: Tensor | None = None
    counted: bool = True
    positions: int = 0
    known: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.known = ~any_along(self.maps.isnan(), 1)

    @cached_property
    def reads(self) -> Tensor:
        """Whether a row has a nonzero weight on a column, shape (out, in)."""
        nonzero = (self.values if self.pattern is None else self.pattern) != 0
        return by_column(any_along(nonzero.flatten(2), 2) if nonzero.dim() > 2 else nonzero, self.groups)

    @cached_property
    def gain(self) -> Tensor:
        """The weight summed over the kernel, float64, shape (out, in)."""
        matrix = self.values.double().flatten(2).sum(2) if self.values.dim() > 2 else self.values.double()
        return by_column(matrix, self.groups)

    @cached_property
    def constant(self) -> Tensor:
        """Rows that depend on no input, shape (out,)."""
        return ~any_along(self.reads & ~self.known if bool(self.known.any()) else self.reads, 1)


def by_column(matrix: Tensor, groups: int) -> Tensor:
    """(out, in / groups) of a grouped convolution as (out, in), zero outside the groups."""
    if groups == 1:
        return matrix
    rows, width = matrix.shape
    full = matrix.new_zeros(groups, rows // groups, groups, width)
    group = torch.arange(groups)
    full[group, :, group] = matrix.reshape(groups, rows // groups, width)
    return full.reshape(rows, groups * width)


@dataclass(frozen=True)
class Grid:
    """Channels arranged in rows and columns, so that only whole rows and whole columns can go.

    parts: matrices of ids with the same rows, shape (rows, columns of that part). The heads of an attention
    layer are rows; the head dimensions of its queries are the columns of one part, those of its values of
    another.
    """

    parts: tuple[Tensor, ...]


@dataclass(frozen=True)
class Analysis:
    """The result of one pass.

    slots: (parameter or buffer, axis) -> the id of each index; cutting a channel is cutting its indices.
    groups: weight of a layer that loses whole groups -> number of groups.
    links: pairs (reader, read) of ids, shape (2, pairs): a live reader keeps what it reads alive.
    pieces: the channels of every piece that is taken out of a tensor; none becomes empty.
    tagged: what is known of every node's result.
    """

    ids: ChannelIds
    uses: tuple[Use, ...]
    slots: dict[tuple[str, int], Tensor]
    groups: dict[str, int]
    links: Tensor
    grids: tuple[Grid, ...]
    pieces: tuple[Tensor, ...]
    frozen_operators: tuple[str, ...]
    tagged: Mapping[Node, Any]
