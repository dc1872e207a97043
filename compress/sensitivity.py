"""How much of every layer can go: each one pruned alone, nothing retrained, accuracy on the held-out part.

The answer is a plain mapping, the content of sensitivity.json; ``report.sensitivity`` says it in words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress import cost, stages
from compress.errors import UsageError
from compress.masks import burn, keep_top
from compress.pipeline import start, translated
from compress.progress import Display
from compress.recipe import Recipe
from compress.recipe_text import build, override, parse_assignment, read
from compress.report.formats import percent
from compress.report.html import render_sensitivity
from compress.report.store import to_json
from compress.run import Payload, Run
from compress.run_directory import RunDirectory
from compress.train import Task, evaluate
from compress.units import Units

SCHEMA = 1
PERCENTS = tuple(range(10, 100, 10))
"""Of a layer's units, taken away one after another."""
FLAT, STEEP = 0.7, 0.3
"""A layer that bears this share and more is flat; one that does not bear that share is steep."""


def asked(spec: str | None, values: Mapping[str, Any], assignments: Sequence[str]) -> Recipe:
    """The recipe of the network to measure.

    Args:
        spec: a recipe, or None where model and data are given.
        values: dotted key -> value of the recipe; weights are measured as they are, unless epochs are given too.
        assignments: "KEY=VALUE", as in ``prune-and-export --set``.

    Raises:
        UsageError: nothing is named, or not a recipe.
    """
    if spec is None and not {"model.name", "data.name"} <= values.keys():
        raise UsageError("name the network: a RECIPE (see compress recipes), or --model and --data")
    table = read(spec) if spec else {}
    if "model.weights" in values:
        table = {section: content for section, content in table.items() if section != "prune"}
        values = {"train.epochs": 0, **values}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    return build(override(table, {**given, **dict(map(parse_assignment, assignments))}))


def measure(
    recipe: Recipe, out: Path, display: Display, *, units: str = "channel", drop_points: float = 1.0
) -> dict[str, Any]:
    """Measure, and write sensitivity.json and sensitivity.html into ``out``.

    The network is the recipe's dense one: trained here, or taken from a run of the recipe in the same directory. The
    same call again goes on from the last measured layer.

    Args:
        recipe: model, weights, data, training.
        out: a run directory, or a new one.
        display: where progress goes.
        units: ``channel`` or ``element``.
        drop_points: percentage points that a layer may cost; decides which are called flat and steep.

    Raises:
        UsageError: bad input, an untrained network, or a directory with another recipe's network.
        RunError: it could not finish; the same call resumes.
    """
    if not drop_points >= 0:
        raise UsageError(f"--drop-points must be 0 or more, got {drop_points:g}; for 2 % write 2")
    if not recipe.train.epochs and recipe.model.weights is None:
        raise UsageError("an untrained network has no sensitivity; give --weights, or --train-epochs 1 or more")
    directory = RunDirectory(out, overwrites=False)
    with directory.locked():
        run = start(recipe, directory, display)
        try:
            dense = stages.dense(run)
            blocks = _measured(run, dense, units)
        except Exception as error:
            if (known := translated(error)) is error:
                raise
            raise known from None
        found = {**_about(run, dense, units), **judged(blocks, dense["accuracy"], drop_points)}
        directory.write("sensitivity.json", to_json(found))
        directory.write("sensitivity.html", render_sensitivity(found))
    return found


def judged(blocks: list[dict[str, Any]], accuracy: float, drop_points: float) -> dict[str, Any]:
    """The blocks with what the measurements say of them.

    Args:
        blocks: each with its points, in rising order of what is removed.
        accuracy: with nothing removed.
        drop_points: percentage points that a block may cost.
    """
    told = []
    for block in blocks:
        lost = [100 * (accuracy - point["accuracy"]) for point in block["points"]]
        # a curve that falls and comes back has fallen; the allowance is for the last bit of 0.99 - 0.98
        within = next((n for n, points in enumerate(lost) if points > drop_points + 1e-9), len(lost))
        bears = block["points"][within - 1]["removed"] if within else 0.0
        slope = "flat" if bears >= FLAT else "steep" if bears < STEEP else "between"
        told.append({**block, "bears": bears, "mean_drop_points": sum(lost) / len(lost), "slope": slope})
    return {"drop_points": drop_points, "flat_from": FLAT, "steep_below": STEEP, "blocks": told}


def _about(run: Run, dense: Mapping[str, Any], units: str) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "schema": SCHEMA,
        "model": recipe.model.name,
        "weights_file": str(recipe.model.weights) if recipe.model.weights else None,
        "data": run.data.name,
        "held_out": len(run.data.held_out),
        "seed": recipe.seed,
        "metric": {"name": "custom" if run.data.metric else "top1", "higher_is_better": True},
        "units": units,
        **{key: dense[key] for key in ("accuracy", "weights", "macs")},
    }


def _measured(run: Run, dense: Payload, kind: str) -> list[dict[str, Any]]:
    """Every block's points, from where an interrupted measurement left off."""
    name = f"sensitivity-{kind}"
    model = run.model(dense)
    units = stages.units_of(kind, model, run.data, dense)
    task = run.task(model)

    def work() -> Payload:
        values = dict(task.model.named_parameters())
        with torch.no_grad():
            scores = units.sums({weight: values[weight].abs() for weight in cost.prunable(task.model)})
        blocks = list((run.directory.progress(name, run.key) or {"blocks": []})["blocks"])
        for block in list(units.blocks)[len(blocks) :]:
            blocks.append({"name": block, "units": units.blocks[block], "points": _points(task, units, scores, block)})
            run.directory.store_progress(name, run.key, {"blocks": blocks})
            run.display.piece(len(blocks), _said(blocks[-1]))
        return {"blocks": blocks}

    found: list[dict[str, Any]] = run.stage(
        name, f"sensitivity, {units.noun}s", {"percents": PERCENTS}, work, len(units.blocks)
    )["blocks"]
    for finished in ("dense", name):
        run.directory.clear_progress(finished)
    return found


def _points(task: Task, units: Units, scores: Mapping[str, Tensor], block: str) -> list[dict[str, Any]]:
    """What is left, and how good it is, with more and more of one block removed, smallest L1 norm first."""
    values, size = dict(task.model.named_parameters()), units.blocks[block]
    whole = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    found: dict[int, dict[str, Any]] = {}  # of few units, two shares may keep the same
    points = []
    for removed in PERCENTS:
        kept = max(1, size * (100 - removed) // 100)
        if kept not in found:
            keep = {**whole, block: keep_top(scores[block], kept)}
            with torch.no_grad():
                pruned = burn(values, units.masks(keep))
            accuracy = evaluate(task, task.data.held_out, pruned)
            found[kept] = {"weights": units.weights(keep), "macs": units.macs(keep), "accuracy": accuracy}
        points.append({"removed": removed / 100, "kept": kept, **found[kept]})
    return points


def _said(block: Mapping[str, Any]) -> str:
    figures = [point["accuracy"] for point in block["points"]]
    middle = len(figures) // 2
    return f"{block['name']}: half {percent(figures[middle])}, nine tenths {percent(figures[-1])}"
