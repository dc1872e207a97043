"""Which channels live: the largest set of dead channels such that nothing alive reads one, constants aside.

A constant column is not a reason to live: its contribution is moved into a bias (*fold*), or, where zero
padding makes the contribution depend on the position, into the weights of another column with a proportional
map (*merge*). A merge needs one representative per family of proportional maps to stay.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from compress.compaction.analysis import Analysis, Use
from compress.compaction.ids import any_along

# a merge multiplies weights by a ratio of constants; a larger one would cost digits of the shipped type
_LARGEST_RATIO = 1e3
# a map is uniform when its elements differ by less than this part of the largest: one convolution's rounding
_ROUNDING = 1e-13
# maps are proportional when they agree to this many digits after scaling by their largest element
_DIGITS = 10


@dataclass(frozen=True)
class Columns:
    """How one use can do without each of its columns.

    nonzero: constant and not zero, shape (in,). folds: can go into the bias. families: lists of columns with
    proportional maps. scale: the map's signed largest element, shape (in,).
    """

    nonzero: Tensor
    folds: Tensor
    families: tuple[Tensor, ...]
    scale: Tensor
    free: Tensor


def columns_of(use: Use) -> Columns:
    """Sort a use's constant columns into zero, foldable, mergeable and needed."""
    maps = use.maps
    known = use.known
    nonzero = known & (maps != 0).any(1)
    peak = maps.nan_to_num().abs().argmax(1, keepdim=True)
    scale = maps.gather(1, peak)[:, 0]
    uniform = known & ((maps - scale[:, None]).abs().amax(1) <= _ROUNDING * scale.abs())
    folds = nonzero & uniform & (not use.padded) & (use.fold is not None)
    merges = nonzero & ~folds & use.mergeable
    free = (known & ~nonzero) | folds | merges
    return Columns(nonzero, folds, _families(use, scale, merges), scale, free)


def _families(use: Use, scale: Tensor, merges: Tensor) -> tuple[Tensor, ...]:
    """Columns of one group of the convolution, grouped by their map up to a factor."""
    members = merges.nonzero()[:, 0]
    shapes = (use.maps[members] / scale[members, None]).round(decimals=_DIGITS) + 0.0  # -0.0 and 0.0 are one shape
    width = use.values.shape[1]
    families: dict[tuple[int, bytes], list[int]] = {}
    for column, shape in zip(members.tolist(), shapes, strict=True):
        families.setdefault((column // width, shape.numpy().tobytes()), []).append(column)
    return tuple(torch.tensor(family) for family in families.values())


@dataclass
class Liveness:
    """The decision, and what it was made from.

    live: by class (index with `analysis.ids.find`), shape (ids,).
    columns: one per use, in the order of `analysis.uses`.
    """

    analysis: Analysis
    round_to: int
    columns: list[Columns] = field(init=False)
    live: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.columns = [columns_of(use) for use in self.analysis.uses]
        ids = self.analysis.ids
        self._rows = [ids.find(use.rows) for use in self.analysis.uses]
        self._cols = [ids.find(use.cols) for use in self.analysis.uses]
        self._slots = {key: ids.find(slot) for key, slot in self.analysis.slots.items()}
        self._links = ids.find(self.analysis.links)
        self._pieces = [ids.find(piece) for piece in self.analysis.pieces]
        self._grids = [[ids.find(part) for part in grid.parts] for grid in self.analysis.grids]
        self.live = ids.frozen(exact=True)

    @cached_property
    def _effort(self) -> Tensor:
        """How many of a channel's rows read anything: reviving one of those may revive others."""
        effort = torch.zeros(len(self.analysis.ids), dtype=torch.int64)
        for use, rows in zip(self.analysis.uses, self._rows, strict=True):
            effort.index_add_(0, rows, any_along(use.reads, 1).long())
        return effort

    def alive(self, ids: Tensor) -> Tensor:
        """Whether each id lives, same shape."""
        return self.live[self.analysis.ids.find(ids)]

    def solve(self) -> "Liveness":
        """Sweep backward from what is frozen, add representatives, fill emptied layers, until nothing moves."""
        while True:
            self._sweep()
            if not (self._add_representatives() or self._fill_slots() or self._fill_grids()):
                return self

    def _sweep(self) -> None:
        before = -1
        while before != int(self.live.sum()):
            before = int(self.live.sum())
            for index in reversed(range(len(self.columns))):
                needed = self.read_columns(index) & ~self.columns[index].free
                self.live[self._cols[index][needed]] = True
            reader, read = self._links
            self.live[read[self.live[reader]]] = True

    def read_columns(self, index: int) -> Tensor:
        """Columns on which a live row of this use has a nonzero weight, shape (in,)."""
        return any_along(self.analysis.uses[index].reads[self.live[self._rows[index]]], 0)

    def representative(self, index: int, family: Tensor) -> tuple[Tensor, int | None]:
        """The dead columns of a family that must be merged, and the live column that can take them."""
        live = self.live[self._cols[index][family]]
        lost = family[~live & self.read_columns(index)[family]]
        size = self.columns[index].scale.abs()
        kept = family[live]
        if lost.numel() == 0 or kept.numel() == 0:
            return lost, None
        best = int(kept[size[kept].argmax()])
        return lost, best if bool(size[lost].max() <= _LARGEST_RATIO * size[best]) else None

    def _add_representatives(self) -> bool:
        changed = False
        for index, columns in enumerate(self.columns):
            for family in columns.families:
                lost, kept = self.representative(index, family)
                if lost.numel() and kept is None:
                    largest = lost[columns.scale[lost].abs().argmax()]
                    self.live[self._cols[index][largest]] = True
                    changed = True
        return changed

    def _fill_slots(self) -> bool:
        """No axis and no piece becomes empty; a layer's rows are rounded up where dead channels allow it."""
        made = {(use.weight, use.out_axis) for use in self.analysis.uses}
        changed = False
        for (name, axis), roots in self._slots.items():
            kept = int(self.live[roots].sum())
            multiple = self.round_to if (name, axis) in made else 1
            wanted = min(roots.numel(), max(1, -(-kept // multiple)) * multiple)
            if kept < wanted:
                self._revive(roots, wanted - kept)
                changed = True
        for roots in self._pieces:
            if not bool(self.live[roots].any()):
                self._revive(roots, 1)
                changed = True
        return changed

    def _fill_grids(self) -> bool:
        """Only whole rows and whole columns of a grid go; a row that stays keeps a column in every part."""
        before = int(self.live.sum())
        for parts in self._grids:
            rows = torch.stack([self.live[part].any(1) for part in parts]).any(0)
            for part in parts:
                columns = self.live[part].any(0)
                columns[0] |= not bool(columns.any())
                if bool(rows.any()):
                    self.live[part[rows][:, columns]] = True
        return int(self.live.sum()) > before

    def _revive(self, roots: Tensor, count: int) -> None:
        """Bring back at least `count` positions, first those whose rows read least."""
        dead = torch.tensor(sorted(set(roots[~self.live[roots]].tolist())))
        for channel in dead[self._effort[dead].argsort(stable=True)]:
            self.live[channel] = True
            count -= int((roots == channel).sum())
            if count <= 0:
                return
