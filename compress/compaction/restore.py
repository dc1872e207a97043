"""Rebuild a narrowed model from a freshly built one, its state and its changed attributes."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.compaction.forward import from_data, install
from compress.compaction.graph import first_names, leaf_tensors
from compress.compaction.narrow import CHANGES
from compress.errors import UsageError, nearest


def restore(model: nn.Module, state: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """A narrowed copy of a full-size model; the given model is not changed.

    Args:
        model: a new instance of the original class, full size.
        state: the narrowed model's state dict: tensors may have other lengths, and biases may be new.
        attributes: `Compaction.attributes`, also after a way through JSON.

    Raises:
        UsageError: a key of the state or an attribute does not belong to this model; it is named.
    """
    model = copy.deepcopy(model)
    tensors, first = leaf_tensors(model), first_names(model)
    made: dict[str, Tensor] = {}  # by the first of several tied names, so that they stay one tensor
    for name, value in state.items():
        made.setdefault(first.get(name, name), _fitting(model, name, value, tensors.get(name)))
    saved = {first[name] for name in model.state_dict() if name in first}
    for name in saved - set(made):
        raise UsageError(f"the state has no {name}, which the model needs; it holds {len(state)} other tensors")
    for name, tensor in made.items():
        for alias in [other for other, head in first.items() if head == name] or [name]:
            path, _, attribute = alias.rpartition(".")
            owner = model.get_submodule(path)
            held: dict[str, Any] = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
            held[attribute] = tensor
    _set_attributes(model, attributes)
    setattr(model, CHANGES, {path: dict(changes) for path, changes in attributes.items()})
    forward = attributes.get("", {}).get("forward")
    if forward is not None:
        install(model, from_data(forward))
    return model


def _fitting(model: nn.Module, name: str, value: Tensor, old: Tensor | None) -> Tensor:
    """The state's tensor as a parameter or buffer of this name; UsageError if it has no place."""
    path, _, attribute = name.rpartition(".")
    owner = dict(model.named_modules()).get(path)
    if old is None:
        if owner is None or attribute not in owner._parameters:
            raise UsageError(f"the state's {name} has no place in this model; {nearest(name, leaf_tensors(model))}")
        old = next(parameter for parameter in owner._parameters.values() if parameter is not None)
    elif old.dim() != value.dim():
        shapes = f"{tuple(value.shape)} in the state, {tuple(old.shape)} in the model"
        raise UsageError(f"{name} does not fit: {shapes}; was the state saved from another kind of model?")
    # Strides of another memory format, in which a 1x1 kernel counts as contiguous too, would reach the exported graph.
    value = value.detach().clone(memory_format=torch.contiguous_format).to(old.device)
    return nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value


def _set_attributes(model: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    modules = dict(model.named_modules())
    for path, changes in attributes.items():
        for attribute, value in changes.items():
            if (path, attribute) == ("", "forward"):
                continue
            if path not in modules or not hasattr(modules[path], attribute):
                raise UsageError(
                    f"attribute {path}.{attribute} does not belong to this model; {nearest(path, modules)}"
                )
            setattr(modules[path], attribute, value)
