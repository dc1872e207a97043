"""Channel ids: a union-find over integers, and tensors that carry one id and one known value per element.

A *channel* is an integer id; 0 means "no channel". Ids that must live or die together are *tied*; ids that
must stay are *frozen*. A value is the constant an element holds for every input, or NaN where it depends on
the input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


class ChannelIds:
    """Union-find over channel ids with two strengths of "must stay".

    >>> ids = ChannelIds()
    >>> a, b = ids.fresh(3), ids.fresh(3)
    >>> ids.tie(a[:2], b[1:])
    >>> ids.find(b).tolist()
    [4, 1, 2]
    """

    def __init__(self) -> None:
        self._count = 1
        self._parents = torch.zeros(1024, dtype=torch.int64)
        self._marks = torch.zeros(2, 1024, dtype=torch.bool)  # frozen, frozen for exactness only
        self._marks[0, 0] = True

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Tensor:
        """`count` new ids, shape (count,)."""
        start, self._count = self._count, self._count + count
        if self._count > len(self._parents):
            # doubled, so that the cost of growing stays linear in the number of channels
            room = max(self._count, 2 * len(self._parents))
            self._parents = torch.cat([self._parents, torch.zeros(room - len(self._parents), dtype=torch.int64)])
            self._marks = torch.cat([self._marks, torch.zeros(2, room - self._marks.shape[1], dtype=torch.bool)], 1)
        new = torch.arange(start, self._count)
        self._parents[start : self._count] = new
        return new

    def find(self, ids: Tensor) -> Tensor:
        """The representative of each id, same shape; only the ids asked for are walked."""
        roots = self._parents[ids]
        up = self._parents[roots]
        if torch.equal(up, roots):
            return roots
        while not torch.equal(up, roots):
            roots, up = up, self._parents[up]
        self._parents[ids] = roots
        return roots

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Tie two id tensors of one shape element by element; an id that meets 0 is frozen."""
        a, b = squash(a), squash(b)
        a, b = (a + 0 * b).reshape(-1), (b + 0 * a).reshape(-1)
        self.freeze(torch.where(a == 0, b, torch.where(b == 0, a, 0)))
        both = (a != 0) & (b != 0) & (a != b)
        a, b = a[both], b[both]
        while a.numel():
            a, b = self.find(a), self.find(b)
            low, high = torch.minimum(a, b), torch.maximum(a, b)
            # several partners of one root: the smallest wins now, the others meet it in the next round
            self._parents.scatter_reduce_(0, high, low, "amin")
            apart = self.find(a) != self.find(b)
            a, b = a[apart], b[apart]

    def tie_along(self, ids: Tensor, axis: int) -> None:
        """Tie all ids along an axis: what is at one place of the other axes goes as a whole."""
        small = squash(ids)
        if small.shape[axis] > 1:
            first = small.narrow(axis, 0, 1)
            self.tie(first.expand_as(small).contiguous(), small)

    def classes(self, ids: Tensor) -> Tensor:
        """`find`, with stride 0 along every axis on which the class does not change."""
        return collapse(self.find(squash(ids)).expand(ids.shape))

    def freeze(self, ids: Tensor, *, exact_only: bool = False) -> None:
        """These ids stay; with `exact_only` a removal is possible in shape but would change the output."""
        self._marks[int(exact_only), squash(ids).reshape(-1)] = True

    def frozen(self, *, exact: bool) -> Tensor:
        """Which classes stay, shape (ids,), to be indexed by `find`; `exact` adds those of `exact_only`."""
        marks = self._marks[: 1 + int(exact), : self._count].any(0)
        result = torch.zeros(self._count, dtype=torch.bool)
        result[self.find(marks.nonzero()[:, 0])] = True
        return result


@dataclass(frozen=True)
class Tagged:
    """What the analysis knows of one tensor of the graph.

    ids: channel of each element, int64, the tensor's own shape, stride 0 along axes where it does not change.
    value: the constant each element holds, float64, same shape; NaN where it depends on the input.
    source: the parameter or buffer this is, unchanged; None for a computed tensor.
    dtype: the tensor's number type in the model.
    averages: the last axis holds weights that sum to 1 (softmax).
    """

    ids: Tensor
    value: Tensor
    source: str | None = None
    dtype: torch.dtype = torch.float64
    averages: bool = False

    @property
    def known(self) -> bool:
        """True if no element depends on the input."""
        return not bool(squash(self.value).isnan().any())

    def vary(self, axis: int) -> bool:
        """True if the ids change along an axis, so that its length is a number of channels."""
        return varies(self.ids, axis)

    @property
    def unknown(self) -> bool:
        """True if every element depends on the input."""
        return bool(squash(self.value).isnan().all())


def varies(ids: Tensor, axis: int) -> bool:
    """True if the ids change along an axis."""
    small = squash(ids)
    return small.shape[axis] > 1 and bool((small != small.narrow(axis, 0, 1)).any())


def unlabelled(shape: torch.Size, value: Tensor | None = None) -> Tagged:
    """A tensor without channels; its value, or unknown."""
    known = torch.full((), torch.nan, dtype=torch.float64) if value is None else value.to(torch.float64)
    return Tagged(torch.zeros((), dtype=torch.int64).expand(shape), known.expand(shape))


def squash(tensor: Tensor) -> Tensor:
    """The same tensor with every stride-0 axis cut to length 1; `expand` undoes it."""
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def collapse(tensor: Tensor) -> Tensor:
    """The same tensor with stride 0 along every axis on which it is constant (NaN equals NaN)."""
    small = squash(tensor)
    for axis in reversed(range(small.dim())):
        first = small.narrow(axis, 0, 1) if small.shape[axis] > 1 else small
        if first is not small and bool(((small == first) | (small.isnan() & first.isnan())).all()):
            small = first
    return small.expand(tensor.shape)


def any_along(mask: Tensor, axis: int) -> Tensor:
    """`mask.any(axis)` by way of bytes, for which torch has a kernel some 60 times as fast."""
    return mask.view(torch.uint8).amax(axis).bool() if mask.numel() else mask.any(axis)


def channel_rows(tensor: Tensor, axis: int) -> Tensor:
    """One row per index of `axis`, shape (length, positions); positions is 1 where nothing changes."""
    small = squash(tensor).movedim(axis, 0)
    return small.expand(tensor.shape[axis], *small.shape[1:]).reshape(tensor.shape[axis], -1)
