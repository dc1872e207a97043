"""Structural removal: cut channel groups whatever they compute, for channel methods and where exactness cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.compaction.analysis import Analysis
from compress.compaction.attempt import (
    Attempt,
    Decide,
    Decision,
    Subject,
    check_training,
    refuse_hidden_parts,
    rewritten,
)
from compress.compaction.compact import Exported, LayerChange, applied, layer_changes, prepared
from compress.compaction.forward import installed
from compress.compaction.graph import values
from compress.compaction.groups import ChannelGroup, in_groups
from compress.compaction.inputs import ExampleInputs, random_inputs
from compress.compaction.narrow import Attributes, narrowed, plan_cut
from compress.compaction.verify import TOLERANCES, differences
from compress.errors import CompactionError, UsageError


@dataclass(frozen=True)
class Removal:
    """A model without some channel groups; the fields are those of `Compaction`."""

    model: nn.Module
    layers: tuple[LayerChange, ...]
    channels_removed: int
    rewritten: bool
    attributes: Attributes


def remove(model: nn.Module, example_inputs: ExampleInputs | Exported, groups: Sequence[ChannelGroup]) -> Removal:
    """Cut channel groups from a copy of the model: the function changes, shapes of inputs and outputs do not.

    The graph of operators with the channels deleted is what the result must compute; the model's own code is
    kept where it computes the same on narrower parameters, else the forward pass is rewritten.

    Args:
        model: it is not changed.
        example_inputs: as for `compact`.
        groups: from `channel_groups` of this model.

    Raises:
        UsageError: a group does not belong to this model, or nothing would be left of a layer.
        CompactionError: the model cannot be exported, or no narrower forward pass runs.
    """
    _, subject = prepared(model, example_inputs)
    tensors = values(subject.model)

    def decide(analysis: Analysis) -> Decision:
        dead = _dead(in_groups(analysis), groups)

        def alive(ids: Tensor) -> Tensor:
            return ~dead[analysis.ids.find(ids)]

        return Decision(alive, plan_cut(analysis, alive, tensors))

    attempt = _proved(subject, decide)
    result, attributes = applied(model, attempt)
    layers = tuple(layer_changes(model, result))
    removed = sum(layer.out_before - layer.out_after for layer in layers)
    return Removal(result, layers, removed, installed(result) is not None, attributes)


def _dead(analysis: Analysis, groups: Sequence[ChannelGroup]) -> Tensor:
    """Which classes go, shape (ids,); UsageError if the groups do not fit the model."""
    dead = torch.zeros(len(analysis.ids), dtype=torch.bool)
    asked: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        for part in group.slices:
            slot = analysis.slots.get((part.name, part.axis))
            if slot is None or max(part.indices) >= len(slot):
                raise UsageError(f"{part.name} axis {part.axis} has no channels {part.indices} in this model")
            asked.setdefault((part.name, part.axis), set()).update(part.indices)
            dead[analysis.ids.find(slot[list(part.indices)])] = True
    for (name, axis), slot in analysis.slots.items():
        goes = dead[analysis.ids.find(slot)]
        if set(goes.nonzero()[:, 0].tolist()) != asked.get((name, axis), set()):
            raise UsageError(f"the groups do not cover {name} axis {axis}; take them from channel_groups of this model")
        if bool(goes.all()):
            raise UsageError(f"the groups take all of {name} axis {axis}; leave at least one")
    if bool((dead & analysis.ids.frozen(exact=False)).any()):
        raise UsageError("a group holds channels that must stay; take the groups from channel_groups of this model")
    return dead


def _proved(subject: Subject, decide: Decide) -> Attempt:
    """The model's own code where it computes what the graph without the channels computes, else that graph."""
    inputs = random_inputs(subject.example)[:3]
    expected: list[list[Tensor]] = []

    def keeps_shapes(narrow: nn.Module) -> float:
        for sample in inputs:
            expected.append(sample.run(narrow))
            differences(sample.run(subject.model), expected[-1])
        return 0.0

    attempt = rewritten(subject, decide, keeps_shapes)
    if not attempt.plan.kept:
        return attempt
    plan = decide(subject.analyse(subject.graph)).plan
    own = narrowed(subject.model, plan)[0]
    tolerance = TOLERANCES[subject.graph.dtype]
    try:
        for sample, wanted in zip(inputs, expected, strict=True):
            scale = max((float(t.abs().max()) for t in wanted if t.numel()), default=0.0)
            if not max(differences(wanted, sample.run(own)), default=0.0) <= tolerance * scale:
                raise CompactionError("the model's own code computes something else")
        check_training(subject.model, own, subject.example)
    except Exception:  # the user's own code runs here; what is lost is its forward pass: `Removal.rewritten` says so
        refuse_hidden_parts(subject)
        return attempt
    return Attempt(plan, 0.0, attempt.frozen_operators)
