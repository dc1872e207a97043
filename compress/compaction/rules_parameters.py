"""Operators with weights: convolution and linear read channels and make new ones, normalisation ties them."""

from typing import Any

import torch
from torch import Tensor, nn

from compress.compaction.ids import Tagged, channel_rows, collapse, squash
from compress.compaction.table import aten, rule
from compress.compaction.trace import FoldTarget, Trace, Use

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
        tie_groups(trace, weight.source, rows, cols, groups)
    values = trace.tensors[weight.source]
    axes = x.ids.dim() - 2
    same = isinstance(padding, str)
    geometry = (
        listed(stride, axes),
        padding if same else listed(padding, axes),
        listed(dilation, axes),
        groups,
    )
    use = trace.add(
        Use(
            weight=weight.source,
            rows=rows,
            cols=cols,
            values=values,
            groups=groups,
            maps=channel_rows(x.value, 1),
            padded=padding == "same" or (not same and any(listed(padding, axes))),
            mergeable=groups == 1 and called_once(trace, weight.source),
            fold=fold_target(trace, weight.source, bias),
        )
    )
    value = constant_maps(trace, x, values, use, geometry)
    value = value + bias_values(trace, bias, rows).reshape(-1, *[1] * axes)
    return Tagged(rows.reshape(-1, *[1] * axes).expand(trace.shape), collapse(value).expand(trace.shape))


def constant_maps(trace: Trace, x: Tagged, values: Tensor, use: Use, geometry: tuple[Any, ...]) -> Tensor:
    """What each row gives where it depends on no input, shape (n or 1, rows, ...); NaN elsewhere."""
    constant = use.constant
    flat = torch.where(constant, 0.0, torch.nan).double().reshape(1, -1, *[1] * (x.ids.dim() - 2))
    if not (bool(use.known.any()) and bool(use.reads[constant].any())):
        return flat
    maps = x.value.narrow(0, 0, 1) if x.value.stride(0) == 0 else x.value
    if geometry[-1] == 1:  # only the rows and columns that matter: a whole convolution in float64 is dear
        maps, picked = maps[:, use.known], values[constant][:, use.known].double()
        result = trace.target(maps, picked, None, *geometry)
        full = flat.expand(result.shape[0], -1, *result.shape[2:]).clone()
        full[:, constant] = result
        return full
    whole: Tensor = trace.target(maps.nan_to_num(), values.double(), None, *geometry)
    return whole + flat


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
    plain = type(trace.owners[weight]) in _WITH_BIAS and attribute == "weight"
    return FoldTarget(f"{path}.bias".lstrip("."), 1.0) if plain and trace.calls[weight] == 1 else None


def tie_groups(trace: Trace, weight: str, rows: Tensor, cols: Tensor, groups: int) -> None:
    """Keep a grouped convolution legal by the finer of two ways.

    Many narrow groups (depthwise): a group goes as a whole, with its inputs and outputs. Few wide groups
    (AlexNet): every group loses the same positions.
    """
    by_group, ins = rows.reshape(groups, -1), cols.reshape(groups, -1)
    if groups < ins.shape[1]:
        trace.ids.tie(by_group[:1].expand_as(by_group), by_group)
        trace.ids.tie(ins[:1].expand_as(ins), ins)
        trace.slot(weight, 1, ins[0])
        return
    for part in (by_group, ins):
        trace.ids.tie(by_group[:, :1].expand_as(part), part)
    trace.groups[weight] = groups


@rule(aten.batch_norm, takes_parameters=True)
def batch_norm(
    trace: Trace, x: Tagged, weight: Tagged | None, bias: Tagged | None, mean: Tagged | None,
    var: Tagged | None, training: bool, momentum: float, eps: float, *_: Any,
) -> Any:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias; a zero weight makes a constant of any input."""
    x = trace.open(x)
    given = [tagged for tagged in (weight, bias, mean, var) if tagged is not None]
    if any(tagged.source is None for tagged in given):
        return trace.unknown(x, *given, why=COMPUTED)
    channels = trace.vector(x, 1)
    for tagged in given:
        trace.slot(str(tagged.source), 0, channels)
    shape = (-1, *[1] * (x.ids.dim() - 2))
    gamma = weight.value.double().reshape(shape) if weight is not None else torch.ones((), dtype=torch.float64)
    beta = bias.value.double().reshape(shape) if bias is not None else torch.zeros((), dtype=torch.float64)
    if training or mean is None or var is None:
        normal = torch.full((), torch.nan, dtype=torch.float64)  # statistics of the batch
    else:
        normal = (squash(x.value) - mean.value.double().reshape(shape)) / (
            var.value.double().reshape(shape) + eps
        ).sqrt()
        redirect_fold(trace, mean)
    value = torch.where(gamma == 0, 0.0, normal * gamma) + beta
    return Tagged(x.ids, value.expand(trace.shape))


def redirect_fold(trace: Trace, mean: Tagged) -> None:
    """A convolution without bias that feeds only this layer folds into running_mean: no new parameter."""
    producer = trace.node.args[0]
    use = trace.use_at.get(producer)  # type: ignore[arg-type]  # a node by the operator's schema
    name = str(mean.source)
    if use is None or name in trace.fixed or trace.calls[name] != 1 or trace.calls[use.weight] != 1:
        return
    has_bias = use.fold is not None and use.fold.name in trace.tensors
    if not has_bias and len(producer.users) == 1:  # type: ignore[union-attr]
        use.fold = FoldTarget(name, -1.0)


@rule(aten.layer_norm, takes_parameters=True)
def layer_norm(
    trace: Trace,
    x: Tagged,
    shape: list[int],
    weight: Tagged | None = None,
    bias: Tagged | None = None,
    *_: Any,
) -> Any:
    """Normalised over the last axes: without a channel the others change, so none goes exactly."""
    x = trace.open(x)
    axes = range(x.ids.dim() - len(shape), x.ids.dim())
    given = [tagged for tagged in (weight, bias) if tagged is not None]
    if any(tagged.source is None for tagged in given):
        return trace.unknown(x, *given, why=COMPUTED)
    trace.mix(x, axes)
    channels = [axis for axis in axes if x.vary(axis)]
    if channels and len(axes) == 1 and not any(x.vary(axis) for axis in range(axes[0])):
        for tagged in given:
            trace.slot(str(tagged.source), 0, trace.vector(x, axes[0]))
    elif channels:
        trace.freeze_all(given)
        if len(axes) > 1:
            trace.ids.freeze(x.ids)
    return Tagged(x.ids, torch.full((), torch.nan, dtype=torch.float64).expand(trace.shape))


@rule(aten.prelu, takes_parameters=True)
def prelu(trace: Trace, x: Tagged, weight: Tagged) -> Any:
    """PReLU, x > 0 ? x : weight[channel] * x; the weight belongs to axis 1, whatever broadcasting says."""
    x = trace.open(x)
    if weight.source is None:
        return trace.unknown(x, weight, why=COMPUTED)
    slope = weight.value.double()
    if slope.numel() > 1:
        trace.slot(weight.source, 0, trace.vector(x, 1))
        slope = slope.reshape(-1, *[1] * (x.ids.dim() - 2))
    value = squash(x.value)
    return Tagged(x.ids, torch.where(value > 0, value, slope * value).expand(trace.shape))
