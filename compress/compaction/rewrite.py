"""A narrower forward pass: the graph with every size and position that was written in the code made to fit.

Used where the model's own code cannot run on narrower parameters: `view(-1, 800)`, `chunk`, channel shuffle,
attention heads. Every result must be a block (see `Grid`). What an operator that only moves elements does is
checked on positions; where the same operator would no longer move the same elements it is replaced by a slice or
an `index_select` of an earlier result.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph
from torch.fx import Node

from compress.compaction.analysis import Analysis
from compress.compaction.fitting import SHAPED, fit
from compress.compaction.graph import SYMBOLS, Graph, hint
from compress.compaction.ids import Tagged, squash
from compress.compaction.rules import find_rule
from compress.compaction.table import aten
from compress.compaction.trace import concrete

Mask = list[Tensor]
"""Per axis, bool: which positions stay."""

_EXPANDING = frozenset({aten.expand, aten.broadcast_to})
# what the exporter adds to be sure of what it has seen; the sizes in them are the old ones
_CHECKS = frozenset(
    {
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
        torch.ops.aten.sym_constrain_range.default,
    }
)


class NotABlock(Exception):
    """Nodes whose results must be made blocks before the graph can be rewritten."""

    def __init__(self, nodes: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(nodes)))
        self.nodes = nodes


@dataclass
class Rewriter:
    """Builds the narrower graph, node by node.

    alive: whether each id lives, any shape. groups: module -> number of groups it keeps.
    biases: names of biases that folding creates. taken: names of constants that the model already has.
    """

    graph: Graph
    analysis: Analysis
    alive: Callable[[Tensor], Tensor]
    groups: Mapping[str, int]
    biases: frozenset[str]
    taken: frozenset[str]
    result: FxGraph = field(default_factory=FxGraph)
    constants: dict[str, Tensor] = field(default_factory=dict)
    made: dict[Node, Any] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    lost: set[Node] = field(default_factory=set)  # not made because something before was refused
    masks: dict[Node, Mask | None] = field(default_factory=dict)
    moves: dict[Node, Node] = field(default_factory=dict)

    def run(self) -> FxGraph:
        """The narrower graph; NotABlock if some results are no blocks."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function" and node.target not in _CHECKS:
                self._call(node)
            elif node.op == "output":
                self._refuse_missing(node)
                if not self.refused:
                    self.result.output(self.mapped(node.args[0]))
        if self.refused:
            raise NotABlock(frozenset(self.refused))
        self.result.eliminate_dead_code()
        return self.result

    def _placeholder(self, node: Node) -> None:
        name = self.graph.leaves.get(node.name)
        if name is not None:
            self.made[node] = self.attribute(name)
        elif node.name in self.graph.constants:
            self.made[node] = self.constant(self.graph.constants[node.name])
        else:
            self.made[node] = self.result.placeholder(node.name)

    def constant(self, value: Tensor) -> Node:
        """A node that holds a tensor which belongs to the forward pass, not to the model's state."""
        name = next(name for k in range(1 << 30) if (name := f"_constant_{k}") not in {*self.taken, *self.constants})
        self.constants[name] = value
        return self.attribute(name)

    def attribute(self, path: str) -> Node:
        """A node that reads an attribute of the model."""
        return self.result.create_node("get_attr", path)

    def mapped(self, value: Any) -> Any:
        """Arguments with every node of the old graph replaced by its narrower one."""
        return torch.fx.map_arg(value, self.made.__getitem__)

    def _refuse_missing(self, node: Node) -> bool:
        """True if an input is missing; it is refused, unless that follows from an earlier refusal."""
        missing = [other for other in node.all_input_nodes if other not in self.made]
        self.refused.update(other.name for other in missing if other not in self.lost)
        if missing:
            self.lost.add(node)
        return bool(missing)

    def _refuse(self, node: Node) -> None:
        self.refused.add(node.name)
        self.lost.add(node)

    def _call(self, node: Node) -> None:
        """Copy a node; leave it out where it is no block and only movements read it."""
        tagged = self.analysis.tagged.get(node)
        if isinstance(tagged, tuple) and moves(node) and node.args[0] not in self.made:
            return  # the pieces are picked one by one
        if not isinstance(tagged, Tagged):
            self._plain(node)
            return
        source = self._source(node)
        if self.mask(node) is None:
            if source is None or any(self._source(user) is None for user in readers(node)):
                self._refuse(node)
        elif source is not None and not (self._whole(node) and self._whole(source)):
            self._move(node, source)
        else:
            self._plain(node)

    def _plain(self, node: Node) -> None:
        """The same operator with arguments that fit."""
        if not self._refuse_missing(node):
            args, kwargs = fit(self, node, self.mapped(node.args), self.mapped(dict(node.kwargs)))
            # another memory format (channels_last) may not allow a view where the example's did
            target = aten.reshape.default if node.target is aten.view.default else node.target
            self.made[node] = self.result.call_function(target, args, kwargs)  # type: ignore[arg-type]

    def _source(self, node: Node) -> Node | None:
        """The one tensor whose elements this node moves, or None if it does more than that."""
        first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if first is not None and node.target is operator.getitem:
            return first.args[0] if moves(first) else None  # type: ignore[return-value]
        tagged = self.analysis.tagged.get(node)
        return first if first is not None and moves(node) and isinstance(tagged, Tagged | tuple) else None

    def _move(self, node: Node, source: Node) -> None:
        """The same movement where it still moves the same elements, else a slice or index_select."""
        pieces = node.args[0]
        if source in self.made and (node.target is not operator.getitem or pieces in self.made):
            try:
                follows = torch.equal(
                    self._replayed(node, self._positions(source), narrow=True), self._wanted(node, source)
                )
            except (RuntimeError, IndexError):  # a size that the narrower tensor does not have
                follows = False
            if follows:
                self._plain(node)
                return
        origin, between = source, list[Node]()
        while origin not in self.made:
            between.append(origin)
            above = self._source(origin)
            if origin in self.lost or above is None:
                self.lost.add(node)
                return
            origin = above
        if not self._pick(node, origin):
            for step in between or [node]:
                self._refuse(step)

    def _pick(self, node: Node, origin: Node) -> bool:
        """Positions of one axis of an earlier result, all other axes being the same; False if it is more."""
        wanted, positions = self._wanted(node, origin), self._positions(origin)
        if torch.equal(wanted, positions):  # there and back, as view and flatten: nothing to do in any batch size
            self.made[node] = self.made[origin]
            return True
        for axis in range(positions.dim()) if positions.dim() == wanted.dim() and wanted.numel() else ():
            stride = positions.shape[axis + 1 :].numel()
            index = wanted.movedim(axis, 0).reshape(wanted.shape[axis], -1)[:, 0] // stride % positions.shape[axis]
            picked = positions.index_select(axis, index)
            if picked.shape == wanted.shape and torch.equal(picked, wanted):
                self.made[node] = self._selected(self.made[origin], axis, index)
                return True
        return False

    def _selected(self, source: Any, axis: int, index: Tensor) -> Node:
        first, last = int(index[0]), int(index[-1])
        if torch.equal(index, torch.arange(first, last + 1)):
            return self.result.call_function(aten.slice.Tensor, (source, axis, first, last + 1))
        return self.result.call_function(aten.index_select.default, (source, axis, self.constant(index)))

    def _positions(self, node: Node) -> Tensor:
        """Numbers 0, 1, ... in the shape of a narrower result."""
        shape = self.lengths(node)
        return torch.arange(torch.Size(shape).numel()).reshape(shape)

    def _replayed(self, node: Node, positions: Tensor, *, narrow: bool) -> Tensor:
        """What a movement makes of positions; sizes in it are the narrower ones or the old ones."""
        if node.target is operator.getitem:
            pieces = node.args[0]
            assert isinstance(pieces, Node)
            return self._replayed(pieces, positions, narrow=narrow)[node.args[1]]  # type: ignore[index]
        packet = getattr(node.target, "overloadpacket", None)
        if packet in SHAPED:
            shape = self.lengths(node) if narrow else concrete(node.meta["val"])
            return positions.expand(shape) if packet in _EXPANDING else positions.reshape(shape)
        args, kwargs = torch.fx.map_arg((node.args[1:], dict(node.kwargs)), self._known)
        return node.target(positions, *args, **kwargs)  # type: ignore[operator,no-any-return]

    def _known(self, node: Node) -> Any:
        """A size's or a known tensor's value in the example."""
        tagged = self.analysis.tagged.get(node)
        if isinstance(tagged, Tagged):
            return tagged.value.to(tagged.dtype)
        value = node.meta.get("val")
        return hint(value) if isinstance(value, SYMBOLS) else value

    def _wanted(self, node: Node, origin: Node) -> Tensor:
        """Which positions of `origin`'s narrower result this node holds, in its narrower shape."""
        kept = [mask.nonzero()[:, 0] for mask in self.mask(origin) or []]
        full = torch.full(concrete(origin.meta["val"]), -1)
        full[torch.meshgrid(*kept, indexing="ij")] = self._positions(origin)
        chain = [node]
        while (above := self._source(chain[-1])) is not origin and above is not None:
            chain.append(above)
        for step in reversed(chain):
            full = self._replayed(step, full, narrow=False)
        for axis, mask in enumerate(self.mask(node) or []):
            full = full.index_select(axis, mask.nonzero()[:, 0])
        return full

    def mask(self, node: Node) -> Mask | None:
        """Which positions of each axis of a result stay; None if they are no block."""
        if node not in self.masks:
            tagged, shape = self.analysis.tagged[node], concrete(node.meta["val"])
            if tagged.source is None:
                self.masks[node] = block(self.alive(squash(tagged.ids)), shape)
            else:
                whole = [torch.ones(length, dtype=torch.bool) for length in shape]
                slots = {axis: self.analysis.slots.get((tagged.source, axis)) for axis in range(len(shape))}
                self.masks[node] = [whole[k] if slot is None else self.alive(slot) for k, slot in slots.items()]
        return self.masks[node]

    def lengths(self, node: Node) -> list[int]:
        """The narrower shape in the example's batch size."""
        return [int(mask.sum()) for mask in self.mask(node) or []]

    def _whole(self, node: Node) -> bool:
        mask = self.mask(node)
        return mask is not None and all(bool(kept.all()) for kept in mask)


def block(kept: Tensor, shape: torch.Size) -> Mask | None:
    """Per axis, which positions stay, if what stays is a block; axes of length 1 in `kept` are whole.

    >>> block(torch.tensor([[True, False], [True, False]]), torch.Size([2, 2]))
    [tensor([True, True]), tensor([ True, False])]
    >>> block(torch.tensor([[True, False], [False, True]]), torch.Size([2, 2])) is None
    True
    """
    axes = [axis for axis in range(kept.dim()) if kept.shape[axis] > 1]
    masks = [torch.ones(length, dtype=torch.bool) for length in shape]
    product = torch.ones((), dtype=torch.bool)
    for axis in axes:
        masks[axis] = kept.movedim(axis, 0).reshape(kept.shape[axis], -1).any(1)
        product = product & masks[axis].reshape(-1, *[1] * (kept.dim() - axis - 1))
    return masks if not axes or bool((product == kept).all()) else None


def moves(node: Node) -> bool:
    """True if the operator only moves elements of its first operand."""
    return node.op == "call_function" and node.target is not operator.getitem and find_rule(node.target).moves


def readers(node: Node) -> list[Node]:
    """Who reads a result, leaving out the exporter's checks."""
    return [user for user in node.users if user.target not in _CHECKS]
