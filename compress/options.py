"""Options that several commands take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def together(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


gate_options = together(
    click.option("--max-latency-ms", type=float, metavar="MS", help="Gate: highest median latency."),
    click.option("--max-size-kb", type=float, metavar="KB", help="Gate: largest model file, 1 KB = 1000 bytes."),
)

network_options = together(
    click.option("--weights", type=click.Path(path_type=Path), help="Of a PyTorch model: safetensors or a state dict."),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="model.options.KEY=VALUE",
        help="An option of a PyTorch model, as in prune-and-export.",
    ),
)


DEFAULT_RECIPE = "lenet5-mnist"
"""Of `compress prune-and-export` without words."""

MEASURING = {
    "targets": "validate.targets",
    "threads": "validate.threads",
    "max_accuracy_drop_points": "validate.gates.max_accuracy_drop_points",
    "max_latency_ms": "validate.gates.max_latency_ms",
    "min_speedup": "validate.gates.min_speedup",
    "max_size_kb": "validate.gates.max_size_kb",
}
"""Command-line option -> key of the recipe, of what is measured and of the limits held against it."""
