"""Carry out a decision: fold constants, cut parameters and buffers, repair the modules' numbers."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.compaction.graph import leaf_tensors
from compress.compaction.liveness import Liveness
from compress.compaction.trace import Analysis, Use

Attributes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What to change, in numbers that fit any copy of the model.

    kept: parameter or buffer -> axis -> indices that stay.
    added: name -> float64 amount added before cutting; a name that the model does not have is created.
    groups: module -> its new number of groups.
    """

    kept: dict[str, dict[int, Tensor]]
    added: dict[str, Tensor]
    groups: dict[str, int]


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
    return Plan(kept, {}, groups)


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
        weight = tensors[use.weight]
        ratios = (scale[lost] / scale[kept]).reshape(1, -1, *[1] * (weight.dim() - 2))
        amount = added.setdefault(use.weight, torch.zeros_like(weight))
        amount[:, kept] += (weight[:, lost] * ratios).sum(1)


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
    return result, repair(result, plan.groups)


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
            new = new.index_select(axis, indices.to(new.device))
        new = new.contiguous()
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _conv_numbers(module: nn.Module, groups: int) -> dict[str, int]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0], "groups": groups}


def _linear_numbers(module: nn.Module, groups: int) -> dict[str, int]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"in_features": weight.shape[1], "out_features": weight.shape[0]}


def _first_axis(attribute: str, *sources: str) -> Callable[[nn.Module, int], dict[str, int]]:
    def numbers(module: nn.Module, groups: int) -> dict[str, int]:
        held = [getattr(module, source) for source in sources if getattr(module, source) is not None]
        return {attribute: held[0].shape[0]} if held else {}

    return numbers


NUMBERS: dict[type[nn.Module], Callable[[nn.Module, int], dict[str, int]]] = {
    nn.Conv1d: _conv_numbers,
    nn.Conv2d: _conv_numbers,
    nn.Conv3d: _conv_numbers,
    nn.Linear: _linear_numbers,
    nn.modules.batchnorm._BatchNorm: _first_axis("num_features", "weight", "running_mean"),
    nn.PReLU: _first_axis("num_parameters", "weight"),
}


def repair(model: nn.Module, groups: Mapping[str, int]) -> Attributes:
    """Make every module's numbers (in_channels, num_features ...) fit its tensors; return the changes."""
    changes: Attributes = {}
    for name, module in model.named_modules():
        for kind, numbers in NUMBERS.items():
            if not isinstance(module, kind):
                continue
            right = numbers(module, groups.get(name, getattr(module, "groups", 1)))
            wrong = {key: value for key, value in right.items() if getattr(module, key) != value}
            for key, value in wrong.items():
                setattr(module, key, value)
            if wrong:
                changes[name] = wrong
    return changes
