"""What a network is made of, before anything is pruned: layers, groups of channels, and what stands in the way.

The answer is a plain mapping, what ``compress inspect --json`` prints; ``report.inspection`` says it in words.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress import cost
from compress.channel_units import gather
from compress.checkpoint import load_network
from compress.compaction import ChannelGroup, Survey, survey
from compress.errors import CompressError, UsageError, first_line
from compress.units import layer_name

Inspection = dict[str, Any]

SCHEMA = 1
EXAMPLE_BATCH = 2
"""A traced batch of 1 could be taken for a constant."""


@dataclass(frozen=True)
class Question:
    """What to look at.

    Attributes:
        spec: as for ``compress_models.load``.
        weights: file of weights; fresh ones where there is none.
        input_shape: of one input, "3,224,224"; the network's own where it is None.
        assignments: "model.options.KEY=VALUE", as in ``prune-and-export --set``.
    """

    spec: str
    weights: Path | None = None
    input_shape: str | None = None
    assignments: Sequence[str] = ()


def answer(question: Question) -> Inspection:
    """Load the network and look at it.

    Raises:
        UsageError: it cannot be loaded, does not take the input, or has nothing to prune.
        CompactionError: torch.export cannot follow it.
    """
    model, shape = load_network(
        question.spec, question.weights, shape=question.input_shape, assignments=question.assignments
    )
    try:
        found = inspect(model, shape)
    except UsageError as error:
        raise UsageError(f"model {question.spec}: {error}") from None
    weights = str(question.weights) if question.weights else None
    return {"schema": SCHEMA, "model": question.spec, "weights_file": weights, **found}


def inspect(model: nn.Module, input_shape: Sequence[int]) -> Inspection:
    """Layers in execution order, their channel groups as blocks, and what is frozen; the model is not changed.

    Raises:
        UsageError: the model does not take this input, or has nothing to prune.
        CompactionError: torch.export cannot follow it.
    """
    if not cost.prunable(model):
        raise UsageError("it has no convolution and no linear layer to prune")
    positions = _positions(model, input_shape)
    parts = {name: model.get_parameter(name).detach() for name in cost.execution_order(model, input_shape)}
    found = survey(model, torch.zeros(EXAMPLE_BATCH, *input_shape))
    layers = _layers(model, parts, positions, found.groups)
    blocks = _blocks(model, list(layers), positions, found.groups)
    return {
        "input_shape": list(input_shape),
        "macs_convention": cost.MACS_CONVENTION,
        **{key: sum(layer[key] for layer in layers.values()) for key in ("weights", "nonzero", "macs")},
        "groups": len(found.groups),
        "groups_exact": sum(group.removable_exactly for group in found.groups),
        "groups_in_no_block": len(found.groups) - sum(block["groups"] for block in blocks),
        "layers": [{"name": name, **layer} for name, layer in layers.items()],
        "blocks": blocks,
        "frozen_operators": _frozen(found),
    }


def _positions(model: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """``cost.positions``, with a word on what to do where the model does not take the input."""
    try:
        return cost.positions(model, shape)
    except Exception as error:  # the user's own code may raise anything
        cause = error.__cause__ if isinstance(error, CompressError) and error.__cause__ else error
        raise UsageError(
            f"it does not take an input of shape {','.join(map(str, shape))}: {first_line(cause)}; "
            "give the right one with --input-shape"
        ) from error


def _layers(
    model: nn.Module, parts: Mapping[str, Tensor], positions: Mapping[str, int], groups: Sequence[ChannelGroup]
) -> dict[str, dict[str, Any]]:
    """Per layer its figures; `removable` counts the output channels that belong to a group."""
    cut: dict[str, set[int]] = {}
    for group in groups:
        for part in group.slices:
            if part.producer and part.name in positions:
                cut.setdefault(part.name, set()).update(part.indices)
    layers: dict[str, dict[str, Any]] = {}
    for name, weight in parts.items():
        kind, outputs, inputs = _shape(model.get_submodule(name.rpartition(".")[0]), weight)
        # attention may keep the projections of queries, keys and values apart: one layer all the same
        before = layers.get(layer_name(name), {})
        figures = {
            "out": outputs,
            "weights": weight.numel(),
            "nonzero": int(weight.count_nonzero()),
            "macs": weight.numel() * positions[name],
            "removable": len(cut.get(name, ())),
        }
        added = {key: figure + before.get(key, 0) for key, figure in figures.items()}
        layers[layer_name(name)] = {"kind": kind, "in": max(inputs, before.get("in", 0)), **added}
    return layers


def _shape(module: nn.Module, weight: Tensor) -> tuple[str, int, int]:
    """What a layer is, its output and its input channels."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        attention = isinstance(module, nn.MultiheadAttention)
        return "attention in" if attention else "linear", weight.shape[0], weight.shape[1]
    kernel = "x".join(map(str, module.kernel_size))
    depthwise = module.groups == module.in_channels > 1
    words = ("depthwise" if depthwise else "", "transposed" if module.transposed else "", "conv", kernel)
    kind = " ".join(filter(None, words)) + (
        f" in {module.groups} groups" if module.groups > 1 and not depthwise else ""
    )
    return kind, module.out_channels, module.in_channels


def _blocks(
    model: nn.Module, layers: Sequence[str], positions: Mapping[str, int], groups: Sequence[ChannelGroup]
) -> list[dict[str, Any]]:
    """The blocks in execution order, under the names that a budget knows them by."""
    parameters = dict(model.named_parameters())
    exact_first = sorted(groups, key=lambda group: not group.removable_exactly)
    order = {name: place for place, name in enumerate(layers)}
    found = []
    for name, members in gather(exact_first, parameters, positions).items():
        coupled = _coupled(model, members[0], positions, order)
        half = members[: len(members) // 2]
        found.append(
            {
                "name": name,
                "groups": len(members),
                "exact": sum(group.removable_exactly for group in members),
                **coupled,
                "one": {
                    "weights": [pick(group.weights for group in members) for pick in (min, max)],
                    "macs": [pick(group.macs for group in members) for pick in (min, max)],
                },
                "half": {"groups": len(half), **_saved(half, parameters, positions)},
            }
        )
    return sorted(found, key=lambda block: order[block["makes"][0]])


def _coupled(
    model: nn.Module, group: ChannelGroup, positions: Mapping[str, int], order: Mapping[str, int]
) -> dict[str, Any]:
    """All that is cut with a group: layers that make its channels, what carries them, layers that read them."""
    makes = {layer_name(s.name): len(s.indices) for s in group.slices if s.producer and s.name in positions}
    reads = {layer_name(s.name) for s in group.slices if not s.producer and s.name in positions}
    others = dict.fromkeys(_holder(model, s.name, order) for s in group.slices if s.name not in positions)
    first = min(makes, key=lambda name: order[name])
    return {
        "channels": makes[first],
        "makes": sorted(makes, key=lambda name: order[name]),
        "carries": [name for name in others if name not in order],
        "reads": sorted(reads, key=lambda name: order[name]),
    }


def _holder(model: nn.Module, name: str, layers: Collection[str]) -> str:
    """The layer a parameter or buffer belongs to; its own name where that is a whole part of the network."""
    layer = name.rpartition(".")[0]
    part = layer not in layers and next(model.get_submodule(layer).children(), None) is not None
    return name if part else layer_name(name)


def _saved(
    groups: Sequence[ChannelGroup], parameters: Mapping[str, Tensor], positions: Mapping[str, int]
) -> dict[str, int]:
    """Weights and multiply-accumulates saved by cutting all these groups."""
    cuts: dict[str, dict[int, set[int]]] = {}
    for part in (part for group in groups for part in group.slices if part.name in positions):
        cuts.setdefault(part.name, {}).setdefault(part.axis, set()).update(part.indices)
    weights = macs = 0
    for name, cut in cuts.items():
        shape = parameters[name].shape
        left = torch.Size(length - len(cut.get(axis, ())) for axis, length in enumerate(shape)).numel()
        weights += shape.numel() - left
        macs += (shape.numel() - left) * positions[name]
    return {"weights": weights, "macs": macs}


def _frozen(found: Survey) -> list[dict[str, Any]]:
    """The operators that stand in the way: each with its reason and the places where it stands."""
    gathered: dict[tuple[str, str], list[str]] = {}
    for said in found.frozen_operators:
        operator, _, rest = said.partition(" in ")
        place, _, reason = rest.rpartition(" (")
        gathered.setdefault((operator, reason.removesuffix(")")), []).append(place)
    return [
        {"operator": operator, "reason": reason, "places": places} for (operator, reason), places in gathered.items()
    ]
