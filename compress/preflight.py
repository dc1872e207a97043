"""Everything that can be known to be wrong before hours are spent."""

from typing import Any

import torch
from torch import nn

from compress import cost, methods, rounds
from compress.budget import ending
from compress.checkpoint import load_weights
from compress.errors import CompressError, UsageError, nearest
from compress.method import View
from compress.probe import TaskProbe
from compress.run import Run
from compress.stages import units_of
from compress.train import Task, evaluating, top1
from compress.units import layer_name
from compress_models.spec import quote


def check(run: Run) -> None:
    """Run the recipe's model once on the recipe's data, before hours are spent on them.

    Raises:
        UsageError: they do not fit each other, or the export or a step does not fit them.
        WeightsError: the weights do not fit the model.
    """
    recipe, data = run.recipe, run.data
    asked = f"model {recipe.model.name} on data {recipe.data.name}"
    model = run.build()
    if recipe.model.weights:
        model = load_weights(model, recipe.model.weights)
    if recipe.export.uint8_input and data.test.raw(0, 1) is None:
        raise UsageError(f"uint8_input needs 8-bit images; those of data {recipe.data.name} are not: leave it out")
    if data.loss is not None and any(step.distill or step.finetune.distill for step in recipe.prune):
        raise UsageError("distillation imitates class scores, but the data brings its own loss; set distill = 0")
    layers = {layer_name(name) for name in cost.prunable(model)}
    if not layers:
        raise UsageError(f"model {recipe.model.name} has no convolution and no linear layer to prune")
    for name in (name for step in recipe.prune for name in step.budget.keep or ()):
        if name.partition("#")[0] not in layers:
            raise UsageError(f"keep names no layer {name!r}; {nearest(name, layers)}")
    if not len(data.held_out):
        raise UsageError(f"held_out {recipe.data.held_out:g} leaves no image to select by; raise --set data.held_out")
    images, labels = next(iter(data.held_out.batches(2)))
    task = Task(model, data, torch.device("cpu"), None, recipe.seed)
    try:
        with evaluating(model):
            outputs = model(images.cpu())
            if data.loss is None:
                _check_classes(asked, outputs, (len(images), len(data.classes)))
            float(task.loss(outputs, labels.cpu()))
            float((data.metric or top1)(outputs, labels.cpu()).sum())
    except CompressError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"{asked}, images of shape {list(images.shape)}: {quote(error)}") from error
    _check_steps(run, model.eval())


def _check_steps(run: Run, model: nn.Module) -> None:
    """Ask every step's method, and select once: a goal below the floor of the first step is known now.

    Later steps meet networks not yet known; what this one lacks, channels or scales, they lack as well.
    """
    recipe, data = run.recipe, run.data
    whole = {"weights": cost.weight_count(model), "macs": cost.macs(model, data.input_shape)}
    kinds = dict.fromkeys(step.units for step in recipe.prune)
    units = {kind: units_of(kind, model, data, whole, recipe.multiple(0)) for kind in kinds}
    prunable, gammas = cost.execution_order(model, data.input_shape), rounds.scales(model)
    task = run.task(model)  # moves it to where the images are
    values = dict(task.model.named_parameters())
    for number, step in enumerate(recipe.prune):
        view = View(values, prunable, units[step.units], step.budget, {}, ending, TaskProbe(task), gammas)
        methods.build(step.method, step.knobs).check_network(view)
        if not number and step.budget.drop_points is None and step.budget.latency is None:
            with torch.no_grad():
                view.select(view.units.scores(values), {})


def _check_classes(asked: str, outputs: Any, wanted: tuple[int, int]) -> None:
    if not isinstance(outputs, torch.Tensor):
        raise UsageError(f"{asked}: gives a {type(outputs).__name__}; one tensor is expected, so wrap the model")
    if outputs.ndim != 2 or outputs.shape[0] != wanted[0] or outputs.shape[1] < wanted[1]:
        raise UsageError(
            f"{asked}: gives outputs of shape {list(outputs.shape)}; {wanted[0]} images of {wanted[1]} classes need "
            f"{list(wanted)}: change the model's number of classes, or give the data a loss and a metric of its own"
        )
