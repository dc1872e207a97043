"""The command line. Heavy modules are imported inside the commands, so that ``compress --help`` is quick."""

import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from compress import __version__
from compress.commands import COMMANDS
from compress.errors import CompressError, UsageError
from compress.options import DEFAULT_RECIPE, gate_options

_GOES_ON = "training goes on from its last finished epoch, all else is made anew"


class _Terminated(BaseException):
    """SIGTERM: unwinds like a keyboard interrupt, so that the report says so."""

    exit_code = 143


class _Group(click.Group):
    """Ends every command in one of the documented exit codes."""

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        signal.signal(signal.SIGTERM, _terminate)
        try:
            sys.exit(super().main(*args, **extra) or 0)
        except click.ClickException as error:
            sys.exit(_wrong_words(error))
        except CompressError as error:
            click.echo(f"compress: {error}", err=True)
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo(f"compress: interrupted; run the same command again: {_GOES_ON}", err=True)
            sys.exit(130)
        except _Terminated:
            click.echo(f"compress: terminated; run the same command again: {_GOES_ON}", err=True)
            sys.exit(_Terminated.exit_code)
        except Exception as error:
            sys.exit(_internal_error(error))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _wrong_words(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
    else:
        help = f"; see {context.command_path} --help" if context else ""
        click.echo(f"compress: {error.format_message().rstrip('.')}{help}", err=True)
    return 2


def _internal_error(error: Exception) -> int:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="compress-", suffix=".log", delete=False) as log:
            traceback.print_exception(error, file=log)
    except OSError as full:
        click.echo(f"compress: internal error ({error!r}); no log could be written: {full.strerror}", err=True)
        return 1
    click.echo(f"compress: internal error ({type(error).__name__}); please report it with {log.name}", err=True)
    return 1


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="compress")
def main() -> None:
    """Prune a PyTorch image model, compact it exactly, export it to ONNX and validate it in ONNX Runtime.

    Exit codes: 0 ok, 1 internal error, 2 bad input, 3 a gate or parity failed, 4 could not finish (resumable),
    130 / 143 interrupted (resumable).
    """


@main.command("prune-and-export")
@click.argument("recipe", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Run directory.  [default: runs/RECIPE, or runs/MODEL-DATA]",
)
@click.option(
    "--model",
    metavar="SPEC",
    help="Built-in name, torchvision:NAME, file.py:Factory, package.module:Factory, or a file MODEL.onnx.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Start from these weights: safetensors or a state dict.",
)
@click.option(
    "--data",
    metavar="SPEC",
    help="Built-in name, imagefolder:DIR, file.py:factory or package.module:factory.",
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where downloaded data sets live.")
@click.option(
    "--method",
    help="Prune in one step with this method (see `compress methods`) instead of the recipe's steps.",
)
@click.option(
    "--units",
    metavar="element|channel|N:M",
    help="With --method: what is pruned as one piece, or a pattern such as 2:4.",
)
@click.option("--sparsity", type=float, help="With --method: fraction of the weights that become zero.")
@click.option("--compression", type=float, help="With --method: weights / weights left.")
@click.option("--macs", type=float, help="With --method: multiply-accumulates left, a fraction or a count.")
@click.option(
    "--drop-points",
    type=float,
    metavar="P",
    help="With --method: percentage points of held-out accuracy that pruning may cost before retraining.",
)
@click.option(
    "--latency-budget",
    metavar="0.5x|2ms",
    help="With --method: time left on the first target; candidates are measured there, then pruned and trained to.",
)
@click.option(
    "--round-channels",
    type=int,
    metavar="N",
    help="With --method or MODEL.onnx: keep channel counts at multiples of this; 8 or 16 may be faster.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="With MODEL.onnx: sizes of an input that the file leaves open, as in `compress compact`.",
)
@click.option("--epochs", type=int, help="With --method: epochs of the method.")
@click.option("--finetune-epochs", type=int, help="With --method: epochs of retraining what is left.")
@click.option("--train-epochs", type=int, help="Epochs of the dense training; 0 keeps the given weights.")
@click.option("--seed", type=int, help="Every random draw derives from it.")
@click.option("--device", help="cpu, cuda, cuda:1 or auto.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Of the training's forward pass."
)
@click.option("--format", "formats", multiple=True, help="Output format; may be repeated.")
@click.option("--opset", type=int, help="ONNX operator set.")
@click.option("--batch", metavar="N|dynamic", help="Batch size of the exported model.")
@click.option(
    "--uint8-input",
    is_flag=True,
    default=None,
    help="Normalise inside the graph: the app feeds raw uint8 NHWC pixels.",
)
@click.option("--app/--no-app", default=None, help="Write DIR/app: the model with its preprocessing, and programs.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Where latency is measured: local, web, ssh://user@host; may be repeated.",
)
@click.option("--threads", type=int, help="ONNX Runtime's threads in the latency measurement.")
@click.option(
    "--max-accuracy-drop-points",
    type=float,
    metavar="P",
    help="Gate: dense minus pruned accuracy, percentage points.",
)
@click.option("--min-speedup", type=float, metavar="X", help="Gate: the low end of the speed-up's spread.")
@gate_options
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the recipe: train.lr=0.01, prune.0.rho=1e-3.",
)
@click.option("--quiet", is_flag=True, help="Only the summary and what went wrong.")
def prune_and_export(
    recipe: str | None, out: Path | None, quiet: bool, assignments: tuple[str, ...], **options: Any
) -> None:
    """Train or load a model, prune it, compact it exactly, export it to ONNX and validate it.

    RECIPE is a built-in recipe (see `compress recipes`) or a TOML file; options and --set override it. Without any
    argument the recipe lenet5-mnist runs on the MNIST that comes with the tool. The same command again resumes.

    --model MODEL.onnx takes an ONNX file from anyone through all that needs no training: it is compacted, coded and
    converted (--format), compared with the given file, measured and reported; --data adds accuracy.
    """
    from rich.console import Console

    from compress.progress import Display
    from compress.report.console import summary
    from compress.report.store import read_json

    run = _prepared(recipe, assignments, options)
    directory = out or Path("runs") / _run_name(recipe, options)
    try:
        run(directory, Display(quiet=quiet))
    finally:
        if (directory / "report.json").exists() and not isinstance(sys.exception(), UsageError):
            summary(read_json(directory / "report.json"), Console(highlight=False), directory)


def _is_onnx_file(options: dict[str, Any]) -> bool:
    return str(options["model"]).lower().endswith(".onnx")


def _prepared(recipe: str | None, assignments: tuple[str, ...], options: dict[str, Any]) -> Callable[..., object]:
    """The run that the words ask for, to be called with its directory and its display."""
    shapes = options.pop("input_shapes")
    if _is_onnx_file(options):
        from compress import foreign_question
        from compress.foreign_run import prune_and_export_file

        return partial(
            prune_and_export_file, foreign_question.asked(recipe, assignments, {**options, "input_shapes": shapes})
        )
    if shapes:
        raise UsageError("--input-shape is for --model MODEL.onnx; a PyTorch model takes the images of --data")
    from compress import question
    from compress.pipeline import prune_and_export

    return partial(prune_and_export, question.asked(recipe, assignments, options))


def _run_name(recipe: str | None, options: dict[str, Any]) -> str:
    """Name of the run directory: the recipe's, or model and data where there is no recipe; of an ONNX file its own."""
    if _is_onnx_file(options):
        return Path(options["model"]).stem
    parts = [options[name] for name in ("model", "data") if options[name]]
    if recipe or not parts:
        return Path(recipe or DEFAULT_RECIPE).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts)).strip("-.")


for _command in COMMANDS:
    main.add_command(_command)
