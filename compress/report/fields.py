"""Reading a report whose keys may be missing, null or of the wrong kind: what is not there is None."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def value(report: Report, *keys: str) -> Any:
    """Whatever lies under the nested keys, None where the path ends early.

    >>> value({"dense": {"macs": 7}}, "dense", "macs"), value({"dense": None}, "dense", "macs")
    (7, None)
    """
    found: Any = report
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def number(report: Report, *keys: str) -> float | None:
    """The finite number under the nested keys, else None.

    >>> number({"n": 3}, "n"), number({"n": "3"}, "n"), number({"n": True}, "n")
    (3.0, None, None)
    """
    found = value(report, *keys)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def text(report: Report, *keys: str) -> str:
    """The string or number under the nested keys, fit to print; empty where there is none."""
    found = value(report, *keys)
    return "" if found is None or isinstance(found, Mapping | list) else clean(found)


def clean(found: object) -> str:
    r"""One printable line: control characters of a name must reach neither a terminal nor a file.

    >>> clean("a\x1b[31m\nb")
    'a [31m b'
    """
    return "".join(c if c.isprintable() else " " for c in str(found))


def rows(report: Report, key: str) -> list[Report]:
    """The mappings of the list under `key`, empty where there is none."""
    return [row for row in sequence(report, key) if isinstance(row, Mapping)]


def sequence(report: Report, *keys: str) -> Sequence[Any]:
    """The list under the nested keys, empty where there is none."""
    found = value(report, *keys)
    return found if isinstance(found, list | tuple) else ()


def numbers(row: Report, key: str) -> list[float]:
    """The finite numbers of the list under `key`."""
    return [n for item in sequence(row, key) if (n := number({"n": item}, "n")) is not None]


def total(report: Report, key: str) -> float | None:
    """The sum of `key` over the layers, None unless every layer knows it."""
    parts = [number(layer, key) for layer in rows(report, "layers")]
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None
