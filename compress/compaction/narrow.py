"""Carry out a decision: fold constants, cut parameters and buffers, repair the modules' numbers."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from compress.compaction.analysis import Analysis, Use
from compress.compaction.graph import leaf_tensors
from compress.compaction.ids import any_along, channel_rows
from compress.compaction.liveness import Liveness
from compress.compaction.table import aten

Attributes = dict[str, dict[str, Any]]
CHANGES = "_compaction_attributes"
"""Where a narrowed model keeps what changed since it was built."""

# normalisation -> the axis of its channels
_BARE = {aten.batch_norm: 1, aten.instance_norm: 1, aten.group_norm: 1, aten.layer_norm: -1, aten.rms_norm: -1}


@dataclass(frozen=True)
class Plan:
    """What to change, in numbers that fit any copy of the model.

    kept: parameter or buffer -> axis -> indices that stay.
    added: name -> float64 amount added before cutting; a name that the model does not have is created.
    groups: module -> its new number of groups.
    channels: normalisation without parameters, which would show it -> its new number of channels.
    """

    kept: dict[str, dict[int, Tensor]]
    added: dict[str, Tensor]
    groups: dict[str, int]
    channels: dict[str, int]


def make_plan(solved: Liveness, tensors: Mapping[str, Tensor]) -> Plan:
    """Cut what is dead and move its constant contributions; `tensors` are values by name."""
    cut = plan_cut(solved.analysis, solved.alive, tensors)
    for index, use in enumerate(solved.analysis.uses):
        _fold(solved, index, use, cut.added)
        _merge(solved, index, use, tensors, cut.added)
    return cut


def plan_cut(analysis: Analysis, alive: Callable[[Tensor], Tensor], tensors: Mapping[str, Tensor]) -> Plan:
    """Cut the indices of channels that are not alive from every parameter and buffer."""
    kept: dict[str, dict[int, Tensor]] = {}
    for (name, axis), slot in analysis.slots.items():
        stays = alive(slot)
        if not bool(stays.all()):
            kept.setdefault(name, {})[axis] = stays.nonzero()[:, 0]
    groups = {}
    for name, count in analysis.groups.items():
        for axis, left in kept.get(name, {}).items():
            groups[name.rpartition(".")[0]] = left.numel() * count // tensors[name].shape[axis]
    return Plan(kept, {}, groups, dict(_bare_norms(analysis, alive)) if kept else {})


def _bare_norms(analysis: Analysis, alive: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, int]]:
    """Normalisation layers without parameters, and how many channels they keep."""
    for node, tagged in analysis.tagged.items():
        axis = _BARE.get(getattr(node.target, "overloadpacket", node.target))  # type: ignore[arg-type]
        if axis is None or any(isinstance(argument, Node) for argument in node.args[1:]):
            continue
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if stack and tagged.vary(axis):
            yield stack[-1][0], int(any_along(alive(channel_rows(tagged.ids, axis)), 1).sum())


def _fold(solved: Liveness, index: int, use: Use, added: dict[str, Tensor]) -> None:
    lost = solved.columns[index].folds & ~solved.alive(use.cols) & solved.read_columns(index)
    if use.fold is not None and bool(lost.any()):
        amount = use.fold.sign * use.gain[:, lost] @ solved.columns[index].scale[lost]
        added[use.fold.name] = added.get(use.fold.name, 0.0) + amount


def _merge(solved: Liveness, index: int, use: Use, tensors: Mapping[str, Tensor], added: dict[str, Tensor]) -> None:
    scale = solved.columns[index].scale
    for family in solved.columns[index].families:
        lost, kept = solved.representative(index, family)
        if kept is None:
            continue
        amount = added.setdefault(use.weight, torch.zeros_like(tensors[use.weight]))
        weight, amount = (t.transpose(0, use.out_axis) for t in (tensors[use.weight], amount))  # views: columns second
        ratios = (scale[lost] / scale[kept]).reshape(1, -1, *[1] * (weight.dim() - 2))
        group, width, height = kept // weight.shape[1], weight.shape[1], weight.shape[0] // use.groups
        rows = slice(group * height, (group + 1) * height)  # all of them, unless the convolution is grouped
        amount[rows, kept % width] += (weight[rows, lost % width] * ratios).sum(1)


def narrowed(model: nn.Module, plan: Plan) -> tuple[nn.Module, Attributes]:
    """A narrower copy of the model and the attributes that changed, by module name."""
    tensors = leaf_tensors(model)
    # deepcopy takes what it finds in its memo: no tensor is copied only to be cut, and tied names stay one tensor
    memo: dict[int, Tensor] = {}
    for name in {*plan.kept, *plan.added} & set(tensors):
        old = tensors[name]
        memo[id(old)] = _changed(old, plan.added.get(name), plan.kept.get(name, {}))
    result = copy.deepcopy(model, dict(memo))
    for name in set(plan.added) - set(tensors):
        _create_bias(result, name, tensors, plan)
    return result, repair(result, plan)


def _create_bias(model: nn.Module, name: str, tensors: Mapping[str, Tensor], plan: Plan) -> None:
    path = name.rpartition(".")[0]
    weight = f"{path}.weight".lstrip(".")
    zeros = nn.Parameter(tensors[weight].new_zeros(tensors[weight].shape[0]), tensors[weight].requires_grad)
    rows = {axis: indices for axis, indices in plan.kept.get(weight, {}).items() if axis == 0}
    bias = _changed(zeros, plan.added[name], rows)
    model.get_submodule(path).register_parameter("bias", nn.Parameter(bias, zeros.requires_grad))


def _changed(old: Tensor, amount: Tensor | None, kept: Mapping[int, Tensor]) -> Tensor:
    with torch.no_grad():
        new = old.detach()
        if amount is not None:  # added in float64, so that the sum is rounded once
            new = (new.double().cpu() + amount).to(dtype=old.dtype, device=old.device)
        for axis, indices in kept.items():
            new = _taken(new, axis, indices)
        new = new.contiguous()
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


Numbers = Callable[[nn.Module, int, int | None], dict[str, Any]]
"""From a module, its number of groups and, if it is a norm without parameters, of channels: attributes that fit."""


def _taken(tensor: Tensor, axis: int, indices: Tensor) -> Tensor:
    """`tensor.index_select(axis, indices)`; numpy's is 4 times as fast along inner axes, but knows no bfloat16."""
    if axis and tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16:
        return torch.from_numpy(tensor.numpy().take(indices.numpy(), axis=axis))
    return tensor.index_select(axis, indices.to(tensor.device))


def _conv_numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0], "groups": groups}


def _transposed_numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"in_channels": weight.shape[0], "out_channels": weight.shape[1] * groups, "groups": groups}


def _linear_numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"in_features": weight.shape[1], "out_features": weight.shape[0]}


def _cell_numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    inputs, hidden = module.weight_ih, module.weight_hh
    assert isinstance(inputs, Tensor)
    assert isinstance(hidden, Tensor)
    return {"input_size": inputs.shape[1], "hidden_size": hidden.shape[1]}


def _recurrent_numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    inputs, hidden = module.weight_ih_l0, module.weight_hh_l0
    assert isinstance(inputs, Tensor)
    assert isinstance(hidden, Tensor)
    size = {} if module.proj_size else {"hidden_size": hidden.shape[1]}  # projected outputs have another length
    return {"input_size": inputs.shape[1], **size}


def _axis(attribute: str, *sources: str, axis: int = 0) -> Numbers:
    def numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
        held = [getattr(module, source) for source in sources if getattr(module, source) is not None]
        length = held[0].shape[axis] if held else channels
        return {} if length is None else {attribute: length}

    return numbers


def _group_norm_numbers(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    right = _axis("num_channels", "weight")(module, groups, channels)
    left = right.get("num_channels", module.num_channels)
    return {**right, "num_groups": module.num_groups * left // module.num_channels}


def _normalized_shape(module: nn.Module, groups: int, channels: int | None) -> dict[str, Any]:
    if isinstance(module.weight, Tensor):
        return {"normalized_shape": tuple(module.weight.shape)}
    return {} if channels is None else {"normalized_shape": (channels,)}


NUMBERS: dict[type[nn.Module], Numbers] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv_numbers),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_numbers),
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm), _normalized_shape),
    nn.Linear: _linear_numbers,
    nn.RNNBase: _recurrent_numbers,
    nn.RNNCellBase: _cell_numbers,
    nn.Embedding: _axis("embedding_dim", "weight", axis=1),
    nn.GroupNorm: _group_norm_numbers,
    nn.modules.batchnorm._NormBase: _axis("num_features", "weight", "running_mean"),
    nn.PReLU: _axis("num_parameters", "weight"),
}


def repair(model: nn.Module, plan: Plan) -> Attributes:
    """Make every module's numbers (in_channels, num_features ...) fit its tensors; return the changes."""
    changes: Attributes = {}
    for name, module in model.named_modules():
        for kind, numbers in NUMBERS.items():
            if not isinstance(module, kind):
                continue
            right = numbers(module, plan.groups.get(name, getattr(module, "groups", 1)), plan.channels.get(name))
            wrong = {key: value for key, value in right.items() if getattr(module, key) != value}
            for key, value in wrong.items():
                setattr(module, key, value)
            if wrong:
                changes[name] = wrong
    return changes
