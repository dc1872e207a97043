"""The report on a terminal: what came out, what each zero bought, which gate failed, where the files are."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.report import ship, tables, words, zeros
from compress.report.fields import Report, clean, number, rows, text
from compress.report.formats import UNKNOWN, size

MAX_WIDTH = 100
STYLE: dict[words.Outcome, str] = {
    "passed": "bold green",
    "gate_failed": "bold red",
    "failed": "bold red",
    "interrupted": "bold yellow",
    "unknown": "bold yellow",
}
# for a stream that cannot carry the typographic signs
ASCII = str.maketrans({"\u2013": "-", "\u00d7": "x"})


def summary(report: Report, console: Console, directory: Path | None = None) -> None:
    """Print the report, `directory` before the names of its files; plain lines where there is no terminal."""
    ended = words.outcome(report)
    label = ": ".join(filter(None, (words.OUTCOME_LABEL[ended], ", ".join(words.failed_gates(report)))))
    _print(console, Text.assemble((label, STYLE[ended]), " - ", words.title(report)))
    _print(console, Text(words.verdict(report)))
    headline = [(f.label, f.dense, f.pruned, f.remark) for f in words.headline(report)]
    _table(console, ("", "dense", "pruned", ""), headline)
    _table(console, ("What each zero bought", ""), [(one.resource, one.sentence) for one in zeros.bought(report)])
    files = [(file.path, file.size, file.accuracy, _measured(file)) for file in ship.files(report)]
    _table(console, ("Which file should I ship?", "size", "accuracy", "measured"), files)
    _table(console, ("In short",), [(said,) for said in ship.choice(report)])
    gates = tables.gates(report)
    _table(console, gates.columns, gates.rows)
    times = tables.latency_budgets(report)
    _table(console, times.columns[1:5], [row[1:5] for row in times.rows])
    _table(console, ("To know",), [(said,) for said in [*words.caveats(report), *_notes(report)]])
    _table(console, ("Files", ""), _files(report, directory))


def _measured(file: ship.File) -> str:
    said = (("" if run.speedup == UNKNOWN else f", speed-up {run.speedup}") for run in file.runs)
    return "; ".join(f"{run.target} {run.takes}{speedup}" for run, speedup in zip(file.runs, said, strict=True))


def _notes(report: Report) -> list[str]:
    return [f"{path}: {note}" for path, note in ship.notes(report)]


def _files(report: Report, directory: Path | None) -> list[tuple[str, str]]:
    written = [(text(a, "path"), size(number(a, "size_bytes"))) for a in rows(report, "artifacts")]
    if bundle := text(report, "app", "path"):
        written.append((f"{bundle}/", "the model with its preprocessing, programs and a model card"))
    named = [*written, ("report.html", ""), ("report.json", "")] if directory else written
    return [(clean(directory / path) if directory else path, stored) for path, stored in named]


def _table(
    console: Console,
    columns: Sequence[str],
    body: Iterable[Sequence[str]],
    *,
    words: int | None = None,
    widest: int = MAX_WIDTH,
) -> None:
    """Print a table; columns after the first `words` hold numbers: at the right, and never folded."""
    lines = list(body)
    if not lines:
        return
    # a table of numbers needs the room for its words
    gap = 3 if words is None else 2
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for place, column in enumerate(columns):
        number = words is not None and place >= words
        table.add_column(_sign(console, column), overflow="fold", justify="right" if number else "left", no_wrap=number)
    for line in lines:
        table.add_row(*(_cell(console, cell) for cell in line))
    console.print()
    console.print(table, width=min(widest, console.width))


def _cell(console: Console, said: str) -> Text:
    # Text, never markup: a class may be called [bold]
    return Text(_sign(console, said), style={"FAILED": "bold red", "met": "green"}.get(said, ""))


def _print(console: Console, line: Text) -> None:
    line.plain = _sign(console, line.plain)
    console.print(line, width=min(MAX_WIDTH, console.width))


def _sign(console: Console, said: str) -> str:
    if console.encoding.startswith("utf"):
        return said
    return said.translate(ASCII).encode(console.encoding, "replace").decode(console.encoding)
