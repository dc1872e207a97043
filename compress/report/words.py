"""What a report says in plain sentences: pure functions of it, shared by the page and the console.

A clause is written only where its numbers are known, and a speed-up is claimed only where its whole spread
lies well above 1.0, whatever the report's own flag says.
"""

from dataclasses import dataclass
from typing import Literal

from compress.report.fields import Report, clean, number, rows, sequence, text, value
from compress.report.formats import (
    count,
    listing,
    ms,
    percent,
    points,
    ratio,
    significant,
    size,
    span,
)
from compress.targets import APART

Outcome = Literal["passed", "gate_failed", "failed", "interrupted", "unknown"]

OUTCOME_LABEL: dict[Outcome, str] = {
    "passed": "Passed",
    "gate_failed": "Gate failed",
    "failed": "Not finished",
    "interrupted": "Interrupted",
    "unknown": "Status unknown",
}


@dataclass(frozen=True)
class Figure:
    """One of the figures a person wants first, of the dense and the pruned model."""

    label: str
    dense: str
    pruned: str
    remark: str


def title(report: Report) -> str:
    """Model, data and methods, as far as they are known."""
    model = text(report, "recipe", "model") or _first(report, "model", "name", "spec")
    data = text(report, "data", "name") or text(report, "recipe", "data") or _first(report, "data", "name", "spec")
    steps = [text(step, "method") for step in rows(value(report, "recipe") or {}, "prune")]
    methods = listing(list(dict.fromkeys(filter(None, steps))))
    what = " ".join(filter(None, (model, data and f"on {data}")))
    return ", ".join(filter(None, (what, methods and f"pruned by {methods}"))) or "Compression run"


def _first(report: Report, section: str, *keys: str) -> str:
    return next((found for key in keys if (found := text(report, "recipe", section, key))), "")


def failed_gates(report: Report) -> list[str]:
    """The names of the gates that were not met; a failed parity counts as one."""
    names = [gate_name(gate) for gate in rows(report, "gates") if value(gate, "passed") is False]
    if value(report, "parity", "passed") is False and "parity" not in names:
        names.append("parity")
    return [*names, *_unequal(report)]


def _unequal(report: Report) -> list[str]:
    """The files other than model.onnx that do not compute what they were made from."""
    files = [text(a, "path") for a in rows(report, "artifacts") if value(a, "parity", "passed") is False]
    return [f"parity of {file}" for file in files if file != "model.onnx"]


def outcome(report: Report) -> Outcome:
    """The report's status; a failed gate is never hidden behind "passed"."""
    status = value(report, "status")
    if status in ("failed", "interrupted"):
        return "failed" if status == "failed" else "interrupted"
    if status == "gate_failed" or failed_gates(report):
        return "gate_failed"
    return "passed" if status == "passed" else "unknown"


def verdict(report: Report) -> str:
    """How the run ended, with each failed gate by name."""
    ended = outcome(report)
    failures = [gate_line(gate) for gate in rows(report, "gates") if value(gate, "passed") is False]
    if value(report, "parity", "passed") is False:
        failures.append(parity_line(report))
    failures += [f"{said} is broken" for said in _unequal(report)]
    if ended == "gate_failed":
        named = "; ".join(failures) or "the report does not name it"
        return f"A limit was not kept: {named}. All files are written."
    if ended == "passed":
        return _passed(report)
    also = f" A limit was not kept: {'; '.join(failures)}." if failures else ""
    return _unfinished(report, ended) + also


def _passed(report: Report) -> str:
    gates = rows(report, "gates")
    met = sum(value(gate, "passed") is True for gate in gates)
    unchecked = [gate_name(gate) for gate in gates if value(gate, "passed") is not True]
    said = f"{met} of {len(gates)} gates met" if gates else "No gate was set"
    if value(report, "parity", "passed") is True:
        said += f", and ONNX Runtime agrees with {reference(report)}"
    return f"{said}." + (f" Not checked: {listing(unchecked)}." if unchecked else "")


def _unfinished(report: Report, ended: Outcome) -> str:
    if ended == "unknown":
        return "The report does not say how the run ended; shown is what was known when it was written."
    stages = rows(report, "stages")
    after = f" after stage {text(stages[-1], 'name')}" if stages else " before its first stage was finished"
    code = text(report, "exit_code")
    ending = f"The run {'was interrupted' if ended == 'interrupted' else 'stopped'}{after}"
    ending += f" (exit code {code})" if code else ""
    # after an internal error (1), bad input (2) or unequal files (3) the same command would end the same way
    resumes = "" if code in ("1", "2", "3") else " The same command continues from there."
    return f"{ending}.{resumes} Shown is what was known by then."


def gate_name(gate: Report) -> str:
    """A gate's name, with the file where it is one of a further file.

    >>> gate_name({"name": "max_size_kb"}), gate_name({"name": "max_accuracy_drop_points", "file": "model.int8.c"})
    ('max_size_kb', 'max_accuracy_drop_points of model.int8.c')
    """
    return " of ".join(filter(None, (text(gate, "name") or "unnamed", text(gate, "file"))))


def gate_line(gate: Report) -> str:
    """One gate: its value and its limit, in the unit its name ends in."""
    name = text(gate, "name") or "unnamed"
    found, limit = number(gate, "value"), number(gate, "limit")
    side = {"max_": "at most ", "min_": "at least "}.get(name[:4], "")
    return f"{gate_name(gate)} is {gate_value(name, found)}, limit {side}{gate_value(name, limit)}"


def gate_value(name: str, x: float | None) -> str:
    """A gate's number in the unit its name ends in.

    >>> gate_value("max_accuracy_drop_points", 1.2), gate_value("max_size_bytes", 152_400)
    ('1.20 points', '152 kB')
    """
    if x is None:
        return "unknown"
    if name.endswith("_points"):
        return f"{x:.2f} points"
    if name.endswith("_ms"):
        return ms(x)
    if name.endswith("_bytes"):
        return size(x)
    if name.endswith("_kb"):
        return size(1000 * x)
    if name.endswith("accuracy"):
        return percent(x)
    if name.endswith(("speedup", "compression")):
        return ratio(x)
    return significant(x, 4)


def parity_line(report: Report) -> str:
    """How far ONNX Runtime's outputs are from those of PyTorch, or of the given file."""
    parity = value(report, "parity") or {}
    error, limit = number(parity, "max_abs"), number(parity, "tolerance")
    passed = value(parity, "passed")
    if error is None or passed is None:
        return f"parity of ONNX Runtime with {reference(report)} was not measured"
    samples, agreement = number(parity, "samples"), number(parity, "top1_agreement")
    sentence = f"parity of ONNX Runtime with {reference(report)} is {'good' if passed is True else 'broken'}: "
    sentence += f"outputs differ by at most {error:.1e}"
    sentence += f" (tolerance {limit:.1e})" if limit is not None else ""
    sentence += f" over {count(samples)} samples" if samples is not None else ""
    return sentence + (f", same top-1 answer for {percent(agreement)}" if agreement is not None else "")


def reference(report: Report) -> str:
    """What the outputs were compared with.

    >>> reference({}), reference({"parity": {"reference": "the given file"}})
    ('PyTorch', 'the given file')
    """
    return text(report, "parity", "reference") or "PyTorch"


def score(report: Report, x: float | None) -> str:
    """A value of the run's metric: percent, or a plain number for a metric that is better when lower."""
    return significant(x, 4) if value(report, "metric", "higher_is_better") is False else percent(x)


def accuracy_change(report: Report, accuracy: float | None) -> str:
    """How an accuracy compares with the dense model's; empty when either is unknown.

    >>> accuracy_change({"dense": {"accuracy": 0.9921}}, 0.9898)
    '0.23 points lower'
    """
    dense = number(report, "dense", "accuracy")
    if dense is None or accuracy is None:
        return ""
    if dense == accuracy:
        return "unchanged"
    plain = value(report, "metric", "higher_is_better") is False
    difference = significant(abs(dense - accuracy)) if plain else points(abs(dense - accuracy))
    return f"{difference} {'lower' if accuracy < dense else 'higher'}"


def accuracy_interval(report: Report, model: str = "pruned") -> str:
    """The 95 % interval of a model's accuracy; empty when unknown."""
    low, high = number(report, model, "accuracy_low"), number(report, model, "accuracy_high")
    return "" if low is None or high is None else f"95 % interval {100 * low:.2f} to {percent(high)}"


NEARLY = f"comes within {100 * (APART - 1):.0f} % of 1.0, as two sessions of one file may"


def speedup_claimed(report: Report) -> bool:
    """True only when the report claims it and the whole spread over repeats lies well above 1.0."""
    low = number(report, "speedup_low")
    return value(report, "speedup_claimed") is not False and low is not None and low > APART


def speed(report: Report) -> str:
    """The speed-up with its spread, or why none is claimed."""
    measured, low, high = (number(report, key) for key in ("speedup", "speedup_low", "speedup_high"))
    if measured is None:
        return "Latency of the two models was not compared."
    if low is None or high is None:
        return f"No speed-up is claimed: {ratio(measured)} was measured, without its spread over repeats."
    spread = span(low, high)
    if speedup_claimed(report):
        return f"{ratio(measured)} faster (spread over repeats {spread})."
    if high < 1 / APART:
        return f"Slower: {ratio(measured)} the dense model's speed (spread over repeats {spread})."
    if low <= APART:
        near = "covers 1.0" if low <= 1.0 <= high else NEARLY
        return f"No speed-up is claimed: {ratio(measured)} was measured, and its spread {spread} {near}."
    return f"No speed-up is claimed: {ratio(measured)} was measured (spread over repeats {spread})."


def headline(report: Report) -> list[Figure]:
    """Accuracy, compression, size and latency of the pruned model; unknown ones left out."""
    figures = (_accuracy(report), _compression(report), _size(report), _latency(report))
    return [figure for figure in figures if figure is not None]


def _accuracy(report: Report) -> Figure | None:
    pruned = number(report, "pruned", "accuracy")
    if pruned is None:
        return None
    metric = text(report, "metric", "name")
    dense = score(report, number(report, "dense", "accuracy"))
    remark = ", ".join(filter(None, (accuracy_change(report, pruned), accuracy_interval(report))))
    return Figure(f"Accuracy ({metric})" if metric else "Accuracy", dense, score(report, pruned), remark)


def _compression(report: Report) -> Figure | None:
    pruned, sparsity = number(report, "pruned", "compression"), number(report, "pruned", "sparsity")
    if pruned is None:
        return None
    channels = number(report, "pruned", "channels_removed")
    remark = [f"{percent(sparsity)} of the weights are zero or gone"] if sparsity is not None else []
    remark += [f"{count(channels)} channels removed"] if channels is not None else []
    dense = f"{count(number(report, 'dense', 'weights'))} weights"
    return Figure("Compression", dense, ratio(pruned), ", ".join(remark))


def _size(report: Report) -> Figure | None:
    pruned = number(report, "pruned", "size_bytes")
    if pruned is None:
        return None
    sparse, zipped = number(report, "pruned", "size_sparse_bytes"), number(report, "pruned", "size_zip_bytes")
    remark = [f"{size(sparse)} coded sparsely"] if sparse is not None else []
    remark += [f"{size(zipped)} zipped"] if zipped is not None else []
    return Figure("ONNX file", size(number(report, "dense", "size_bytes")), size(pruned), ", ".join(remark))


def _latency(report: Report) -> Figure | None:
    pruned = number(report, "pruned", "latency_ms", "p50")
    if pruned is None:
        return None
    return Figure(
        "Median latency",
        ms(number(report, "dense", "latency_ms", "p50")),
        ms(pruned),
        speed(report).rstrip("."),
    )


def caveats(report: Report) -> list[str]:
    """What a reader must know beside the figures: missing measurements, frozen operators, the run's notes.

    What is said of a file stays with the file.
    """
    said = [
        f"No latency from {text(m, 'target') or 'a target'} for {text(m, 'artifact') or 'an artifact'}: "
        f"{text(m, 'reason') or 'no reason given'}."
        for m in rows(report, "measurements")
        if value(m, "status") in ("missing", "failed")
    ]
    frozen = [clean(name) for name in sequence(report, "compaction", "frozen_operators")]
    if frozen:
        said.append(f"Channels next to these operators were left alone, no rule is known for them: {listing(frozen)}.")
    of_files = [note for artifact in rows(report, "artifacts") for note in sequence(artifact, "notes")]
    return said + [clean(note) for note in sequence(report, "notes") if note not in of_files]
