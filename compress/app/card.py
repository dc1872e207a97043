"""The model card: what the report knows, in Markdown, and nothing else."""

from collections.abc import Sequence

from compress.app.check import Agreement
from compress.app.graph import Preprocessing
from compress.app.templates import render
from compress.report import by_target, tables, words, zeros
from compress.report.fields import Report, clean, number, rows, text, value
from compress.report.formats import count, percent, size


def model_card(report: Report, preprocessing: Preprocessing, agreement: Agreement, labels: Sequence[str]) -> str:
    """What the model is, how it was made, how good, large and fast it is, and what is not known."""
    channels, height, width = preprocessing.shape
    return render(
        "MODEL_CARD.md.j2",
        title=markdown(words.title(report)),
        verdict=markdown(words.verdict(report)),
        classes=len(labels),
        first_classes=", ".join(markdown(label) for label in labels[:10]),
        shape=f"{height} x {width} pixels, {'grey' if channels == 1 else 'RGB'}",
        headline=[[markdown(cell) for cell in (f.label, f.dense, f.pruned, f.remark)] for f in words.headline(report)],
        bought=[(markdown(one.resource), markdown(one.sentence)) for one in zeros.bought(report)],
        tables=[
            (markdown(table.caption), _table(table))
            for table in (tables.gates(report), *(section.table for section in by_target.sections(report)))
            if table.rows
        ],
        files=[(markdown(text(a, "path")), size(number(a, "size_bytes"))) for a in rows(report, "artifacts")],
        made=made(report),
        environment=[
            f"{name} {markdown(text(report, 'environment', name))}"
            for name in ("compress", "torch", "onnxruntime", "python", "cpu")
            if text(report, "environment", name)
        ],
        data=markdown(text(report, "data", "name")),
        counts={part: count(number(report, "data", part)) for part in ("train", "held_out", "test")},
        caveats=[markdown(said) for said in words.caveats(report)],
        agreement=agreement,
    )


def made(report: Report) -> list[str]:
    """How the model was made, a sentence for each step of the recipe."""
    train = value(report, "recipe", "train") or {}
    weights = text(report, "recipe", "model", "weights")
    started = f"from the weights given ({markdown(weights)})" if weights else "from a random start"
    said = [
        f"Dense training: {text(train, 'epochs')} epochs of {text(train, 'optimizer')}, learning rate "
        f"{text(train, 'lr')}, {started}, seed {text(report, 'seed')}."
    ]
    for step in rows(value(report, "recipe") or {}, "prune"):
        forms = ("sparsity", "compression", "macs", "drop_points", "latency")
        budget = [f"{key} {markdown(found)}" for key in forms if (found := text(step, "budget", key))]
        if value(step, "budget", "keep"):
            budget.append("widths given layer by layer")
        goal = ", ".join(budget) or "no budget of its own"
        said.append(
            f"Pruning: {markdown(text(step, 'method'))} on {markdown(text(step, 'units'))} units, {goal}; "
            f"{text(step, 'epochs')} epochs and {text(step, 'finetune', 'epochs')} of retraining; what the "
            "zeros made dead was removed, exactly."
        )
    return said


def markdown(said: str) -> str:
    r"""A line in which nothing of a name is taken for Markdown or HTML.

    >>> markdown("a|b<c>\n`d`")
    'a\\|b&lt;c> \\`d\\`'
    """
    line = clean(said).replace("\\", "\\\\").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "|`*_[]#" else c for c in line)


def _table(table: tables.Table) -> list[list[str]]:
    """Columns and rows."""
    return [[markdown(str(cell)) for cell in row] for row in (table.columns, *table.rows)]


def accuracy(report: Report) -> str:
    """Of the pruned model on the test set, with its 95 % interval where there is one."""
    found, low, high = (number(report, "pruned", key) for key in ("accuracy", "accuracy_low", "accuracy_high"))
    interval = f" (95 % interval {percent(low)} to {percent(high)})" if low is not None and high is not None else ""
    return f"{percent(found)}{interval}"
