"""The report's tables as text cells, ready for any renderer; a table without rows is left out."""

from collections.abc import Iterator
from dataclasses import dataclass

from compress.report.fields import Report, clean, number, numbers, rows, sequence, text, total, value
from compress.report.formats import (
    UNKNOWN,
    count,
    listing,
    ms,
    operations,
    percent,
    scientific,
    seconds,
    size,
)
from compress.report.words import gate_name, gate_value, reference, score


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns; the first `words` columns are words, the others numbers.

    `total` says that the last row sums the others.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    total: bool = False


def answer(passed: object, yes: str, unknown: str) -> str:
    """The word for a check that passed, failed, or was not made."""
    return yes if passed is True else "FAILED" if passed is False else unknown


def models(report: Report) -> Table:
    """Dense against pruned, every figure the report has of both."""
    lines = (
        ("Accuracy, ONNX Runtime", "accuracy", lambda x: score(report, x)),
        ("Accuracy, PyTorch", "accuracy_torch", lambda x: score(report, x)),
        ("Accuracy, held-out", "held_out_accuracy", lambda x: score(report, x)),
        ("Prunable weights", "weights", count),
        ("Nonzero weights", "nonzero", count),
        ("Multiply-accumulates", "macs", operations),
        ("File", "size_bytes", size),
        ("File, zipped", "size_zip_bytes", size),
        ("File, sparsely coded", "size_sparse_bytes", size),
        ("Weights, entropy-coded", "size_entropy_bytes", size),
    )
    body = [(name, *(show(number(report, m, key)) for m in ("dense", "pruned"))) for name, key, show in lines]
    body += [
        (f"Latency {p}", *(ms(number(report, m, "latency_ms", p)) for m in ("dense", "pruned")))
        for p in ("p50", "p90", "p99")
    ]
    known = tuple(row for row in body if row[1:] != (UNKNOWN, UNKNOWN))
    return Table("models", "Dense and pruned", ("Figure", "Dense", "Pruned"), known)


def layers(report: Report) -> Table:
    """Weights and multiply-accumulates of every prunable layer, with their sum."""
    keys = ("weights_dense", "weights", "nonzero", "macs_dense", "macs", "macs_nonzero")
    named = [(text(layer, "name"), [number(layer, key) for key in keys]) for layer in rows(report, "layers")]
    if named:
        named.append(("Total", [total(report, key) for key in keys]))
    columns = (
        "Layer",
        "Weights, dense",
        "After compaction",
        "Nonzero",
        "Sparsity",
        "MACs, dense",
        "After compaction",
        "Of a nonzero weight",
    )
    body = tuple((name, *_layer_cells(found)) for name, found in named)
    return Table("layers", "Weights and multiply-accumulates per layer", columns, body, total=True)


def _layer_cells(found: list[float | None]) -> Iterator[str]:
    dense, _, nonzero = found[:3]
    yield from map(count, found[:3])
    yield percent(1 - nonzero / dense) if dense and nonzero is not None else UNKNOWN
    yield from map(operations, found[3:])


def widths(report: Report) -> Table:
    """Channels in and out of every layer, before and after compaction."""
    keys = ("in_before", "in_after", "out_before", "out_after")
    body = tuple(
        (text(layer, "name"), *(count(number(layer, key)) for key in keys))
        for layer in rows(value(report, "compaction") or {}, "layers")
    )
    columns = ("Layer", "Channels in, before", "After", "Channels out, before", "After")
    return Table("widths", "Compaction: channels per layer", columns, body)


def gates(report: Report) -> Table:
    """Every gate with its limit, the value found and the answer."""
    body = tuple(
        (
            gate_name(gate),
            gate_value(text(gate, "name"), number(gate, "limit")),
            gate_value(text(gate, "name"), number(gate, "value")),
            answer(value(gate, "passed"), "met", "not checked"),
        )
        for gate in rows(report, "gates")
    )
    return Table("gates", "Gates", ("Gate", "Limit", "Value", "Answer"), body)


def latency_budgets(report: Report) -> Table:
    """Every budget of time: what was asked, what the chosen widths took untrained, what the trained network takes."""
    body = tuple(
        (
            f"prune-{count(number(found, 'step'))}",
            text(found, "target"),
            text(found, "asked"),
            *(_share(number(found, f"{when}ratio")) for when in ("", "achieved_")),
            operations(number(found, "macs")),
            count(len(rows(found, "tried"))),
        )
        for found in rows(report, "latency_budgets")
    )
    columns = ("Step", "Target", "Asked", "Predicted", "Achieved", "Multiply-accumulates", "Sizes measured")
    return Table("latency_budgets", "Latency budgets, in shares of the dense network's time", columns, body, words=3)


def latency_widths(report: Report) -> Table:
    """What the chosen width of every block saves, measured with that block alone narrowed."""
    body = tuple(
        (
            f"prune-{count(number(found, 'step'))}",
            clean(block),
            f"{count(max(saved))} to {count(width)}",
            percent(saved[width]),
        )
        for found in rows(report, "latency_budgets")
        for block, width in (value(found, "keep") or {}).items()
        if width in (saved := _saved(found, block))
    )
    title = "What every chosen width saves alone, in shares of the dense network's time"
    return Table("latency_widths", title, ("Step", "Channels of", "From and to", "Time saved"), body, words=3)


def _saved(found: Report, block: str) -> dict[float, float]:
    """Time that every width of a block saves; empty where no table was measured."""
    row = value(found, "table", block) or {}
    return dict(zip(numbers(row, "widths"), numbers(row, "saved"), strict=False))


def _share(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio:.3f}"


def proof(report: Report) -> Table:
    """What was proved: compaction exact in float64, ONNX Runtime equal to PyTorch, or to the given file."""
    compaction, parity = value(report, "compaction") or {}, value(report, "parity") or {}
    dtype, found = text(compaction, "dtype") or "float64", number(compaction, "max_error_relative")
    frozen = [clean(name) for name in sequence(compaction, "frozen_operators")]
    beside = reference(report)
    lines = (
        (f"Compaction: largest error in {dtype}, of the output's scale", scientific(found)),
        ("Compaction: largest error as shipped", scientific(number(compaction, "max_abs_error_shipped"))),
        (
            "Compaction: forward pass",
            {True: "rewritten, because sizes are written in the code", False: "the model's own"}.get(
                value(compaction, "rewritten"), UNKNOWN
            ),
        ),
        (
            "Compaction: operators frozen, no rule known",
            listing(frozen) or (UNKNOWN if found is None else "none"),
        ),
        (f"Parity with {beside}: largest error", scientific(number(parity, "max_abs"))),
        (f"Parity with {beside}: tolerance", scientific(number(parity, "tolerance"))),
        (f"Parity with {beside}: same top-1 answer", percent(number(parity, "top1_agreement"))),
        (f"Parity with {beside}: samples", count(number(parity, "samples"))),
        (f"Parity with {beside}", answer(value(parity, "passed"), "passed", UNKNOWN)),
    )
    known = tuple(line for line in lines if line[1] != UNKNOWN)
    return Table("proof", "Proof of compaction and parity", ("Check", "Found"), known)


def artifacts(report: Report) -> Table:
    """Every written file with its checksum and what it needs to run."""
    body = tuple(
        (
            text(artifact, "path"),
            text(artifact, "format") or UNKNOWN,
            size(number(artifact, "size_bytes")),
            size(number(artifact, "size_zip_bytes")),
            score(report, number(artifact, "accuracy")),
            scientific(number(artifact, "parity", "max_abs")),
            text(artifact, "opset") or UNKNOWN,
            text(artifact, "min_ort") or UNKNOWN,
            text(artifact, "sha256") or UNKNOWN,
        )
        for artifact in rows(report, "artifacts")
    )
    columns = (
        "File",
        "Format",
        "Size",
        "Zipped",
        "Accuracy",
        "Parity error",
        "Opset",
        "Oldest ORT",
        "SHA-256",
    )
    return Table("artifacts", "Artifacts", columns, body, words=2)


def stages(report: Report) -> Table:
    """What ran, for how long, and where the model stood after it."""
    body = tuple(
        (
            text(stage, "name"),
            seconds(number(stage, "seconds")) + (", reused" if value(stage, "resumed") is True else ""),
            score(report, number(stage, "accuracy")),
            percent(number(stage, "sparsity")),
            count(number(stage, "weights")),
            operations(number(stage, "macs")),
        )
        for stage in rows(report, "stages")
    )
    columns = ("Stage", "Time", "Accuracy, held-out", "Sparsity", "Weights", "MACs")
    return Table("stages", "Stages", columns, body)


def origin(report: Report) -> Table:
    """Where the figures come from: data, seed, convention, machine and versions."""
    data = value(report, "data") or {}
    names = sequence(data, "classes")
    lines = [
        ("Data", text(data, "name")),
        ("Training samples", count(number(data, "train"))),
        ("Held-out samples", count(number(data, "held_out"))),
        ("Test samples", count(number(data, "test"))),
        ("Classes", ", ".join(clean(name) for name in names[:20]) if names else text(data, "classes")),
        ("Seed", text(report, "seed")),
        ("MACs convention", text(report, "macs_convention")),
        *flat(value(report, "environment"), ""),
    ]
    if len(names) > 20:
        lines[4] = (f"Classes, 20 of {len(names)}", lines[4][1])
    known = tuple(line for line in lines if line[1] not in ("", UNKNOWN))
    return Table("origin", "Data, machine and versions", ("Item", "Value"), known, words=2)


def flat(found: object, prefix: str) -> Iterator[tuple[str, str]]:
    """The items of nested mappings, named by their keys with dots between, as text."""
    if isinstance(found, dict):
        for key, item in found.items():
            yield from flat(item, f"{prefix}.{clean(key)}" if prefix else clean(key))
    elif isinstance(found, list | tuple):
        yield prefix, ", ".join(clean(item) for item in found)
    elif found is not None and prefix:
        yield prefix, clean(found)
