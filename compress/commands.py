"""The commands beside the main job: what reads an ONNX file, a network or a finished run, and the lists."""

import sys
from pathlib import Path
from typing import Any

import click

from compress.errors import UsageError
from compress.file_commands import compact, export, validate

DENSE_OPTIONS = {
    "model": "model.name",
    "weights": "model.weights",
    "data": "data.name",
    "data_root": "data.root",
    "train_epochs": "train.epochs",
    "seed": "seed",
    "device": "device",
}
"""Command-line option -> key of the recipe, of what decides the dense network."""


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--weights", type=click.Path(path_type=Path), help="Look at these weights: safetensors or a state dict.")
@click.option("--input-shape", metavar="C,H,W", help="Of one input.  [default: what the network is made for]")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="model.options.KEY=VALUE",
    help="An option of the network, as in prune-and-export.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with a picture of it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the same for tools.")
@click.option("--quiet", is_flag=True, help="Only the totals and what went wrong.")
def inspect(model: str, html: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Say what can be pruned: the layers of a network, which channels can only go together, and what stays.

    MODEL is a built-in name, torchvision:NAME, file.py:Factory or package.module:Factory. Nothing is trained.
    """
    from rich.console import Console

    from compress.inspection import Question, answer
    from compress.report import inspection
    from compress.report.html import write_inspection
    from compress.report.store import to_json

    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"--html {html}: there is no folder {html.absolute().parent}; make it or choose another file")
    found = answer(Question(model, **options))
    if html is not None:
        write_inspection(found, html)
    if as_json:
        click.echo(to_json(found), nl=False)
        return
    width = None if sys.stdout.isatty() else inspection.PIPE_WIDTH
    inspection.summary(found, Console(highlight=False, width=width), quiet=quiet)


@click.command()
@click.argument("recipe", required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run directory; a run's network is reused.")
@click.option("--model", metavar="SPEC", help="As in prune-and-export.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Measure these weights as they are: safetensors or a state dict."
)
@click.option("--data", metavar="SPEC", help="As in prune-and-export.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where downloaded data sets live.")
@click.option("--units", type=click.Choice(["channel", "element"]), default="channel", show_default=True)
@click.option(
    "--drop-points", type=float, default=1.0, show_default=True, metavar="P", help="What a layer may cost to be borne."
)
@click.option("--train-epochs", type=int, help="Epochs of the dense training.")
@click.option("--seed", type=int, help="Every random draw derives from it.")
@click.option("--device", help="cpu, cuda, cuda:1 or auto.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key of the recipe.")
@click.option("--quiet", is_flag=True, help="Only the verdict and what went wrong.")
def sensitivity(
    recipe: str | None,
    out: Path,
    units: str,
    drop_points: float,
    assignments: tuple[str, ...],
    quiet: bool,
    **options: Any,
) -> None:
    """Prune every layer alone by 10 to 90 % and measure the held-out accuracy, without retraining.

    RECIPE, or --model and --data, names the dense network; it is trained first unless --weights are given or DIR
    holds a run of the recipe. Writes sensitivity.json and sensitivity.html. The same command again resumes.
    """
    from rich.console import Console

    from compress.progress import Display
    from compress.report import inspection
    from compress.report.sensitivity import summary
    from compress.sensitivity import asked, measure

    values = {DENSE_OPTIONS[name]: value for name, value in options.items() if value is not None}
    resolved = asked(recipe, values, assignments)
    found = measure(resolved, out, Display(quiet=quiet), units=units, drop_points=drop_points)
    width = None if sys.stdout.isatty() else inspection.PIPE_WIDTH
    summary(found, Console(highlight=False, width=width), quiet=quiet)
    if not quiet:
        click.echo(f"\n{out / 'sensitivity.html'}\n{out / 'sensitivity.json'}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def report(directory: Path) -> None:
    """Print a run's summary again and rewrite its report.html from report.json."""
    from rich.console import Console

    from compress.report.console import summary
    from compress.report.html import write_html
    from compress.report.store import read_json

    found = read_json(directory / "report.json")
    write_html(found, directory / "report.html")
    summary(found, Console(highlight=False), directory)


@click.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the pruning methods, or say of one what it does, from which paper, and what can be set."""
    from compress.methods import describe, summaries

    if name is None:
        _list(summaries())
    else:
        click.echo(describe(name))


@click.command()
def models() -> None:
    """List the built-in models."""
    from compress_models import names

    _list(
        {
            **names(),
            "torchvision:NAME": "any of torchvision's classifiers",
            "file.py:Factory": "your own, also package.module:Factory",
        }
    )


@click.command()
def recipes() -> None:
    """List the built-in recipes."""
    from compress.builtin_recipes import builtin

    _list(builtin())


def _list(entries: dict[str, str]) -> None:
    width = max(map(len, entries), default=0)
    for name, line in entries.items():
        click.echo(f"{name:<{width}}  {line}")


COMMANDS = (validate, compact, export, inspect, sensitivity, report, methods, models, recipes)
"""In the order of the help."""
