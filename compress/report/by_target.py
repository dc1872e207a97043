"""What every target found: what it says of itself, and each of its files, dense and pruned."""

from collections.abc import Iterator
from dataclasses import dataclass

from compress.report.fields import Report, number, rows, text, value
from compress.report.formats import UNKNOWN, count, ms, percent, scientific, size
from compress.report.ship import speedup, speedup_cell
from compress.report.tables import Table, flat

WORDS = 2
"""Columns that hold words: the file and its status."""


@dataclass(frozen=True)
class Section:
    """A target: its name, the conditions common to its measurements, and the measurements."""

    target: str
    conditions: tuple[tuple[str, str], ...]
    table: Table


def sections(report: Report) -> list[Section]:
    """Every target, in the order measured."""
    found: dict[str, list[Report]] = {}
    for m in rows(report, "measurements"):
        found.setdefault(text(m, "target") or UNKNOWN, []).append(m)
    return [_section(report, i, target, measured) for i, (target, measured) in enumerate(found.items())]


def _section(report: Report, place: int, target: str, measured: list[Report]) -> Section:
    said = [dict(_conditions(m)) for m in measured]
    # what differs between the files is a column, flash for instance
    items = dict.fromkeys(item for one in said for item in one)
    common = {item: said[0][item] for item in items if all(one.get(item) == said[0].get(item) for one in said)}
    cells = [
        {**_cells(report, m), **{item.capitalize(): found for item, found in one.items() if item not in common}}
        for m, one in zip(measured, said, strict=True)
    ]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    body = [[row.get(column, UNKNOWN) for column in columns] for row in cells]
    known = [i for i, column in enumerate(zip(*body, strict=True)) if i < WORDS or set(column) != {UNKNOWN}]
    table = Table(
        f"target-{place}",
        f"Measured on {target}",
        tuple(columns[i] for i in known),
        tuple(tuple(row[i] for i in known) for row in body),
        words=WORDS,
    )
    return Section(target, tuple(common.items()), table)


def _conditions(measurement: Report) -> Iterator[tuple[str, str]]:
    yield "provider", text(measurement, "provider").removesuffix("ExecutionProvider") or UNKNOWN
    yield "threads", text(measurement, "threads") or UNKNOWN
    for name, found in flat(value(measurement, "device"), ""):
        if name.endswith("_bytes") and found.isdecimal():
            yield name.removesuffix("_bytes"), size(float(found))
        else:
            yield name, found


def _cells(report: Report, measurement: Report) -> dict[str, str]:
    target, file = text(measurement, "target"), text(measurement, "artifact")
    status = ": ".join(filter(None, (text(measurement, "status"), text(measurement, "reason"))))
    return {
        "File": file or UNKNOWN,
        "Status": status or UNKNOWN,
        **{p: ms(number(measurement, "latency_ms", p)) for p in ("p50", "p90", "p99")},
        "Spread": percent(number(measurement, "latency_ms", "spread"), 1),
        "Repeats": text(measurement, "latency_ms", "repeats") or UNKNOWN,
        "Instructions": count(number(measurement, "instructions")),
        "Against dense": speedup_cell(speedup(report, target, file)),
        "Largest difference": scientific(number(measurement, "max_abs")),
        "First run": ms(number(measurement, "first_ms")),
        "Load": ms(number(measurement, "load_ms")),
        "Peak memory": size(number(measurement, "peak_memory_bytes")),
    }
