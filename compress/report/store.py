"""report.json on disk: written whole or not at all, read with one clear line when it is not a report."""

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

from compress.errors import CompressError, RunError, UsageError
from compress.report.fields import Report

SCHEMA = 1


def write_json(report: Report, path: Path) -> None:
    """Write the report to `path`, indented by 2, keys in insertion order.

    Raises:
        CompressError: a value JSON cannot hold (NaN, infinity, an array); names where it is.
        RunError: the file cannot be written.
    """
    write_text(to_json(report), path)


def to_json(report: Report) -> str:
    """The report as JSON text, indented by 2, keys in insertion order.

    Raises:
        CompressError: a value JSON cannot hold (NaN, infinity, an array); names where it is.
    """
    _check(report, "")
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a report of schema 1.

    Raises:
        UsageError: the file is missing, unreadable, not JSON, or of another schema.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_json)
    except FileNotFoundError:
        raise UsageError(f"no report at {path}; name the report.json of a run directory") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name the report.json of a run directory") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error}); name the report.json of a run directory") from None
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA or not isinstance(report, dict) or isinstance(found, bool):
        raise UsageError(
            f"asked for a report of schema {SCHEMA}, {path} has {'none' if found is None else repr(found)}; "
            "name a report.json this version wrote, or use the version that wrote it"
        )
    return report


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text under a temporary name, then rename: `path` is never half a file.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", "replace"))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; make room or choose another place") from None


def _check(value: object, where: str) -> None:
    match value:
        case None | bool() | str() | int():
            return
        case float():
            if not math.isfinite(value):
                _refuse(where, f"{value}; unknown must be null")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    _refuse(where, f"keyed by {key!r}; keys must be strings")
                _check(item, f"{where}.{key}" if where else key)
        case list() | tuple():
            for index, item in enumerate(value):
                _check(item, f"{where}[{index}]")
        case _:
            _refuse(where, f"a {type(value).__name__}; a report holds plain numbers, strings, lists and mappings")


def _refuse(where: str, found: str) -> NoReturn:
    raise CompressError(f"internal error: {where or 'the report'} is {found}")


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")
