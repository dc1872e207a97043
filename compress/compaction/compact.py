"""Remove everything a network computes in vain, and prove that nothing else changed."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.compaction.graph import Graph, analyse, load, reference_copy, values
from compress.compaction.liveness import Liveness
from compress.compaction.narrow import Attributes, Plan, make_plan, narrowed
from compress.compaction.verify import Inputs, first_line, largest_difference, outputs, prove, random_inputs
from compress.errors import CompactionError, UsageError


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

    model: the same class, narrower; trains and exports as before.
    layers: every convolution and linear layer, also those that did not change.
    channels_removed: output channels gone, summed over `layers`.
    max_error_relative: max |narrow - original| / max |original| in float64 over several inputs.
    max_abs_error_shipped: the same difference in the model's own number type, not divided.
    frozen_operators: what limited the result: operators without a rule, with where they are, and modules that
        evaluation never reaches.
    attributes: module -> attributes that changed; with the state dict it rebuilds the model (see `restore`).
    """

    model: nn.Module
    layers: tuple[LayerChange, ...]
    channels_removed: int
    max_error_relative: float
    max_abs_error_shipped: float
    frozen_operators: tuple[str, ...]
    attributes: Attributes


@dataclass(frozen=True)
class Attempt:
    """A plan, the float64 model it was proved on, and what it was made from."""

    plan: Plan
    model: nn.Module
    error: float
    frozen_operators: tuple[str, ...]


def compact(model: nn.Module, example_inputs: Tensor | Inputs, *, round_to: int = 1) -> Compaction:
    """Cut every channel that no output depends on, fold constant ones into biases; exact in evaluation mode.

    Args:
        model: any network that torch.export can follow; it is not changed.
        example_inputs: one tensor or a tuple, as the model takes them, on the model's device.
        round_to: keep a multiple of this many output channels per layer where dead channels allow it.

    Raises:
        CompactionError: the result cannot be proved equal (see `prove`), the model cannot be exported, or the
            narrowed model would no longer train.
        UsageError: `round_to` is below 1, or no example input is given.
    """
    inputs = checked_inputs(example_inputs)
    if round_to < 1:
        raise UsageError(f"round_to must be 1 or more, got {round_to}")
    reference = reference_copy(model)
    example = reference_inputs(inputs)
    graph = load(reference, example)
    attempt = attempt_compaction(graph, reference, example, round_to=round_to)
    result, attributes = narrowed(model, attempt.plan)
    if attempt.plan.kept:
        check_training(reference, attempt.model, example)
    shipped = shipped_error(model, result, inputs)
    layers = tuple(layer_changes(model, result))
    return Compaction(
        model=result,
        layers=layers,
        channels_removed=sum(layer.out_before - layer.out_after for layer in layers),
        max_error_relative=attempt.error,
        max_abs_error_shipped=shipped,
        frozen_operators=(*attempt.frozen_operators, *unreached(graph, reference)),
        attributes=attributes,
    )


def checked_inputs(example_inputs: Tensor | Inputs) -> Inputs:
    """The example as a tuple of tensors; UsageError otherwise."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        kinds = ", ".join(type(item).__name__ for item in inputs) or "nothing"
        raise UsageError(f"example_inputs must be a tensor or a tuple of tensors, got {kinds}")
    return inputs


def reference_inputs(inputs: Inputs) -> Inputs:
    """The example on the CPU, floating-point tensors in float64."""
    cpu = [tensor.detach().cpu() for tensor in inputs]
    return tuple(tensor.double() if tensor.dtype.is_floating_point else tensor for tensor in cpu)


def attempt_compaction(graph: Graph, reference: nn.Module, example: Inputs, *, round_to: int) -> Attempt:
    """Plan and prove on the float64 reference, first trusting sizes in the graph, then not."""
    try:
        return attempt_once(graph, reference, example, round_to=round_to, trust_sizes=True)
    except CompactionError:
        return attempt_once(graph, reference, example, round_to=round_to, trust_sizes=False)


def attempt_once(graph: Graph, reference: nn.Module, example: Inputs, *, round_to: int, trust_sizes: bool) -> Attempt:
    """One plan, proved; CompactionError if it is not."""
    tensors = values(reference)
    analysis = analyse(graph, tensors, trust_sizes=trust_sizes)
    plan = make_plan(Liveness(analysis, round_to).solve(), tensors)
    # nothing to cut: the result is the same model, also where a constant output would prove nothing
    narrow = narrowed(reference, plan)[0]
    error = prove(reference, narrow, random_inputs(example)) if plan.kept else 0.0
    return Attempt(plan, narrow, error, analysis.frozen_operators)


def check_training(reference: nn.Module, narrow: nn.Module, example: Inputs) -> None:
    """The narrowed model must still run in training mode if the original does (auxiliary heads).

    Both are throwaway copies: running them moves their normalisation statistics.
    """
    batch = tuple(torch.cat([tensor, tensor]) if tensor.dim() else tensor for tensor in example)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            reference.train()(*batch)
        except Exception:  # the user's own code; what did not train before need not train now
            return
        try:
            narrow.train()(*batch)
        except Exception as cause:
            raise CompactionError(
                f"the narrowed model runs in evaluation but not in training mode ({first_line(cause)}): a part "
                "that only training reaches, such as an auxiliary head, reads removed channels; take it out first"
            ) from cause


def shipped_error(model: nn.Module, result: nn.Module, inputs: Inputs) -> float:
    """The largest |a - b| of the two models in their own number type, evaluation mode, on the example."""
    original = copy.deepcopy(model).eval()
    final = copy.deepcopy(result).eval()
    devices = {tensor.device for tensor in model.parameters()} or {inputs[0].device}
    placed = tuple(tensor.detach().to(next(iter(devices))) for tensor in inputs)
    return largest_difference(outputs(original, placed), outputs(final, placed))


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
