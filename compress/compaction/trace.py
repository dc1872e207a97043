"""What one pass over the graph collects: tied ids, who reads which channel, and which axes can be cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map_only

from compress.compaction.ids import ChannelIds, Tagged, channel_rows, squash, unlabelled
from compress.compaction.table import functional

# modules whose code takes every size from their tensors or from the numbers that compaction repairs
_PLAIN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU,
    nn.LayerNorm,
)  # fmt: skip
# a parameter used by an element-wise operator gets one id per element; above this it is simply frozen
_MOST_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class FoldTarget:
    """Where a constant contribution can go: `name` += sign * constant; a name not in the model is created."""

    name: str
    sign: float


@dataclass
class Use:
    """One call of a convolution or linear layer: it reads columns (inputs) and makes rows (outputs).

    weight: parameter name. rows: ids, shape (out,). cols: ids, shape (in,).
    reads: whether a row has a nonzero weight on a column, shape (out, in).
    gain: the weight summed over the kernel, shape (out, in).
    maps: values of constant columns, shape (in, positions), NaN elsewhere. known: those columns, shape (in,).
    padded: a constant column does not give a constant contribution, because zeros are padded around it.
    mergeable: columns may be added to each other (one call, no groups).
    positions: output positions per sample; macs = weights * positions.
    """

    weight: str
    rows: Tensor
    cols: Tensor
    reads: Tensor
    gain: Tensor
    maps: Tensor
    padded: bool
    mergeable: bool
    fold: FoldTarget | None
    positions: int = 0
    known: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.known = ~self.maps.isnan().any(1)


@dataclass(frozen=True)
class Analysis:
    """The result of one pass.

    slots: (parameter or buffer, axis) -> the id of each index; cutting a channel is cutting its indices.
    groups: weight of a grouped convolution that loses whole groups -> number of groups.
    trusted: ids of the tensors whose burnt-in sizes were taken to follow them.
    """

    ids: ChannelIds
    uses: tuple[Use, ...]
    slots: dict[tuple[str, int], Tensor]
    groups: dict[str, int]
    frozen_operators: tuple[str, ...]
    trusted: tuple[Tensor, ...]


@dataclass
class Trace:
    """The state of a pass; rules talk to it.

    owners: parameter or buffer -> its module. calls: -> number of operators that read it.
    fixed: buffers that keep their shape. tensors: float64 values by name.
    """

    owners: Mapping[str, nn.Module]
    calls: Mapping[str, int]
    fixed: frozenset[str]
    tensors: Mapping[str, Tensor]
    trust_sizes: bool
    ids: ChannelIds = field(default_factory=ChannelIds)
    uses: list[Use] = field(default_factory=list)
    use_at: dict[Node, Use] = field(default_factory=dict)
    slots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    opened: dict[str, Tensor] = field(default_factory=dict)
    named: dict[str, None] = field(default_factory=dict)
    trusted: list[Tensor] = field(default_factory=list)
    node: Node = field(init=False)
    target: Any = field(init=False)

    def enter(self, node: Node) -> None:
        """The operator whose rule runs next."""
        self.node, self.target = node, functional(node.target)

    @property
    def shape(self) -> torch.Size:
        """Shape of the current operator's (first) output."""
        meta = self.node.meta["val"]
        return (meta if isinstance(meta, Tensor) else meta[0]).shape

    def add(self, use: Use) -> Use:
        """Record the current operator as a use."""
        shape = self.shape
        use.positions = shape.numel() // (use.rows.numel() * (shape[0] if len(shape) > 1 else 1))
        self.uses.append(use)
        self.use_at[self.node] = use
        return use

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
            packet = getattr(self.node.target, "overloadpacket", self.node.target)
            stack = list(self.node.meta.get("nn_module_stack", {}).values())
            where = stack[-1][0] if stack and stack[-1][0] else "the model's forward"
            self.named[f"{packet} in {where} ({why})"] = None
        return tree_map_only(Tensor, lambda meta: unlabelled(meta.shape), self.node.meta.get("val"))

    def trusts(self, x: Tagged) -> bool:
        """Whether a size burnt into the graph along x's channels may be taken to follow x."""
        if self.trust_sizes:
            self.trusted.append(x.ids)
        return self.trust_sizes

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
        return Tagged(ids, tagged.value, dtype=tagged.dtype)

    def slot(self, name: str, axis: int, ids: Tensor | None = None) -> Tensor:
        """The ids along one axis of a parameter: tied to `ids` if given, else its own; shape (length,)."""
        key = (name, axis)
        if key not in self.slots:
            self.slots[key] = self.ids.fresh(self.tensors[name].shape[axis]) if ids is None else ids
        elif ids is not None:
            self.ids.tie(self.slots[key], ids)
        if name in self.fixed:
            self.ids.freeze(self.slots[key])
        self._distrust_own_code(name, self.slots[key])
        return self.slots[key]

    def _distrust_own_code(self, name: str, ids: Tensor) -> None:
        """A module of an unknown class may remember sizes of its parameters (attention heads)."""
        owner = self.owners[name]
        if type(owner) in _PLAIN:
            return
        if self.trust_sizes:
            self.trusted.append(ids)
        else:
            self.ids.freeze(ids)
            self.named[f"{name} ({type(owner).__name__}'s own code may hold its size)"] = None

    def vector(self, x: Tagged, axis: int) -> Tensor:
        """The ids along one axis, tied over all other axes; shape (length,)."""
        rows = channel_rows(x.ids, axis)
        if rows.shape[1] > 1:
            self.ids.tie(rows[:, :1].expand_as(rows), rows)
        return rows[:, 0]

    def finish(self) -> Analysis:
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
        frozen, trusted = tuple(self.named), tuple(self.trusted)
        return Analysis(self.ids, tuple(self.uses), self.slots, self.groups, frozen, trusted)

    def _channel_axis(self, ids: Tensor) -> int | None:
        """The axis that alone decides an element's class, or None."""
        roots = self.ids.find(ids)
        for axis in sorted(range(ids.dim()), key=lambda axis: -ids.shape[axis]):
            rows = channel_rows(roots, axis)
            if bool((rows == rows[:, :1]).all()):
                return axis
        return None
