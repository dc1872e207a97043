"""The model stages of a run: train the dense model, then prune and compact, step by step.

Every stage ends in a payload that a weights-only checkpoint holds: the state dict, the attributes that make a
freshly built network as narrow, and the figures for the report. A finished stage is found again by its key.
"""

import functools
import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress import __version__, cost, latency, methods, rounds
from compress.budget import kept_fraction
from compress.channel_units import ChannelUnits
from compress.checkpoint import attributes_of, load_weights
from compress.compaction import channel_groups, compact
from compress.data import Data
from compress.descent import Optimization
from compress.masks import nonzero
from compress.recipe import Step
from compress.run import Payload, Run
from compress.train import Task, evaluate, to_device
from compress.units import ElementUnits, Units, layer_name
from compress_models import resolve
from compress_models.spec import source_of


def dense(run: Run) -> Payload:
    """Train the dense model, or take the weights given."""
    recipe = run.recipe
    rewind = recipe.prune[0].rewind if recipe.prune else None
    depends = {
        "tool": __version__,
        "model": {"source": _source(recipe.model.name), "options": recipe.model.options},
        "weights": digest(recipe.model.weights) if recipe.model.weights else None,
        "data": {
            "source": _source(recipe.data.name),
            "fingerprint": run.data.fingerprint,
            **recipe.data.model_dump(mode="json", exclude={"name", "root", "workers"}),
        },
        "train": recipe.train.model_dump(mode="json"),
        "rewind": rewind,
        "seed": recipe.seed,
        "precision": str(run.autocast),
    }

    def work() -> Payload:
        model = run.build()
        if recipe.model.weights:
            model = load_weights(model, recipe.model.weights)
        task, history = run.task(model), list[dict[str, Any]]()
        optimization = Optimization(**recipe.train.model_dump())
        early: dict[str, Tensor] = {}
        hooks = run.hooks("dense", history)
        if hooks["saved"]:
            early.update(hooks["saved"].get("early", {}))
        elif rewind == 0:
            early.update(_copied(task.model))

        def save(snapshot: dict[str, Any], write: rounds.Save = hooks["save"]) -> None:
            if snapshot["snapshot"] and snapshot["snapshot"]["epoch"] == rewind:
                early.update(_copied(task.model))
            write({**snapshot, "early": early})

        rounds.training(task, "dense", optimization, {}, **{**hooks, "save": save})
        return {**_payload(run, task, attributes_of(model), history), "early": early}

    return run.stage("dense", "dense", depends, work, recipe.train.epochs)


def prune(run: Run, number: int, before: Payload) -> Payload:
    """One step of the recipe: masks found and burnt in; retrained under them where no stage of its own does it."""
    step = run.recipe.prune[number]
    name, title = f"prune-{number}", f"prune-{number} {step.method} {step.units}"
    apart = retrains_compacted(step)
    if step.budget.latency is not None:
        step = step.model_copy(update={"budget": latency.counts(run, number, before)})
    knobs = asdict(methods.build(step.method, step.knobs))
    multiple = run.recipe.multiple(number) if step.units == "channel" else 1
    elsewhere = {"round_channels", "method"} | ({"finetune"} if apart and step.rounds == 1 else set())
    depends = {
        "step": step.model_dump(mode="json", exclude=elsewhere),
        "knobs": knobs,
        "method": _source(step.method),
        "round": multiple,
    }

    def work() -> Payload:
        model = run.model(before)
        units = units_of(step.units, model, run.data, run.payloads["dense"], multiple)
        task, history = _taught(run, run.task(model), step), list[dict[str, Any]]()
        values = dict(task.model.named_parameters())
        prunable = cost.execution_order(task.model, run.data.input_shape)
        masks = nonzero(values, prunable) if number or run.recipe.model.weights else {}
        plan = _plan(run, step, title, units)
        rounds.prune(task, plan, masks, prunable, **run.hooks(name, history))
        return _payload(run, task, before["attributes"], history)

    return run.stage(
        name, title, depends, work, step.rounds * step.epochs + (step.rounds - apart) * step.finetune.epochs
    )


def compaction(run: Run, number: int, before: Payload) -> Payload:
    """Remove, exactly, all that the step's zeros made dead."""
    multiple = run.recipe.multiple(number)

    def work() -> Payload:
        result = compact(run.model(before), example(run.data), round_to=multiple)
        attributes = {module: dict(changed) for module, changed in before["attributes"].items()}
        for module, changed in result.attributes.items():
            attributes.setdefault(module, {}).update(changed)
        payload = _payload(run, run.task(result.model), attributes, [])
        payload["compaction"] = {
            "max_error_relative": result.max_error_relative,
            "dtype": result.proof_dtype,
            "rewritten": result.rewritten,
            "max_abs_error_shipped": result.max_abs_error,
            "frozen_operators": list(result.frozen_operators),
            "channels_removed": result.channels_removed,
            "layers": [asdict(layer) for layer in result.layers],
        }
        return payload

    after = run.stage(f"compact-{number}", f"compact-{number}", {"round": multiple}, work)
    _tell_of_more(run, number, after["macs"] / run.payloads["dense"]["macs"])
    return after


def _tell_of_more(run: Run, number: int, left: float) -> None:
    """Say when compaction had to bring back more channels than a budget of operations allows."""
    step, dense = run.recipe.prune[number], run.payloads["dense"]["macs"]
    if step.units == "channel" and step.budget.macs and left > (kept_fraction(step.budget, dense) or 1) * (1 + 1e-9):
        run.directory.notes.append(
            f"compact-{number}: {left:.3f} of the dense network's multiply-accumulates stay, more than the budget "
            f"({step.budget.describe()}): parts of one layer are pruned apart, and round_channels = "
            f"{run.recipe.multiple(number)} fills the layer up with zeros; set round_channels = 1 or a smaller budget"
        )


def retrains_compacted(step: Step) -> bool:
    """Whether the last retraining of a step runs on what compaction leaves: the same function, fewer operations."""
    return step.finetune.compacted and step.finetune.epochs > 0


def retrain(run: Run, number: int, before: Payload) -> Payload:
    """Train a step's compacted network; its zeros stay zero."""
    step = run.recipe.prune[number]
    name, title = f"retrain-{number}", f"retrain-{number}"
    if before["compaction"]["rewritten"]:
        run.directory.notes.append(
            f"{title}: what only training does (stochastic depth, auxiliary heads) is not in the rewritten forward "
            f"pass; to retrain with it, set prune.{number}.finetune.compacted = false"
        )

    def work() -> Payload:
        task, history = _taught(run, run.task(run.model(before)), step), list[dict[str, Any]]()
        prunable = cost.execution_order(task.model, run.data.input_shape)
        masks = nonzero(dict(task.model.named_parameters()), prunable)
        rounds.training(task, title, _retraining(run, step), masks, **run.hooks(name, history))
        return _payload(run, task, before["attributes"], history)

    return run.stage(name, title, {"finetune": step.finetune.model_dump(mode="json")}, work, step.finetune.epochs)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.named_parameters()}


def example(data: Data) -> Tensor:
    """Two normalised images of the held-out part, on the CPU."""
    images, _ = next(iter(data.held_out.batches(2)))
    return images.cpu()


def _taught(run: Run, task: Task, step: Step) -> Task:
    """The task with the dense model as its teacher, where the step distils."""
    if not (step.distill or step.finetune.distill):
        return task
    return replace(task, teacher=to_device(run.model(run.payloads["dense"]), run.device))


def _plan(run: Run, step: Step, title: str, units: Units) -> rounds.Plan:
    train = run.recipe.train.model_dump()
    own = {"epochs": step.epochs, "lr": step.lr or train["lr"], "schedule": step.schedule, "warmup": 0.0}
    return rounds.Plan(
        title, methods.build(step.method, step.knobs), units, step.budget,
        Optimization(**{**train, **own}, distill=step.distill), _retraining(run, step), step.rounds,
        run.payloads["dense"]["early"] if step.rewind is not None else None, retrains_compacted(step),
    )  # fmt: skip


def _retraining(run: Run, step: Step) -> Optimization:
    train, tune = run.recipe.train.model_dump(), step.finetune
    after = {"epochs": tune.epochs, "lr": tune.lr or train["lr"], "schedule": tune.schedule, "warmup": 0.0}
    return Optimization(**{**train, **after}, distill=tune.distill)


def units_of(kind: str, model: nn.Module, data: Data, dense: Payload, multiple: int = 1) -> Units:
    """The units of a kind, as a step of the recipe names it.

    Args:
        kind: ``element``, ``channel`` or a pattern.
        model: as narrow as it is now, on the CPU in the default memory format.
        data: its images.
        dense: ``weights`` and ``macs`` of the dense network.
        multiple: of which the channels that stay are multiples.

    Raises:
        UsageError: no channel can be removed.
    """
    values, positions = dict(model.named_parameters()), cost.positions(model, data.input_shape)
    if kind == "channel":
        groups = channel_groups(model, example(data))
        return ChannelUnits.of(groups, values, positions, dense["weights"], dense["macs"], multiple)
    shapes = {name: value.shape for name, value in values.items() if name in positions}
    most, _, of = kind.partition(":")
    pattern = (int(most), int(of)) if of else None
    return ElementUnits(shapes, positions, dense["weights"], dense["macs"], pattern)


def _payload(run: Run, task: Task, attributes: dict[str, Any], history: list[dict[str, Any]]) -> Payload:
    model = task.model
    weights, left = cost.weight_count(model), cost.nonzero_count(model)
    return {
        "state": {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()},
        "attributes": attributes,
        "history": history,
        "accuracy": evaluate(task, run.data.held_out),
        "sparsity": 1 - left / run.payloads["dense"]["weights"] if run.payloads else 1 - left / weights,
        "weights": weights,
        "macs": cost.macs(model, run.data.input_shape),
        "layers": _layers(model, run.data),
    }


def _layers(model: nn.Module, data: Data) -> dict[str, dict[str, int]]:
    """Weights, nonzero weights and MACs of every layer."""
    positions, parameters = cost.positions(model, data.input_shape), dict(model.named_parameters())
    layers: dict[str, dict[str, int]] = {}
    for name, at in positions.items():
        whole, left = parameters[name].numel(), int(parameters[name].count_nonzero())
        layer = layers.setdefault(layer_name(name), dict.fromkeys(("weights", "nonzero", "macs", "macs_nonzero"), 0))
        for key, more in (("weights", whole), ("nonzero", left), ("macs", whole * at), ("macs_nonzero", left * at)):
            layer[key] += more  # attention may hold several weights
    return layers


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    file = path.expanduser()
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"


def _source(spec: str) -> str:
    """Identity of a spec without its path: the content of the user's file, or the name of a built-in."""
    if spec.startswith("imagefolder:"):
        return "imagefolder"  # the data's fingerprint says which
    if ":" not in spec or spec.startswith("torchvision:"):
        return spec
    factory = resolve(spec)
    file = source_of(factory)
    settings = repr((factory.args, factory.keywords)) if isinstance(factory, functools.partial) else ""
    return f"{digest(file)}:{spec.rpartition(':')[2]}{settings}" if file else spec
