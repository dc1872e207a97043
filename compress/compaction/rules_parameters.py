"""Operators with weights: convolutions and linear layers read channels and make new ones, embeddings make them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.compaction.analysis import FoldTarget, Use
from compress.compaction.ids import Tagged, channel_rows, collapse, squash
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace

COMPUTED = "its weight is computed in the forward pass"
_WITH_BIAS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@rule(aten.linear, takes_parameters=True)
def linear(trace: Trace, x: Tagged, weight: Tagged, bias: Tagged | None = None) -> Any:
    """y[..., o] = sum_i x[..., i] weight[o, i] + bias[o]."""
    x = trace.open(x)
    if weight.source is None or (bias is not None and bias.source is None):
        return trace.unknown(x, weight, bias, why=COMPUTED)
    if not x.vary(x.ids.dim() - 1) and any(x.vary(axis) for axis in range(x.ids.dim())):
        return mixed_positions(trace, x, weight.source, bias)
    cols = trace.slot(weight.source, 1, trace.vector(x, x.ids.dim() - 1))
    rows = row_ids(trace, weight.source, bias)
    use = trace.add(
        Use(
            weight=weight.source,
            rows=rows,
            cols=cols,
            values=trace.tensors[weight.source],
            pattern=trace.patterns.get(weight.source),
            maps=channel_rows(x.value, -1),
            padded=False,
            mergeable=called_once(trace, weight.source),
            fold=fold_target(trace, weight.source, bias),
        )
    )
    return Tagged(rows.expand(trace.shape), linear_value(trace, x, use, bias))


def linear_value(trace: Trace, x: Tagged, use: Use, bias: Tagged | None) -> Tensor:
    """The rows that depend on no input, float64, the operator's shape; NaN elsewhere."""
    constant = use.constant
    small = squash(x.value)
    small = small.nan_to_num().expand(*small.shape[:-1], x.value.shape[-1])
    known = bias_values(trace, bias, use.rows) + torch.where(constant, 0.0, torch.nan)
    value = known.expand(*small.shape[:-1], use.rows.numel()).clone()
    if bool(use.known.any()) and bool(use.reads[constant].any()):
        value[..., constant] += small @ use.gain[constant].T
    return collapse(value).expand(trace.shape)


def mixed_positions(trace: Trace, x: Tagged, weight: str, bias: Tagged | None) -> Tagged:
    """A linear layer over an axis of positions (MLP-Mixer): every channel is treated alike and stays itself."""
    trace.ids.freeze(torch.cat([trace.slot(weight, 1), row_ids(trace, weight, bias)]))
    ids = squash(x.ids).narrow(-1, 0, 1)
    return Tagged(ids.expand(trace.shape), torch.full((), torch.nan, dtype=torch.float64).expand(trace.shape))


@rule(aten.conv1d, aten.conv2d, aten.conv3d, takes_parameters=True)
def convolution(
    trace: Trace, x: Tagged, weight: Tagged, bias: Tagged | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Any:  # fmt: skip
    """y[n, o, ...] = sum_i x[n, i, ...] * weight[o, i, ...] + bias[o], within each of the groups."""
    if weight.source is None or (bias is not None and bias.source is None) or x.ids.dim() != weight.ids.dim():
        return trace.unknown(x, weight, bias, why=COMPUTED)
    x = trace.open(x)
    cols = trace.vector(x, 1)
    rows = row_ids(trace, weight.source, bias)
    if groups == 1:
        cols = trace.slot(weight.source, 1, cols)
    else:
        tie_groups(trace, weight.source, rows, cols, groups, inside=cols)
    axes = x.ids.dim() - 2
    same = isinstance(padding, str)
    geometry = (listed(stride, axes), padding if same else listed(padding, axes), listed(dilation, axes), groups)
    use = trace.add(
        Use(
            weight=weight.source,
            rows=rows,
            cols=cols,
            values=trace.tensors[weight.source],
            pattern=trace.patterns.get(weight.source),
            groups=groups,
            maps=channel_rows(x.value, 1),
            padded=padding == "same" or (not same and any(listed(padding, axes))),
            # with one column per group there is nothing to merge with
            mergeable=(groups == 1 or weight.ids.shape[1] > 1) and called_once(trace, weight.source),
            fold=fold_target(trace, weight.source, bias),
        )
    )
    return convolved(trace, x, use, bias, lambda maps, weight: trace.target(maps, weight, None, *geometry))


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d, takes_parameters=True)
def transposed_convolution(
    trace: Trace, x: Tagged, weight: Tagged, bias: Tagged | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """y[n, o, s * p + q, ...] = sum_i x[n, i, p, ...] * weight[i, o, q, ...] + bias[o], summed over p and q.

    How many p meet at a position depends on it, so that a constant rarely gives a constant.
    """
    if weight.source is None or (bias is not None and bias.source is None) or x.ids.dim() != weight.ids.dim():
        return trace.unknown(x, weight, bias, why=COMPUTED)
    x = trace.open(x)
    rows, cols = transposed_ids(trace, x, weight.source, bias, groups)
    axes = x.ids.dim() - 2
    geometry = [listed(number, axes) for number in (stride, padding, output_padding)]
    spread = listed(dilation, axes)
    pointwise = (*geometry[0], *weight.ids.shape[2:]) == (1,) * 2 * axes and not any(geometry[1] + geometry[2])
    use = trace.add(
        Use(
            weight=weight.source,
            rows=rows,
            cols=cols,
            values=other_way_round(trace.tensors[weight.source], groups),
            groups=groups,
            maps=channel_rows(x.value, 1),
            padded=not pointwise,
            mergeable=groups == 1 and called_once(trace, weight.source),
            fold=fold_target(trace, weight.source, bias),
            out_axis=1,
        )
    )
    use.positions = x.ids.shape.numel() // (cols.numel() * trace.batch)  # a weight is used once per input position

    def convolve(maps: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = trace.target(maps, other_way_round(weight, groups), None, *geometry, groups, spread)
        return result

    return convolved(trace, x, use, bias, convolve)


def transposed_ids(trace: Trace, x: Tagged, weight: str, bias: Tagged | None, groups: int) -> tuple[Tensor, Tensor]:
    """The output and input channels of a transposed convolution, whose weight has the inputs first."""
    cols = trace.slot(weight, 0, trace.vector(x, 1))
    rows = trace.slot(weight, 1) if groups == 1 else trace.ids.fresh(trace.shape[1])
    if bias is not None:
        trace.slot(str(bias.source), 0, rows)
    if groups > 1:
        tie_groups(trace, weight, rows, cols, groups, inside=rows)
    return rows, cols


def other_way_round(weight: Tensor, groups: int) -> Tensor:
    """(in, out / groups, kernel...) as (out, in / groups, kernel...) and back.

    >>> other_way_round(torch.zeros(6, 2, 3), 3).shape
    torch.Size([6, 2, 3])
    >>> other_way_round(torch.zeros(6, 5, 3), 1).shape
    torch.Size([5, 6, 3])
    """
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def convolved(
    trace: Trace, x: Tagged, use: Use, bias: Tagged | None, convolve: Callable[[Tensor, Tensor], Tensor]
) -> Tagged:
    """The rows of a convolution with what is known of them; `convolve` takes maps and weights."""
    beyond = (-1, *[1] * (x.ids.dim() - 2))
    value = constant_maps(x, use, convolve) + bias_values(trace, bias, use.rows).reshape(beyond)
    return Tagged(use.rows.reshape(beyond).expand(trace.shape), collapse(value).expand(trace.shape))


def constant_maps(x: Tagged, use: Use, convolve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What each row gives where it depends on no input, shape (n or 1, rows, ...); NaN elsewhere."""
    constant = use.constant
    flat = torch.where(constant, 0.0, torch.nan).double().reshape(1, -1, *[1] * (x.ids.dim() - 2))
    if not (bool(use.known.any()) and bool(use.reads[constant].any())):
        return flat
    maps = x.value.narrow(0, 0, 1) if x.value.stride(0) == 0 else x.value
    if use.groups == 1:  # only the rows and columns that matter: a whole convolution in float64 is dear
        result = convolve(maps[:, use.known], use.values[constant][:, use.known].double())
        full = flat.expand(result.shape[0], -1, *result.shape[2:]).clone()
        full[:, constant] = result
        return full
    return convolve(maps.nan_to_num(), use.values.double()) + flat


@rule(aten.embedding, takes_parameters=True)
def embedding(trace: Trace, weight: Tagged, indices: Tagged, *_: Any) -> Any:
    """y[..., c] = weight[indices[...], c]: a column of equal numbers is a constant."""
    if weight.source is None:
        return trace.unknown(weight, indices, why=COMPUTED)
    trace.freeze_all(indices)
    channels = trace.slot(weight.source, 1)
    table = trace.tensors[weight.source].double()
    if indices.known:
        value = aten.embedding.default(table, squash(indices.value).long())
    else:
        value = torch.where((table == table[:1]).all(0), table[0], torch.nan)
    return Tagged(channels.expand(trace.shape), collapse(value.expand(trace.shape)))


def row_ids(trace: Trace, weight: str, bias: Tagged | None) -> Tensor:
    """The output channels of a layer, shape (out,)."""
    rows = trace.slot(weight, 0)
    if bias is not None and bias.source is not None:
        trace.slot(bias.source, 0, rows)
    return rows


def bias_values(trace: Trace, bias: Tagged | None, rows: Tensor) -> Tensor:
    """float64, shape (out,)."""
    if bias is None or bias.source is None:
        return torch.zeros(rows.numel(), dtype=torch.float64)
    return trace.tensors[bias.source].double()


def called_once(trace: Trace, weight: str) -> bool:
    """True if the weight's values may be changed on behalf of one call."""
    return trace.calls[weight] == 1 and weight not in trace.fixed


def listed(number: int | list[int], axes: int) -> list[int]:
    """One number per axis."""
    return [number] * axes if isinstance(number, int) else list(number)


def fold_target(trace: Trace, weight: str, bias: Tagged | None) -> FoldTarget | None:
    """The bias, if only this call reads it; a bias is created where the layer is a plain one called once."""
    if bias is not None and bias.source is not None:
        return FoldTarget(bias.source, 1.0) if trace.calls[bias.source] == 1 else None
    path, _, attribute = weight.rpartition(".")
    plain = trace.owners[weight] in _WITH_BIAS and attribute == "weight"
    return FoldTarget(f"{path}.bias".lstrip("."), 1.0) if plain and trace.calls[weight] == 1 else None


def tie_groups(trace: Trace, weight: str, rows: Tensor, cols: Tensor, groups: int, *, inside: Tensor) -> None:
    """Keep a grouped convolution legal by the finer of two ways.

    Many narrow groups (depthwise): a group goes as a whole, with its inputs and outputs. Few wide groups
    (AlexNet): every group loses the same positions; axis 1 of the weight is as long as one group of `inside`.
    """
    by_group, ins = rows.reshape(groups, -1), cols.reshape(groups, -1)
    if groups < ins.shape[1]:
        trace.ids.tie(by_group[:1].expand_as(by_group), by_group)
        trace.ids.tie(ins[:1].expand_as(ins), ins)
        trace.slot(weight, 1, inside.reshape(groups, -1)[0])
        return
    for part in (by_group, ins):
        trace.ids.tie(by_group[:, :1].expand_as(part), part)
    trace.groups[weight] = groups
