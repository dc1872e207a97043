"""The state of one pass over the graph, and what operator rules ask of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map_only

from compress.compaction.analysis import Analysis, Grid, Use
from compress.compaction.ids import ChannelIds, Tagged, channel_rows, squash, unlabelled, varies
from compress.compaction.table import functional

# a parameter used by an element-wise operator gets one id per element; above this it is simply frozen
_MOST_ELEMENTS = 1 << 20


@dataclass
class Trace:
    """The state of a pass; rules talk to it.

    owners: parameter or buffer -> its module's class. calls: -> number of operators that read it.
    fixed: buffers that keep their shape. tensors: values by name. batch: samples in the example.
    patterns: the same tensors in the model's own number type, as far as they are at hand.
    """

    owners: Mapping[str, type[nn.Module]]
    calls: Mapping[str, int]
    fixed: frozenset[str]
    tensors: Mapping[str, Tensor]
    batch: int = 1
    patterns: Mapping[str, Tensor] = field(default_factory=dict)
    ids: ChannelIds = field(default_factory=ChannelIds)
    uses: list[Use] = field(default_factory=list)
    use_at: dict[Node, Use] = field(default_factory=dict)
    slots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    links: list[Tensor] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    pieces: list[Tensor] = field(default_factory=list)
    opened: dict[str, Tensor] = field(default_factory=dict)
    named: dict[str, None] = field(default_factory=dict)
    node: Node = field(init=False)
    target: Any = field(init=False)

    def enter(self, node: Node) -> None:
        """The operator whose rule runs next."""
        self.node, self.target = node, functional(node.target)

    @property
    def shape(self) -> torch.Size:
        """Shape of the current operator's (first) output."""
        meta = self.node.meta["val"]
        return concrete(meta if isinstance(meta, Tensor) else meta[0])

    def arguments(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The current operator's arguments by the names of its schema."""
        names = [argument.name for argument in self.target._schema.arguments]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def add(self, use: Use) -> Use:
        """Record the current operator as a use."""
        use.positions = self.shape.numel() // (use.rows.numel() * self.batch)
        self.uses.append(use)
        self.use_at[self.node] = use
        return use

    def piece(self, ids: Tensor) -> None:
        """A slice or a part of a split: the code that follows may not bear a tensor without channels."""
        small = squash(ids).reshape(-1)
        if small.numel() > 1:
            self.pieces.append(small)

    def link(self, reader: Tensor, read: Tensor) -> None:
        """A live reader keeps what it reads alive; ids of shapes that broadcast. Reader 0 always lives."""
        a, b = squash(reader), squash(read)
        a, b = a + 0 * b, b + 0 * a  # broadcast
        a, b = a.reshape(-1), b.reshape(-1)
        self.ids.freeze(b[a == 0], exact_only=True)
        self.links.append(torch.stack([a, b])[:, (a != 0) & (b != 0)])

    def rectangular(self, ids: Tensor) -> None:
        """What stays of a tensor must be a block: whole rows, columns, ... go."""
        small = squash(self.ids.classes(ids))
        several = [axis for axis in range(small.dim()) if varies(small, axis)]
        for axis in several[:-1]:
            self.grids.append(Grid((small.movedim(axis, 0).reshape(small.shape[axis], -1),)))

    def settle(self, ids: Tensor) -> Tensor:
        """Decide what channels along several axes are, and return ids that say so.

        Every index of one axis has channels of its own, all equally often: heads (see `Grid`). Otherwise they are
        the same channels at several positions (a class token in front of patches): those are tied.
        """
        small = squash(self.ids.classes(ids))
        several = [axis for axis in range(small.dim()) if varies(small, axis)]
        if len(several) < 2:
            return ids
        if all(_independent(small, axis) for axis in several[:-1]):
            self.rectangular(small)
            return ids
        keep = max(several, key=lambda axis: _different(small, axis))
        for axis in several:
            if axis != keep:
                self.ids.tie_along(small, axis)
                small = small.narrow(axis, 0, 1)
        return small.expand(ids.shape)

    def freeze_all(self, operands: Any) -> bool:
        """Freeze every channel in the operands; True if there was any."""
        found = False
        for tagged in tree_leaves(self.open(operands)):
            if isinstance(tagged, Tagged) and bool(squash(tagged.ids).any()):
                self.ids.freeze(tagged.ids)
                found = True
        return found

    def unknown(self, *operands: Any, why: str = "no rule") -> Any:
        """Freeze the operands, name the operator, and know nothing of its result."""
        if self.freeze_all(operands):
            self.named[f"{self._where()} ({why})"] = None
        return tree_map_only(Tensor, lambda meta: unlabelled(concrete(meta)), self.node.meta.get("val"))

    def mix(self, x: Tagged, axes: Sequence[int], why: str = "mixes channels") -> Tensor:
        """The ids of x after an operator that mixes it over some axes; those axes have length 1 in the result.

        Where the channels also vary along other axes (heads), what is mixed goes as a whole. Otherwise every
        channel has a part in every result and none can go exactly.
        """
        ids = squash(self.settle(x.ids))
        classes = squash(self.ids.classes(ids))
        mixed = [axis for axis in axes if varies(classes, axis)]
        if mixed and not any(varies(classes, axis) for axis in range(ids.dim()) if axis not in axes):
            self.ids.freeze(ids, exact_only=True)
            self.named[f"{self._where()} ({why})"] = None
            return torch.zeros([1] * ids.dim(), dtype=torch.int64)
        for axis in mixed:
            self.ids.tie_along(ids, axis)
        for axis in axes:
            ids = ids.narrow(axis, 0, 1)
        return ids

    def _where(self) -> str:
        """The operator and the module that calls it."""
        packet = getattr(self.node.target, "overloadpacket", self.node.target)
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        place = stack[-1][0] if stack and stack[-1][0] else "the model's forward"
        return f"{packet} in {place}"

    def open(self, operands: Any) -> Any:
        """Give parameters among the operands one id per element, so that any operator can take them."""
        return tree_map_only(Tagged, self._open, operands)

    def _open(self, tagged: Tagged) -> Tagged:
        name = tagged.source
        if name is None:
            return tagged
        ids = tagged.ids
        if tagged.dtype.is_floating_point and ids.numel() <= _MOST_ELEMENTS and name not in self.fixed:
            if name not in self.opened:
                self.opened[name] = self.ids.fresh(ids.numel()).reshape(ids.shape)
            ids = self.opened[name]
        return Tagged(ids, tagged.value.double(), dtype=tagged.dtype)

    def slot(self, name: str, axis: int, ids: Tensor | None = None) -> Tensor:
        """The ids along one axis of a parameter: tied to `ids` if given, else its own; shape (length,)."""
        key = (name, axis)
        if key not in self.slots:
            self.slots[key] = self.ids.fresh(self.tensors[name].shape[axis]) if ids is None else ids
        elif ids is not None:
            self.ids.tie(self.slots[key], ids)
        if name in self.fixed:
            self.ids.freeze(self.slots[key])
        return self.slots[key]

    def vector(self, x: Tagged, axis: int) -> Tensor:
        """The ids along one axis, tied over all other axes; shape (length,)."""
        rows = channel_rows(x.ids, axis)
        if rows.shape[1] > 1:
            self.ids.tie(rows[:, :1].expand_as(rows), rows)
        return rows[:, 0]

    def finish(self, tagged: Mapping[Node, Any]) -> Analysis:
        """Turn parameters that element-wise operators read into slots, or freeze them."""
        for name, ids in self.opened.items():
            axis = self._channel_axis(ids)
            if axis is None or any(slot == name for slot, _ in self.slots):
                self.ids.freeze(ids)
                for (slot, _), others in self.slots.items():
                    if slot == name:
                        self.ids.freeze(others)
            else:
                self.slot(name, axis, channel_rows(ids, axis)[:, 0])
        links = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *self.links], 1)
        return Analysis(
            self.ids,
            tuple(self.uses),
            self.slots,
            self.groups,
            links,
            tuple(self.grids),
            tuple(self.pieces),
            tuple(self.named),
            tagged,
        )

    def _channel_axis(self, ids: Tensor) -> int | None:
        """The axis that alone decides an element's class, or None."""
        roots = self.ids.find(ids)
        for axis in sorted(range(ids.dim()), key=lambda axis: -ids.shape[axis]):
            rows = channel_rows(roots, axis)
            if bool((rows == rows[:, :1]).all()):
                return axis
        return None


def concrete(meta: Any) -> torch.Size:
    """The shape of a traced tensor with every symbolic size replaced by the example's."""
    return torch.Size(size if isinstance(size, int) else size.node.hint for size in meta.shape)


def _different(classes: Tensor, axis: int) -> int:
    """How many different slices there are along an axis, by the classes they begin with."""
    return len(set(classes.movedim(axis, 0).reshape(classes.shape[axis], -1)[:, 0].tolist()))


def _independent(classes: Tensor, axis: int) -> bool:
    """True if the slices along an axis share no class and come up equally often (heads, once per sample)."""
    rows = classes.movedim(axis, 0).reshape(classes.shape[axis], -1).tolist()
    times = Counter(row[0] for row in rows)
    if len(set(times.values())) > 1:
        return False
    slices = {row[0]: set(row) for row in rows}
    same = all(set(row) == slices[row[0]] for row in rows)
    return same and len(set().union(*slices.values())) == sum(map(len, slices.values()))
