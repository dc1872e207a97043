"""Normalisations and PReLU: vectors with a number for each channel, held by torch's own layers where constant."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.onnx_import.layers import Weights, filled, given, layer_of, parameter
from compress.onnx_import.table import Call, Node, operator


@layer_of("BatchNormalization", 1, 2, 3, 4)
def batch_norm(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.BatchNorm2d as the holder of the four vectors; `batch_normalisation` runs it for any rank."""
    arrays = [weights.array(node, slot) for slot in (1, 2, 3, 4)]
    if any(array is None or array.ndim != 1 for array in arrays):
        return None
    layer = nn.BatchNorm2d(1, eps=node.attributes.get("epsilon", 1e-5), device="meta")
    scale, shift, mean, variance = (weights.parameter(node, slot) for slot in (1, 2, 3, 4))
    layer.num_features = scale.numel()
    layer.weight, layer.bias = scale, shift
    layer.running_mean, layer.running_var = mean.detach(), variance.detach()
    layer.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return layer


@operator("BatchNormalization")
def batch_normalisation(call: Call, x: Tensor, *given: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, by channel, with the statistics of the file."""
    if call.get("training_mode", 0) or any(call.wanted(output) for output in range(1, 5)):
        raise call.refused("it computes statistics, as in training; export the model for inference")
    if not call.get("spatial", 1):
        raise call.refused("statistics for each position (spatial = 0) are not supported")
    if call.layer is None:
        scale, shift, mean, variance = given
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, call.get("epsilon", 1e-5))
    assert isinstance(call.layer, nn.BatchNorm2d)
    held = call.layer
    return F.batch_norm(x, held.running_mean, held.running_var, held.weight, held.bias, False, 0.0, held.eps)


@layer_of("LayerNormalization", 1, 2)
def layer_norm(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.LayerNorm over as many axes as the scale has."""
    scale, shift = weights.array(node, 1), weights.array(node, 2)
    if scale is None or (given(node, 2) and (shift is None or shift.shape != scale.shape)):
        return None
    if node.attributes.get("axis", -1) != -scale.ndim:
        return None
    eps = node.attributes.get("epsilon", 1e-5)
    layer = nn.LayerNorm(scale.shape, eps, bias=given(node, 2), device="meta")
    return filled(layer, node, weights, weight=1, bias=2)


@operator("LayerNormalization")
def layer_normalisation(call: Call, x: Tensor, scale: Any = None, shift: Any = None) -> Tensor:
    """Normalised over the axes from `axis` on, times scale, plus shift."""
    if call.wanted(1) or call.wanted(2):
        raise call.refused("its statistics are read, which only training needs; export the model for inference")
    eps = call.get("epsilon", 1e-5)
    if isinstance(call.layer, nn.LayerNorm):
        if call.layer.weight.shape == x.shape[-call.layer.weight.dim() :]:
            result: Tensor = call.layer(x)
            return result
        scale, shift = call.layer.weight, call.layer.bias  # one number for a whole axis
    normal = F.layer_norm(x, list(x.shape[call.get("axis", -1) % x.dim() :]), None, None, eps) * call.tensor(scale)
    return normal if shift is None else normal + call.tensor(shift)


@layer_of("InstanceNormalization", 1, 2)
def instance_norm(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.InstanceNorm2d as the holder of scale and shift; `instance_normalisation` runs it for any rank."""
    if any((array := weights.array(node, slot)) is None or array.ndim != 1 for slot in (1, 2)):
        return None
    layer = nn.InstanceNorm2d(1, eps=node.attributes.get("epsilon", 1e-5), affine=True, device="meta")
    filled(layer, node, weights, weight=1, bias=2)
    layer.num_features = layer.weight.numel()
    return layer


@operator("InstanceNormalization")
def instance_normalisation(call: Call, x: Tensor, scale: Any = None, shift: Any = None) -> Tensor:
    """Each channel of each sample normalised over its positions."""
    if isinstance(call.layer, nn.InstanceNorm2d):
        scale, shift = call.layer.weight, call.layer.bias
    return F.instance_norm(x, weight=scale, bias=shift, eps=call.get("epsilon", 1e-5))


@layer_of("GroupNormalization", 1, 2)
def group_norm(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.GroupNorm, where scale and shift have one number for each channel (from opset 21 on)."""
    scale, shift = weights.array(node, 1), weights.array(node, 2)
    if opset < 21 or scale is None or shift is None:
        return None
    groups, eps = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)
    return filled(nn.GroupNorm(groups, scale.size, eps, device="meta"), node, weights, weight=1, bias=2)


@operator("GroupNormalization")
def group_normalisation(call: Call, x: Tensor, scale: Any = None, shift: Any = None) -> Tensor:
    """Groups of channels normalised together; before opset 21 with one scale and shift for each group."""
    if call.layer is not None:
        result: Tensor = call.layer(x)
        return result
    groups, eps = call.get("num_groups"), call.get("epsilon", 1e-5)
    factors = [call.tensor(numbers) for numbers in (scale, shift)]
    if call.opset < 21:
        factors = [f.repeat_interleave(x.shape[1] // groups) for f in factors]
    return F.group_norm(x, groups, factors[0], factors[1], eps)


@layer_of("PRelu", 1)
def parametric_relu(node: Node, weights: Weights, opset: int) -> nn.Module | None:
    """nn.PReLU where there is one slope, or one for each channel in the shape (C, 1, ...)."""
    slope = weights.array(node, 1)
    if slope is None:
        return None
    shape = list(slope.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    if slope.size > 1 and (len(shape) < 2 or any(n != 1 for n in shape[1:])):
        return None
    layer = nn.PReLU(slope.size, device="meta")
    layer.weight = parameter(slope.reshape(-1))
    return layer


@operator("PRelu")
def prelu(call: Call, x: Tensor, slope: Any = None) -> Tensor:
    """Positive as it is, else slope x."""
    if call.layer is None:
        return torch.where(x > 0, x, call.tensor(slope) * x)
    result: Tensor = call.layer(x)
    return result
