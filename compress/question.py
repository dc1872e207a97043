"""What is asked of a PyTorch model: a recipe, and the words of the command line over it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import recipe_text
from compress.commands import DENSE_OPTIONS
from compress.errors import UsageError
from compress.options import DEFAULT_RECIPE, MEASURING
from compress.recipe import Recipe

_OPTIONS = {
    **DENSE_OPTIONS,
    "precision": "precision",
    "formats": "export.formats",
    "opset": "export.opset",
    "batch": "export.batch",
    "uint8_input": "export.uint8_input",
    "app": "app.write",
    **MEASURING,
}
"""Command-line option -> key of the recipe."""


def asked(recipe: str | None, assignments: Sequence[str], options: Mapping[str, Any]) -> Recipe:
    """The recipe that the command line asks for.

    Args:
        recipe: a name or a file; without one the words name a network, or it is the default recipe.
        assignments: "KEY=VALUE", as of ``--set``.
        options: of the command line, by their Python names; None and () were not given.

    Raises:
        UsageError: words that do not go together, or not a recipe.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    other_network = not recipe and given.keys() & {"model", "data"}
    table = {} if other_network else recipe_text.read(recipe or DEFAULT_RECIPE)
    if (step := _one_step(given)) is not None:
        table = {**table, "prune": [step]}
    elif other_network:
        raise UsageError(
            "--model or --data without a recipe needs --method with a budget, such as --method admm --sparsity 0.9"
        )
    if "batch" in given and given["batch"] != "dynamic":
        given["batch"] = int(given["batch"]) if given["batch"].isdigit() else given["batch"]
    values = {_OPTIONS[name]: _plain(value) for name, value in given.items() if name in _OPTIONS}
    return recipe_text.build(
        recipe_text.override(table, {**values, **dict(map(recipe_text.parse_assignment, assignments))})
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _one_step(given: dict[str, Any]) -> dict[str, Any] | None:
    """The short form: one step from --method and its budget."""
    forms = ("sparsity", "compression", "macs", "drop_points", "latency_budget")
    budget: dict[str, Any] = {name: given[name] for name in forms if name in given}
    if "latency_budget" in budget:
        budget = {"latency": budget.pop("latency_budget"), "floor": 0.1, **budget}
        given = {"units": "channel", **given}
    elif budget and given.get("units") == "channel":
        budget = {"ranking": "balanced", **budget}
    rest: dict[str, Any] = {
        name: given[name] for name in ("method", "units", "epochs", "round_channels") if name in given
    }
    if not budget and not rest and "finetune_epochs" not in given:
        return None
    if "method" not in given:
        raise UsageError(
            "--units, --epochs, --finetune-epochs and budgets belong to one step: "
            "add --method, or use --set prune.0.KEY=VALUE"
        )
    if len(asked := [name for name in forms if name in given]) > 1:
        options, found = (", ".join(f"--{name.replace('_', '-')}" for name in names) for names in (forms, asked))
        raise UsageError(f"--method takes one of {options}; got {found}")
    tune = {"finetune": {"epochs": given["finetune_epochs"]}} if "finetune_epochs" in given else {}
    return {**rest, "budget": budget, **tune}
