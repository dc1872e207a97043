"""Remove everything a network computes in vain, and prove that nothing else changed."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compress.compaction.analysis import Analysis
from compress.compaction.attempt import Attempt, Decision, Subject, carry_out
from compress.compaction.forward import install, installed, to_data
from compress.compaction.graph import Graph, leaf_tensors, load, reference_copy, values
from compress.compaction.inputs import Example, ExampleInputs, random_inputs
from compress.compaction.liveness import Liveness
from compress.compaction.narrow import CHANGES, Attributes, make_plan, narrowed
from compress.compaction.verify import differences, prove
from compress.errors import CompactionError, UsageError, first_line


@dataclass(frozen=True)
class LayerChange:
    """Channels of one convolution or linear layer before and after."""

    name: str
    in_before: int
    in_after: int
    out_before: int
    out_after: int


@dataclass(frozen=True)
class Compaction:
    """A narrowed model with its proof.

    model: the same class, narrower; trains and exports as before. Where its own code could not run on narrower
        parameters it is a subclass with a rewritten forward pass (`rewritten` is True).
    layers: every convolution and linear layer, also those that did not change.
    channels_removed: output channels gone, summed over `layers`.
    max_abs_error: max |narrow - original| on the example in the model's own number type.
    max_error_relative: the proof: max |narrow - original| / max |original| over several inputs.
    proof_dtype: the number type of the proof: float64, or float32 for models that do not fit into memory twice.
    frozen_operators: what limited the result: operators without a rule, with where they are, and modules that
        evaluation never reaches.
    rewritten: the forward pass was rewritten.
    attributes: module -> attributes that changed; with the state dict it rebuilds the model (see `restore`).
    """

    model: nn.Module
    layers: tuple[LayerChange, ...]
    channels_removed: int
    max_abs_error: float
    max_error_relative: float
    proof_dtype: str
    frozen_operators: tuple[str, ...]
    rewritten: bool
    attributes: Attributes


@dataclass(frozen=True)
class Exported:
    """A model's graph, to be used again after its weights have changed (a pruning loop exports once).

    `compact`, `channel_groups` and `remove` take it in place of example inputs.
    """

    example: Example
    graph: Graph
    shapes: dict[str, tuple[int, ...]]


def compact(model: nn.Module, example_inputs: ExampleInputs | Exported, *, round_to: int = 1) -> Compaction:
    """Cut every channel that no output depends on, fold constant ones into biases; exact in evaluation mode.

    Args:
        model: any network that torch.export can follow; it is not changed.
        example_inputs: one tensor; a tuple of positional inputs; a dictionary of keyword inputs; or a pair of
            both. As the model takes them, on the model's device. Or what `exported` returned.
        round_to: keep a multiple of this many output channels per layer where dead channels allow it.

    Raises:
        CompactionError: the result cannot be proved equal (see `prove`), the model cannot be exported, or the
            narrowed model would no longer train.
        UsageError: `round_to` is below 1, or no example input is given.
    """
    if round_to < 1:
        raise UsageError(f"round_to must be 1 or more, got {round_to}")
    example, subject = prepared(model, example_inputs)
    tensors = values(subject.model)

    def decide(analysis: Analysis) -> Decision:
        solved = Liveness(analysis, round_to).solve()
        return Decision(solved.alive, make_plan(solved, tensors))

    inputs = random_inputs(subject.example)
    attempt = carry_out(subject, decide, lambda narrow: prove(subject.model, narrow, inputs))
    result, attributes = applied(model, attempt)
    layers = tuple(layer_changes(model, result))
    return Compaction(
        model=result,
        layers=layers,
        channels_removed=sum(layer.out_before - layer.out_after for layer in layers),
        max_abs_error=shipped_error(model, result, example),
        max_error_relative=attempt.error,
        proof_dtype=str(typical_dtype(subject.model)).removeprefix("torch."),
        frozen_operators=(*attempt.frozen_operators, *unreached(subject.graph, subject.model)),
        rewritten=installed(result) is not None,
        attributes=attributes,
    )


def exported(model: nn.Module, example_inputs: ExampleInputs) -> Exported:
    """Export a model's graph once; it holds no weights.

    Raises:
        CompactionError: torch.export cannot follow the model.
        UsageError: no example input is given.
    """
    example, subject = prepared(model, example_inputs)
    return Exported(example, subject.graph, _shapes(model))


def prepared(model: nn.Module, inputs: ExampleInputs | Exported) -> tuple[Example, Subject]:
    """The example, and the reference copy of a model with its graph; UsageError if the graph is another model's."""
    given = inputs if isinstance(inputs, Exported) else None
    if given is not None and given.shapes != _shapes(model):
        raise UsageError("the exported graph belongs to a model of other shapes; export this one")
    example = Example.of(inputs) if not isinstance(inputs, Exported) else inputs.example
    try:
        example = example.ordered(inspect.signature(model.forward))
    except TypeError as cause:
        raise UsageError(f"the model does not take these inputs: {cause}") from cause
    reference = reference_copy(model)
    own = reference_inputs(reference, example)
    graph = load(reference, own) if given is None else given.graph
    at_hand = {name: tensor for name, tensor in values(model).items() if tensor.device.type == "cpu"}
    return example, Subject(reference, own, graph, at_hand)


def typical_dtype(model: nn.Module) -> torch.dtype:
    """The number type of the first floating-point parameter; float64 if there is none."""
    return next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float64)


def reference_inputs(reference: nn.Module, example: Example) -> Example:
    """The example as a reference copy takes it."""
    return example.reference(typical_dtype(reference))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in leaf_tensors(model).items()}


def applied(model: nn.Module, attempt: Attempt) -> tuple[nn.Module, Attributes]:
    """A copy of the given model with a proved plan carried out, and all that changed since it was first built."""
    result, changes = narrowed(model, attempt.plan)
    if attempt.forward is not None:
        install(result, attempt.forward)
        changes.setdefault("", {})["forward"] = to_data(attempt.forward)
    attributes: Attributes = {path: dict(earlier) for path, earlier in getattr(model, CHANGES, {}).items()}
    for path, change in changes.items():
        attributes.setdefault(path, {}).update(change)
    setattr(result, CHANGES, attributes)  # the next compaction starts from them
    return result, attributes


def shipped_error(model: nn.Module, result: nn.Module, example: Example) -> float:
    """The largest |a - b| of the two models in their own number type, evaluation mode, on the example."""
    device = next((tensor.device for tensor in model.parameters()), example.tensors[0].device)
    placed = example.map(lambda tensor: tensor.detach().to(device))
    original, final = copy.deepcopy(model).eval(), copy.deepcopy(result).eval()
    try:
        expected, found = placed.run(original), placed.run(final)
    except Exception as cause:  # the user's own code runs here
        raise CompactionError(
            f"the model does not run on the example in its own number type: {first_line(cause)}"
        ) from cause
    return max(differences(expected, found), default=0.0)


def layer_changes(before: nn.Module, after: nn.Module) -> Sequence[LayerChange]:
    """Convolution and linear layers, in the model's order."""
    modules = dict(after.named_modules())
    changes = []
    for name, old in before.named_modules():
        new = modules[name]
        if isinstance(old, nn.Linear) and isinstance(new, nn.Linear):
            changes.append(LayerChange(name, old.in_features, new.in_features, old.out_features, new.out_features))
        elif isinstance(old, nn.modules.conv._ConvNd) and isinstance(new, nn.modules.conv._ConvNd):
            changes.append(LayerChange(name, old.in_channels, new.in_channels, old.out_channels, new.out_channels))
    return changes


def unreached(graph: Graph, model: nn.Module) -> list[str]:
    """Layers whose parameters no operator of the graph reads."""
    idle = {name for name, calls in graph.calls.items() if not calls}
    names = []
    for path, module in model.named_modules():
        own = [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        if own and all(name in idle for name in own):
            names.append(f"{path or 'the model'} (evaluation never reaches it)")
    return names
