"""Normalisation and PReLU: their parameters are tied to the channels they scale."""

from typing import Any

import torch
from torch import Tensor

from compress.compaction.analysis import FoldTarget
from compress.compaction.ids import Tagged, squash
from compress.compaction.rules_parameters import COMPUTED
from compress.compaction.table import aten, rule
from compress.compaction.trace import Trace


@rule(aten.batch_norm, aten.instance_norm, takes_parameters=True)
def batch_norm(
    trace: Trace, x: Tagged, weight: Tagged | None, bias: Tagged | None, mean: Tagged | None,
    var: Tagged | None, of_input: bool, momentum: float, eps: float, *_: Any,
) -> Any:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias; a zero weight makes a constant of any input.

    With statistics of the input, instance normalisation makes 0 * weight + bias of a channel that is one constant;
    those of a batch depend on the other samples.
    """
    x = trace.open(x)
    if not from_source(weight, bias, mean, var):
        return trace.unknown(x, weight, bias, mean, var, why=COMPUTED)
    channels = trace.vector(x, 1)
    for tagged in (weight, bias, mean, var):
        if tagged is not None:
            trace.slot(str(tagged.source), 0, channels)
    small = squash(x.value)
    if not of_input and mean is not None and var is not None:
        shape = (-1, *[1] * (x.ids.dim() - 2))
        normal = (small - mean.value.double().reshape(shape)) / (var.value.double().reshape(shape) + eps).sqrt()
        redirect_fold(trace, mean)
    elif trace.target.overloadpacket is aten.instance_norm:
        normal = normalised(small.flatten(2), eps).reshape(small.shape)
    else:
        normal = torch.full((), torch.nan, dtype=torch.float64)
    return Tagged(x.ids, scaled(trace, normal, weight, bias))


@rule(aten.group_norm, takes_parameters=True)
def group_norm(
    trace: Trace, x: Tagged, groups: int, weight: Tagged | None = None, bias: Tagged | None = None,
    eps: float = 1e-5, *_: Any,
) -> Any:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias, mean and var over a group of channels and all positions.

    Without one channel the rest of its group would change, so groups go as a whole; one is known if all of it is.
    """
    x = trace.open(x)
    if not from_source(weight, bias):
        return trace.unknown(x, weight, bias, why=COMPUTED)
    channels = trace.vector(x, 1)
    trace.ids.tie_along(channels.reshape(groups, -1), 1)
    for tagged in (weight, bias):
        if tagged is not None:
            trace.slot(str(tagged.source), 0, channels)
    small = squash(x.value)
    small = small.expand(-1, x.ids.shape[1], *small.shape[2:])
    normal = normalised(small.reshape(small.shape[0], groups, -1), eps).reshape(small.shape)
    return Tagged(x.ids, scaled(trace, normal, weight, bias))


def from_source(*given: Tagged | None) -> bool:
    """True if all of these that are given are parameters or buffers as they are."""
    return all(tagged is None or tagged.source is not None for tagged in given)


def normalised(value: Tensor, eps: float) -> Tensor:
    """(v - mean) / sqrt(var + eps) over the last axis; NaN where any of it is."""
    centred = value - value.mean(-1, keepdim=True)
    result: Tensor = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return result


def scaled(trace: Trace, normal: Tensor, weight: Tagged | None, bias: Tagged | None) -> Tensor:
    """Normal * weight + bias along axis 1, in the operator's shape; NaN times a zero weight is zero."""
    shape = (-1, *[1] * (len(trace.shape) - 2))
    gamma = weight.value.double().reshape(shape) if weight is not None else torch.ones((), dtype=torch.float64)
    beta = bias.value.double().reshape(shape) if bias is not None else torch.zeros((), dtype=torch.float64)
    return (torch.where(gamma == 0, 0.0, normal * gamma) + beta).expand(trace.shape)


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


@rule(aten.layer_norm, aten.rms_norm, takes_parameters=True)
def layer_norm(trace: Trace, x: Tagged, shape: list[int], *args: Any, **kwargs: Any) -> Any:
    """Normalised over the last axes: without a channel the others change, so none goes exactly."""
    x = trace.open(x)
    axes = range(x.ids.dim() - len(shape), x.ids.dim())
    given = [tagged for tagged in (*args, *kwargs.values()) if isinstance(tagged, Tagged)]
    if not from_source(*given):
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
