"""Which file to ship: every file of the pruned network with what it costs where, and the choice in plain sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.report.fields import Report, clean, number, rows, sequence, text, value
from compress.report.formats import UNKNOWN, count, listing, ms, percent, points, ratio, scientific, size, span
from compress.report.words import NEARLY, accuracy_change, score
from compress.targets import APART

DENSE = "dense."
"""Beginning of the names of files of the unpruned network."""


@dataclass(frozen=True)
class Run:
    """What a target found for a file, as text; `takes` also says whether another file is faster there."""

    target: str
    takes: str
    speedup: str
    first: str
    load: str
    peak_memory: str


@dataclass(frozen=True)
class File:
    """A written file of the pruned network, as text; `runs` is never empty."""

    path: str
    format: str
    size: str
    accuracy: str
    change: str
    agreement: str
    runs: tuple[Run, ...]


def files(report: Report) -> list[File]:
    """Every written file of the pruned network."""
    candidates = _candidates(report)[0]
    return [
        File(
            text(artifact, "path") or UNKNOWN,
            text(artifact, "format") or UNKNOWN,
            size(number(artifact, "size_bytes")),
            score(report, number(artifact, "accuracy")),
            accuracy_change(report, number(artifact, "accuracy")) or UNKNOWN,
            _agreement(artifact),
            _runs(report, text(artifact, "path"), candidates),
        )
        for artifact in _pruned(report)
    ]


def notes(report: Report) -> list[tuple[str, str]]:
    """What the exporters say of their files: file, note."""
    return [(text(a, "path"), clean(note)) for a in rows(report, "artifacts") for note in sequence(a, "notes")]


def choice(report: Report) -> list[str]:
    """The smallest file that keeps the accuracy, and the fastest of those that keep it on each target."""
    candidates, keeping, allowed = _candidates(report)
    sized = [a for a in candidates if number(a, "size_bytes") is not None]
    said = []
    if sized:
        smallest = min(sized, key=lambda a: number(a, "size_bytes") or 0.0)
        found = f"{text(smallest, 'path')}, {size(number(smallest, 'size_bytes'))}"
        if not allowed:
            said.append(f"Smallest file: {found}. Accuracy was not measured.")
        elif keeping:
            accuracy = score(report, number(smallest, "accuracy"))
            said.append(f"Smallest file that keeps the accuracy ({allowed}): {found}, accuracy {accuracy}.")
        else:
            said.append(f"No file keeps the accuracy ({allowed}). Smallest file: {found}.")
    if any(text(a, "path").endswith(".c") for a in sized):
        said.append("The size of a .c file is of its text, not of the compiled network.")
    targets = dict.fromkeys(text(m, "target") for m in rows(report, "measurements"))
    return said + [sentence for target in targets if (sentence := _fastest(report, target, candidates))]


def speedup(report: Report, target: str, artifact: str) -> Report:
    """The entry of `speedups` for a file on a target, empty where there is none."""
    found = (s for s in rows(report, "speedups") if (text(s, "target"), text(s, "artifact")) == (target, artifact))
    return next(found, {})


def speedup_cell(found: Report) -> str:
    """A speed-up with its spread; none where the spread is not apart from 1, and a ratio of counts has no spread.

    >>> speedup_cell({"value": 2.0, "low": 1.9, "high": 2.1}), speedup_cell({"value": 1.02, "low": 0.96, "high": 1.1})
    ('2.00× (1.90 to 2.10×)', 'none (0.960 to 1.10×)')
    >>> speedup_cell({"value": 3.6, "low": None, "high": None})
    '3.60× (counted)'
    """
    times, low, high = (number(found, key) for key in ("value", "low", "high"))
    if low is None or high is None:
        return UNKNOWN if times is None else f"{ratio(times)} (counted)"
    return f"{ratio(times) if low > APART or high < 1 / APART else 'none'} ({span(low, high)})"


def takes(measurement: Report) -> str:
    """Median latency; where there is none the instructions, the largest difference, or what went wrong.

    >>> takes({"instructions": 1218445}), takes({"max_abs": 3.7e-9}), takes({"status": "failed"})
    ('1,218,445 instructions', 'largest difference 3.7e-09', 'failed')
    """
    p50, instructions = number(measurement, "latency_ms", "p50"), number(measurement, "instructions")
    if p50 is not None:
        return ms(p50)
    if instructions is not None:
        return f"{count(instructions)} instructions"
    difference = number(measurement, "max_abs")
    if difference is not None:
        return f"largest difference {scientific(difference)}"
    return text(measurement, "status") or UNKNOWN


def _pruned(report: Report) -> list[Report]:
    return [a for a in rows(report, "artifacts") if not text(a, "path").startswith(DENSE)]


def _agreement(artifact: Report) -> str:
    agreement = number(artifact, "parity", "top1_agreement")
    said = scientific(number(artifact, "parity", "max_abs")) if agreement is None else percent(agreement)
    return f"{said}, parity FAILED" if value(artifact, "parity", "passed") is False else said


def _candidates(report: Report) -> tuple[list[Report], bool, str]:
    """Files to choose from, whether they keep the accuracy, and how much lower it may be in words."""
    equal = [a for a in _pruned(report) if value(a, "parity", "passed") is not False]
    keeping, allowed = _keeping(report, equal)
    return keeping or equal, bool(keeping), allowed


def _runs(report: Report, path: str, candidates: Sequence[Report]) -> tuple[Run, ...]:
    found = tuple(
        Run(
            text(m, "target") or UNKNOWN,
            takes(m) + _standing(report, text(m, "target"), path, candidates),
            speedup_cell(speedup(report, text(m, "target"), path)),
            ms(number(m, "first_ms")),
            ms(number(m, "load_ms")),
            size(number(m, "peak_memory_bytes")),
        )
        for m in rows(report, "measurements")
        if text(m, "artifact") == path
    )
    return found or (Run("not measured", *[UNKNOWN] * 5),)


def _keeping(report: Report, files: Sequence[Report]) -> tuple[list[Report], str]:
    """Files whose accuracy is kept, and how much lower it may be in words; empty where no accuracy is known.

    The gate says how much where there is one, else the dense network's 95 % interval.
    """
    dense, low = number(report, "dense", "accuracy"), number(report, "dense", "accuracy_low")
    scored = [(a, accuracy) for a in files if (accuracy := number(a, "accuracy")) is not None]
    if dense is None or not scored:
        return [], ""
    limits = [number(g, "limit") for g in rows(report, "gates") if text(g, "name") == "max_accuracy_drop_points"]
    if limits and limits[0] is not None:
        allowed, source = limits[0] / 100, "the gate"
    else:
        allowed, source = (dense - low, "its 95 % interval") if low is not None else (0.0, "")
    sign = -1 if value(report, "metric", "higher_is_better") is False else 1
    # the gate's own comparison: a drop of exactly the limit is kept, whatever binary fractions make of it
    kept = [a for a, accuracy in scored if sign * (dense - accuracy) <= allowed + 1e-9]
    worse = f"at most {points(allowed)} worse than" if source else "no worse than"
    return kept, f"{worse} the dense network" + (f", as {source} allows" if source else "")


def _timed(report: Report, target: str, candidates: Sequence[Report]) -> dict[str, float]:
    """Median latencies on a target, in the order of the files."""
    found = {
        text(m, "artifact"): p50
        for m in rows(report, "measurements")
        if text(m, "target") == target and (p50 := number(m, "latency_ms", "p50")) is not None
    }
    return {name: found[name] for a in candidates if (name := text(a, "path")) in found}


def _none_faster(report: Report, target: str, timed: dict[str, float]) -> list[str]:
    """The files that no other is clearly faster than; where spreads are not known, the one of the lowest median."""
    ratios = {name: speedup(report, target, name) for name in timed}
    best = min(timed, key=timed.__getitem__)
    if number(ratios[best], "low") is None:
        return [best]
    fastest = max(number(found, "low") or 0.0 for found in ratios.values())
    return [name for name in timed if APART * (number(ratios[name], "high") or 0.0) >= fastest]


def _standing(report: Report, target: str, path: str, candidates: Sequence[Report]) -> str:
    timed = _timed(report, target, candidates)
    if path not in timed or len(timed) == 1 or not number(speedup(report, target, path), "low"):
        return ""
    first = _none_faster(report, target, timed)
    return "" if path not in first else ", the fastest" if len(first) == 1 else ", one of the fastest"


def _fastest(report: Report, target: str, candidates: Sequence[Report]) -> str:
    """Which file is fastest on a target; empty where none was timed or counted there."""
    measured = [m for m in rows(report, "measurements") if text(m, "target") == target]
    dense = next((text(m, "artifact") for m in measured if text(m, "artifact").startswith(DENSE)), "the dense network")
    if timed := _timed(report, target, candidates):
        return _fastest_timed(report, target, timed, dense)
    names = {text(a, "path") for a in candidates}
    runs = [m for m in measured if text(m, "artifact") in names]
    counted = {text(m, "artifact"): n for m in runs if (n := number(m, "instructions")) is not None}
    if not counted:
        return ""
    best = min(counted, key=counted.__getitem__)
    times = number(speedup(report, target, best), "value")
    compared = f"; {dense} executes {ratio(times)} as many" if times is not None else ""
    return f"Fewest instructions on {target}: {best}, {count(counted[best])}{compared}."


def _fastest_timed(report: Report, target: str, timed: dict[str, float], dense: str) -> str:
    best, *equal = _none_faster(report, target, timed)
    ratios = speedup(report, target, best)
    low, high = (number(ratios, key) for key in ("low", "high"))
    measured, found = ratio(number(ratios, "value")), f"{best}, {ms(timed[best])}"
    if low is None or high is None:
        return f"Lowest median on {target}: {found}. No speed-up is claimed: it was not compared with {dense}."
    also = f" Equally fast within what was measured: {listing(equal)}." if equal else ""
    if low <= APART and high >= 1 / APART:
        near = "covers 1.0" if low <= 1.0 <= high else NEARLY
        return f"No speed-up on {target}: the spread of the fastest file, {found}, {near} ({span(low, high)}).{also}"
    if high < 1.0:
        slower = f"has {measured} the speed of {dense} ({span(low, high)})"
        return f"No speed-up on {target}: the fastest file, {found}, {slower}.{also}"
    return f"Fastest on {target}: {found}, {measured} faster than {dense} ({span(low, high)}).{also}"
