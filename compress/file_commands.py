"""The commands that take an ONNX file from anyone, or a checkpoint: validate, compact, export."""

from pathlib import Path
from typing import Any

import click

from compress.errors import UsageError
from compress.options import gate_options, network_options


@click.command()
@click.argument("model", metavar="MODEL")
@network_options
@click.option("--data", required=True, metavar="SPEC", help="Data set to test on; as in prune-and-export.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where downloaded data sets live.")
@click.option("--reference", type=click.Path(path_type=Path), help="ONNX file whose outputs it must reproduce.")
@click.option("--min-accuracy", type=float, help="Gate: least accuracy, a fraction.")
@click.option(
    "--mean",
    help="Per channel, comma-separated, or one for all; for pixels in 0..1.  [default: the file's, else the data's]",
)
@click.option("--std", help="As --mean.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Of the model's input.  [default: from its shape]")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="ONNX Runtime's threads.")
@gate_options
def validate(model: str, weights: Path | None, assignments: tuple[str, ...], **options: Any) -> None:
    """Accuracy, latency and parity of an ONNX file from anyone, or of a checkpoint; exit code 3 where a gate fails.

    MODEL is a file MODEL.onnx, compared with the one that --reference names; or a PyTorch model, which is scored,
    exported, compared with its export, and the export measured.
    """
    from compress import checkpoint_jobs, exporting
    from compress.foreign import Question, validate_file

    gates = {name: options.pop(name) for name in ("min_accuracy", "max_latency_ms", "max_size_kb")}
    given = {name: limit for name, limit in gates.items() if limit is not None}
    asked = Question(Path(model), gates=given, **options)
    if exporting.is_onnx(model):
        _no_network_options(model, weights, assignments)
        lines = validate_file(asked)
    else:
        lines = checkpoint_jobs.validate(exporting.Question(model, weights, assignments=assignments), asked)
    for line in lines:
        click.echo(line)


def _no_network_options(file: str, weights: Path | None, assignments: tuple[str, ...]) -> None:
    if weights or assignments:
        raise UsageError(f"--weights and --set are for a PyTorch model, and {file} is an ONNX file; leave them out")


@click.command()
@click.argument("model", metavar="MODEL")
@network_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="SMALL.onnx",
    help="File to write; of a PyTorch model also SMALL.safetensors, its weights.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Sizes of an input that the file leaves open; a word as the first leaves the batch free. May be repeated. "
    "Of a PyTorch model 3,224,224.",
)
@click.option(
    "--round-channels",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Keep channel counts at multiples of this where dead channels allow; 8 or 16 may be faster.",
)
@click.option("--quiet", is_flag=True, help="Only what went wrong.")
def compact(
    model: str,
    weights: Path | None,
    assignments: tuple[str, ...],
    output: Path,
    input_shapes: tuple[str, ...],
    round_channels: int,
    quiet: bool,
) -> None:
    """Remove what zeros made dead, exactly, from an ONNX file from anyone or from a checkpoint, and prove it.

    MODEL is a file MODEL.onnx, or a PyTorch model whose --weights hold zeros. Nothing is written unless the new file
    computes what the given one computes (exit code 3 where it does not, 4 where the removal cannot be proved exact).
    """
    from rich.console import Console

    from compress import checkpoint_jobs, exporting
    from compress.onnx_compaction import compact_file
    from compress.report.compaction import summary

    if not exporting.is_onnx(model):
        asked = exporting.Question(model, weights, input_shapes, assignments)
        lines = checkpoint_jobs.compact(asked, output, round_channels=round_channels)
        click.echo("\n".join([] if quiet else lines), nl=not quiet)
        return
    _no_network_options(model, weights, assignments)
    outcome = compact_file(Path(model), output, input_shapes, round_channels=round_channels)
    if not quiet:
        summary(outcome, Console(highlight=False))


@click.command()
@click.argument("model", metavar="MODEL")
@network_options
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the files.")
@click.option("--format", "formats", multiple=True, help="Output format; may be repeated.  [default: onnx, or sparse]")
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="C,H,W",
    help="Of a PyTorch model's input; NAME=1,3,224,224 for what an ONNX file leaves open.",
)
@click.option(
    "--data", metavar="SPEC", help="Compare and calibrate on these images.  [default: compare on random ones]"
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where downloaded data sets live.")
@click.option("--opset", type=int, help="ONNX operator set.")
@click.option("--batch", metavar="N|dynamic", help="Batch size of the exported model.")
@click.option(
    "--uint8-input", is_flag=True, default=None, help="Normalise inside the graph, by the data's mean and std."
)
@click.option("--quiet", is_flag=True, help="Only what went wrong.")
def export(model: str, out: Path, formats: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Write a network, a finished run or an ONNX file in other formats, each compared with what it was made from.

    MODEL is a PyTorch model as in prune-and-export, a run's directory, or a file MODEL.onnx. Nothing is trained or
    pruned; exit code 3 where a written file does not compute the same.
    """
    from compress.exporting import Question, export, is_onnx

    form = {name: options.pop(name) for name in ("opset", "batch", "uint8_input")}
    if form["batch"] and form["batch"].isdigit():
        form["batch"] = int(form["batch"])
    asked = Question(model, form=tuple((name, value) for name, value in form.items() if value is not None), **options)
    for written in export(asked, formats or (("sparse",) if is_onnx(model) else ("onnx",)), out):
        if not quiet:
            click.echo(written.line)
            for note in written.artifact.notes:
                click.echo(f"  {note}")
