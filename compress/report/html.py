"""report.html and the pages of ``inspect`` and ``sensitivity``: each one file that asks nothing of the network."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.report import by_target, coupling, inspection, plots, sensitivity, ship, svg, tables, words, zeros
from compress.report.fields import Report, clean, value
from compress.report.store import write_text


def write_html(report: Report, path: Path) -> None:
    """Write the page to `path`; the same report gives the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(render(report), path)


def render(report: Report) -> str:
    """The page as text. Every string of the report is escaped; what is missing is left out."""
    return _rendered(
        "report.html.j2",
        title=words.title(report),
        outcome=words.outcome(report),
        label=words.OUTCOME_LABEL[words.outcome(report)],
        verdict=words.verdict(report),
        failed=words.failed_gates(report),
        headline=words.headline(report),
        bought=zeros.bought(report),
        files=ship.files(report),
        choice=ship.choice(report),
        notes=ship.notes(report),
        caveats=words.caveats(report),
        drawn=_drawn(plots.sketches(report)),
        targets=by_target.sections(report),
        tables=[table for make in TABLES if (table := make(report)).rows],
        recipe=recipe_text(report),
    )


def write_inspection(report: Report, path: Path) -> None:
    """Write the page of ``compress inspect`` to `path`; the same answer gives the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(render_inspection(report), path)


def render_inspection(report: Report) -> str:
    """The page of ``compress inspect`` as text; every name is escaped."""
    from markupsafe import Markup

    return _rendered(
        "inspection.html.j2",
        title=inspection.title(report),
        verdict=inspection.verdict(report),
        totals=inspection.totals(report),
        headline=inspection.headline(report),
        picture=Markup(coupling.picture(report)),
        described=coupling.described(report),
        inexact=report["groups"] > report["groups_exact"],
        remarks=inspection.remarks(report),
        tables=inspection.tables(report, shown=coupling.NAMED),
        colours=coupling.COLOURS,
    )


def render_sensitivity(report: Report) -> str:
    """The page of ``compress sensitivity`` as text; every name is escaped."""
    return _rendered(
        "sensitivity.html.j2",
        title=sensitivity.title(report),
        verdict=sensitivity.verdict(report),
        slopes=sensitivity.slopes(report),
        headline=sensitivity.headline(report),
        drawn=_drawn(sensitivity.sketches(report)),
        remarks=sensitivity.remarks(report),
        tables=[sensitivity.curves(report)],
    )


def _drawn(sketches: Sequence[svg.Sketch]) -> list[tuple[svg.Sketch, str]]:
    from markupsafe import Markup

    return [(sketch, Markup(svg.inline(sketch))) for sketch in sketches]


def _rendered(template: str, **names: Any) -> str:
    # imported here so that the command line starts without a template engine
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("compress", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tied"] = tied
    return environment.get_template(template).render(**names)


TABLES = (
    tables.gates,
    tables.latency_budgets,
    tables.latency_widths,
    tables.models,
    tables.layers,
    tables.widths,
    tables.proof,
    tables.artifacts,
    tables.stages,
    tables.origin,
)


def tied(said: str) -> str:
    r"""Keep a number and its unit, and the ends of a spread, on one line.

    >>> tied("9 ms over 5 repeats") == "9\u00a0ms over 5 repeats"
    True
    """
    said = re.sub(r"(?<=\d) (?=(?:%|ms|s|min|h|B|[kMGT]B|[KMGT]|points)(?![A-Za-z]))", "\u00a0", said)
    return re.sub(r"(?<=\d) to (?=\d)", "\u00a0to\u00a0", said)


def recipe_text(report: Report) -> str:
    """The resolved recipe as TOML, nulls left out; empty when there is none."""
    import tomli_w

    recipe = _known(value(report, "recipe"))
    if not recipe or not isinstance(recipe, dict):
        return ""
    return "\n".join(clean(line) for line in tomli_w.dumps(recipe, multiline_strings=False).split("\n"))


def _known(found: Any) -> Any:
    if isinstance(found, dict):
        return {str(key): _known(item) for key, item in found.items() if item is not None}
    if isinstance(found, list | tuple):
        return [_known(item) for item in found if item is not None]
    return found
