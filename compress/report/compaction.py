"""What ``compress compact`` did, on a terminal."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compress.report.console import _print, _table
from compress.report.formats import change, count, operations, scientific, size

if TYPE_CHECKING:
    from compress.compaction import LayerChange
    from compress.onnx_compaction import Outcome

MOST_LINES = 20


def summary(outcome: "Outcome", console: Console) -> None:
    """Print what was removed, what it saves, how equal the files are, and what had to stay."""
    changed = [layer for layer in outcome.layers if _widths(layer)[0] != _widths(layer)[1]]
    if outcome.removed:
        verdict = f"{len(changed)} of {len(outcome.layers)} layers are narrower, and the outputs are the same"
        proof = (
            f"largest error in ONNX Runtime {scientific(outcome.max_error)} of the output's size (allowed "
            f"{scientific(outcome.tolerance)}); in {outcome.proof_dtype} {scientific(outcome.proved)}"
        )
    else:
        verdict = f"nothing in {outcome.file} is dead"
        proof = "the written file is the same model; zeros scattered over living channels stay"
    _print(console, Text.assemble((str(outcome.out), "bold green"), f": {verdict}"))
    _print(console, Text(proof))
    for note in outcome.notes:
        _print(console, Text(note))
    if outcome.removed:
        _table(console, ("", "given", "written", ""), _figures(outcome))
        lines = [(layer.name, *(_arrow(a, b) for a, b in _pairs(layer))) for layer in changed]
        _table(console, ("Layer", "inputs", "outputs"), _shortened(lines))
    _table(console, ("What had to stay",), _shortened([(said,) for said in outcome.frozen]))


def _figures(outcome: "Outcome") -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [_figure("weights", outcome.weights, count)]
    if outcome.macs is not None:
        rows.append(_figure("multiply-accumulates", outcome.macs, operations))
    rows.append(_figure("size", outcome.size_bytes, size))
    before, after = outcome.opset
    if before != after:
        rows.append(("opset", str(before), str(after), f"ONNX Runtime {outcome.min_ort} or later"))
    return rows


def _figure(name: str, pair: tuple[int, int], said: Callable[[float | None], str]) -> Sequence[str]:
    return name, said(pair[0]), said(pair[1]), change(*pair)


def _pairs(layer: "LayerChange") -> tuple[tuple[int, int], tuple[int, int]]:
    return (layer.in_before, layer.in_after), (layer.out_before, layer.out_after)


def _widths(layer: "LayerChange") -> tuple[tuple[int, int], tuple[int, int]]:
    return (layer.in_before, layer.out_before), (layer.in_after, layer.out_after)


def _arrow(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> {after}"


def _shortened(lines: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    left = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], (f"... and {left} more",)] if left > 0 else list(lines)
