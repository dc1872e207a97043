"""Products of two computed tensors: attention scores, their use, and any other matmul or einsum.

In y = sum_k a[h, m, k] b[h, k, n] the axes have roles: shared (h: heads, batch), left (m), right (n), summed (k).
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.compaction.analysis import FoldTarget, Grid, Use
from compress.compaction.ids import Tagged, channel_rows, collapse, squash, varies
from compress.compaction.rules_parameters import linear_value
from compress.compaction.rules_pointwise import joined_ids
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace


@rule(aten.matmul, aten.bmm, aten.mm, takes_parameters=True)
def matmul(trace: Trace, a: Tagged, b: Tagged) -> Any:
    """Y = a @ b over the last axis of a and the last but one of b."""
    if b.source is not None and b.ids.dim() == 2 and a.source is None:
        return product_with_parameter(trace, a, b.source)
    a, b = trace.open((a, b))
    rank = max(a.ids.dim(), b.ids.dim(), 2)
    shared = string.ascii_lowercase[: rank - 2]
    left = shared[len(shared) - max(a.ids.dim() - 2, 0) :] + ("MK" if a.ids.dim() > 1 else "K")
    right = shared[len(shared) - max(b.ids.dim() - 2, 0) :] + ("KN" if b.ids.dim() > 1 else "K")
    out = shared + ("M" if a.ids.dim() > 1 else "") + ("N" if b.ids.dim() > 1 else "")
    return contract(trace, f"{left},{right}->{out}", a, b)


@rule(aten.addmm, takes_parameters=True)
def addmm(trace: Trace, bias: Tagged, a: Tagged, b: Tagged, *, beta: float = 1, alpha: float = 1) -> Any:
    """Y = bias + a @ b."""
    if b.source is None or a.source is not None or bias.source is None or (beta, alpha) != (1, 1):
        return trace.unknown(bias, a, b)
    return product_with_parameter(trace, a, b.source, bias)


@rule(aten.einsum)
def einsum(trace: Trace, equation: str, operands: Sequence[Tagged], **_: Any) -> Any:
    """Two operands without repeated letters; everything else freezes."""
    equation = equation.replace(" ", "")
    if len(operands) != 2 or "." in equation or "->" not in equation:
        return trace.unknown(operands, why="not a product of two tensors")
    terms = equation.partition("->")[0].split(",")
    if any(len(set(term)) < len(term) for term in terms):
        return trace.unknown(operands, why="a diagonal is taken")
    return contract(trace, equation, *operands)


@rule(aten.scaled_dot_product_attention)
def attention(
    trace: Trace, query: Tagged, key: Tagged, value: Tagged, mask: Tagged | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(query @ key.T / sqrt(d) + mask) @ value."""
    rank = query.ids.dim()
    same = rank == key.ids.dim() == value.ids.dim() and query.ids.shape[:-2] == key.ids.shape[:-2]
    if not same or (enable_gqa and query.ids.shape[-3] != key.ids.shape[-3]):
        return trace.unknown(query, key, value, mask, why="heads share keys")
    shared = string.ascii_lowercase[: rank - 2]
    scores = contract(trace, f"{shared}MK,{shared}NK->{shared}MN", query, key)
    if mask is not None:
        shape = torch.empty(scores.ids.shape, device="meta").add(torch.empty(mask.ids.shape, device="meta")).shape
        ids = joined_ids(trace, [scores, mask], shape)
        scores = Tagged(ids, torch.full((), torch.nan, dtype=torch.float64).expand(shape))
    trace.mix(scores, [rank - 1])
    # scores of 0 are not weights of 0
    unknown = torch.full((), torch.nan, dtype=torch.float64).expand(scores.ids.shape)
    weights = Tagged(scores.ids, unknown, averages=True)
    return contract(trace, f"{shared}MN,{shared}ND->{shared}MD", weights, value)


def contract(trace: Trace, equation: str, a: Tagged, b: Tagged) -> Tagged:
    """The result of einsum(equation, a, b) in the current operator's trace.

    Channels along a summed axis are tied between a and b. A result has a channel per head where the summed
    axes have channels in heads; otherwise it keeps those of the left or right axes. A channel that one of the
    two operands always multiplies by zero is read by nobody.
    """
    terms, _, out = equation.partition("->")
    left, _, right = terms.partition(",")
    sizes = dict(zip(left + right, (*a.ids.shape, *b.ids.shape), strict=True))
    for letters, tagged in ((left, a), (right, b)):  # an axis of length 1 meets a longer one
        sizes.update({x: n for x, n in zip(letters, tagged.ids.shape, strict=True) if n > 1})
    shape = torch.Size(sizes[letter] for letter in out)
    heads = "".join(x for x in out if x in left and x in right)
    order = heads + "".join(x for x in out if x not in heads) + "".join(x for x in left if x not in out)
    product = _Product(
        trace,
        _lifted(squash(a.ids), left, order),
        _lifted(squash(b.ids), right, order),
        zero=_lifted(squash(a.value) == 0, left, order) | _lifted(squash(b.value) == 0, right, order),
        heads=len(heads),
        kept=len(out),
    )
    ids = product.ids()
    if ids is None:
        return trace.unknown(a, b, why="mixes channels")  # type: ignore[no-any-return]
    axes = [order.index(letter) for letter in out]
    summed = order[len(out) :]
    nothing = product.zero.flatten(len(out)).all(-1) if summed else product.zero
    value = torch.where(nothing, 0.0, torch.nan).double()
    if a.averages and summed == left[-1]:  # weights that sum to 1: what is the same at all positions stays as it is
        same = _lifted(squash(b.value), right, order)
        value = torch.where(same.isnan().squeeze(-1), value, same.squeeze(-1)) if same.shape[-1] == 1 else value
    ids = ids.reshape(ids.shape[: len(out)])
    return Tagged(ids.permute(axes).expand(shape), collapse(value.permute(axes).expand(shape)))


def _lifted(tensor: Tensor, letters: str, order: str) -> Tensor:
    """The tensor with one axis for every letter of `order`, of length 1 where it has none."""
    axes = [letters.index(x) for x in order if x in letters]
    shape = [tensor.shape[letters.index(x)] if x in letters else 1 for x in order]
    return tensor.permute(axes).reshape(shape)


@dataclass(frozen=True)
class _Product:
    """Both operands' ids over the same axes: first heads, then what the result keeps besides, then what is summed."""

    trace: Trace
    a: Tensor
    b: Tensor
    zero: Tensor
    heads: int
    kept: int

    def ids(self) -> Tensor | None:
        """Ids of the result, summed axes of length 1; None if channels are mixed in a way that has no rule."""
        free = range(self.heads, self.kept)
        a_free, b_free = self._vary(self.a, free), self._vary(self.b, free)
        summed = range(self.kept, self.a.dim())
        if self._vary(self.a, summed) or self._vary(self.b, summed):
            return None if a_free or b_free else self._scores()
        if a_free and b_free:
            return None
        return self._weighted(self.a, self.b) if a_free else self._weighted(self.b, self.a)

    def _scores(self) -> Tensor:
        """One channel per head: it reads every channel of the head, and the head goes with it."""
        ids = self.trace.ids
        ids.tie(self.a, self.b)
        both = torch.where(self.a == 0, self.b, self.a)  # broadcast; what met a 0 is frozen
        read = torch.where(self.zero, 0, both)
        if not self._vary(self.a, range(self.heads)) and not self._vary(self.b, range(self.heads)):
            ids.freeze(read, exact_only=True)
            return torch.zeros([1] * both.dim(), dtype=torch.int64)
        rows = both.flatten(self.heads).reshape(-1, both.shape[self.heads :].numel())
        heads = ids.find(rows[:, 0]).tolist()
        numbers = {head: number for number, head in enumerate(dict.fromkeys(heads))}  # a head comes up once per sample
        scores = ids.fresh(len(numbers))[[numbers[head] for head in heads]]
        result = scores.reshape(*both.shape[: self.heads], *[1] * (both.dim() - self.heads))
        self.trace.link(result, read)
        self.trace.grids.append(Grid((scores[:, None], rows)))
        return result

    def _weighted(self, main: Tensor, weights: Tensor) -> Tensor:
        """The channels of `main`, each reading the weights of its head."""
        trace, heads = self.trace, range(self.heads)
        if not self._vary(weights, heads):
            trace.ids.freeze(weights)
            return main
        if not self._vary(main, range(main.dim())):
            trace.ids.freeze(main)
            trace.ids.freeze(weights)
            return weights
        trace.link(main, weights)
        full = [max(pair) for pair in zip(main.shape[: self.heads], weights.shape[: self.heads], strict=True)]
        rows = [t.expand(*full, *t.shape[self.heads :]).flatten(0, self.heads - 1).flatten(1) for t in (weights, main)]
        trace.grids.append(Grid((rows[0], rows[1])))
        return main

    @staticmethod
    def _vary(ids: Tensor, axes: range) -> bool:
        return any(varies(ids, axis) for axis in axes)


def product_with_parameter(trace: Trace, x: Tagged, weight: str, bias: Tagged | None = None) -> Any:
    """y[..., o] = sum_i x[..., i] weight[i, o] + bias[o]: a linear layer with its weight the other way round."""
    cols = trace.slot(weight, 0, trace.vector(x, x.ids.dim() - 1))
    rows = trace.slot(weight, 1)
    if bias is not None and bias.source is not None:
        trace.slot(bias.source, 0, rows)
    own_bias = bias is not None and bias.source is not None and trace.calls[bias.source] == 1
    use = trace.add(
        Use(
            weight=weight,
            rows=rows,
            cols=cols,
            values=trace.tensors[weight].T,
            maps=channel_rows(x.value, -1),
            padded=False,
            mergeable=False,
            fold=FoldTarget(str(bias.source), 1.0) if own_bias and bias is not None else None,
            out_axis=1,
        )
    )
    return Tagged(rows.expand(trace.shape), linear_value(trace, x, use, bias))
