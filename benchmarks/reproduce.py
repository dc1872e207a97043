"""Run a recipe over several seeds and record what ONNX Runtime measured: one row per run, resumable.

    python benchmarks/reproduce.py lenet5-mnist-admm-paper --seeds 0 1 2

Each run leaves results/NAME-seedN.json with its command, commit, versions, machine, minutes and figures; a run whose
file exists is not repeated. What --set changes in the recipe is in the name, NAME+KEY=VALUE-seedN.json. RESULTS.md is
made from all these files, published figures and goals beside ours; a run of a changed recipe has a row of its own.
"""

import argparse
import functools
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from goals import GOALS, PUBLISHED, TRIED, Means

from compress import recipe_text
from compress.builtin_recipes import builtin
from compress.cost import MACS_CONVENTION
from compress.pipeline import prune_and_export
from compress.progress import Display

HERE = Path(__file__).parent

APART = ("device", "precision", "cuda_graphs", "data.root", "data.workers", "export", "validate", "app")
"""Keys that say where and how precisely a run computes and what it writes: the recipe stays what it is."""

HEADER = """# Results

Made by `benchmarks/reproduce.py` from `results/*.json`. Accuracies are ONNX Runtime's on the whole test set, mean
(worst) over the seeds; whether a goal is met is computed from the means over the seeds there are. Rows that were
trained before `finetune.compacted` existed retrained under masks; which did, and what else differs from the recipes
of today, stands below the table. lenet5-mnist-admm-paper, lenet300-mnist-80x, lenet5-mnist-padmm-sigmoid,
lenet5-mnist-310x, lenet5-mnist-400x and the price per weight of lenet300-mnist-padmm were chosen with test figures of
one seed in view. Speed-ups are dense p50 / pruned p50, interleaved, one thread, mean over the seeds; those of the
rows trained on a GPU, of LeNet-5 at 310x, at 400x and with sigmoids, Deep Compression, lottery tickets and GDP on
VGG-16 were timed beside other trainings; the minutes of VGG-16 include some in which it waited. The sparse file is
`model.sparse.onnx`. The entropy-coded size is what Huffman codes of the same weights would take: no file of this size
is written; rows without it are older than the figure.
"""

COLUMNS = (
    *("recipe", "goal", "verdict", "published", "seeds", "dense", "pruned", "compression", "MACs left", "speed-up"),
    *("sparse file", "entropy-coded, no file", "minutes"),
)

Row = dict[str, Any]
Groups = dict[tuple[str, str], list[Row]]
"""Rows by recipe and by what was changed in it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(builtin()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="where the run directories go")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    for seed in asked.seeds:
        result = HERE / "results" / f"{stem(asked.name, seed, asked.assignments)}.json"
        if not result.exists():
            row = run(asked.name, seed, asked.runs, asked.assignments)
            result.parent.mkdir(exist_ok=True)
            result.write_text(json.dumps(row, indent=2) + "\n")
    (HERE / "RESULTS.md").write_text(table())


def stem(name: str, seed: int, assignments: list[str]) -> str:
    """Name of a run's files: an overridden run never has that of the recipe."""
    said = "".join(f"+{without_folders(each)}" for each in sorted(assignments) if not each.startswith(APART))
    return re.sub(r"[^\w.+=-]", "_", f"{name}{said}-seed{seed}")


def run(name: str, seed: int, runs: Path, assignments: list[str]) -> Row:
    """One run, as a row."""
    overrides = {**dict(map(recipe_text.parse_assignment, assignments)), "seed": seed}
    resolved = recipe_text.build(recipe_text.override(recipe_text.read(name), overrides))
    started = time.monotonic()
    report = prune_and_export(resolved, runs / stem(name, seed, assignments), Display())
    seconds = sum(stage["seconds"] for stage in report["stages"])
    return {
        "name": name,
        "seed": seed,
        **provenance(report),
        "minutes": round(seconds / 60, 2),
        "minutes_this_call": round((time.monotonic() - started) / 60, 2),
        "dense": report["dense"],
        "pruned": report["pruned"],
        "speedup": [report["speedup"], report["speedup_low"], report["speedup_high"]],
        "compaction": {key: value for key, value in (report["compaction"] or {}).items() if key != "layers"},
        "parity": report["parity"],
        "layers": report["layers"],
    }


def provenance(report: dict[str, Any]) -> Row:
    """What a figure needs to be believed: command, commit, versions, machine, every knob."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    found = {"command": command, "commit": commit, "environment": report["environment"], "recipe": report["recipe"]}
    return {key: without_folders(value) for key, value in found.items()}


def without_folders(value: Any) -> Any:
    """The same with absolute paths cut to their last part: where files lay is nobody's business."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    return re.sub(r"(?<![^\s='\"])/\S*/", "", value) if isinstance(value, str) else value


def differences(row: Row) -> list[str]:
    """Settings of a run, KEY=VALUE, that are not its recipe's as it is now; keys that came later are no difference."""
    now = _settings(row["name"])
    return sorted(f"{key}={value}" for key, value in _flat(row["recipe"]) if key != "seed" and now.get(key) != value)


@functools.cache
def _settings(name: str) -> Row:
    return dict(_flat(recipe_text.build(recipe_text.read(name)).to_dict()))


def _flat(table: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "prune":
            yield "steps", len(value)
            yield from _flat({str(number): step for number, step in enumerate(value)}, "prune.")
        else:
            yield f"{prefix}{key}", value


def changes(row: Row) -> str:
    """Those that make it a run of another recipe."""
    return " ".join(found for found in differences(row) if not found.startswith(APART))


def table() -> str:
    """RESULTS.md from all result files; what was never run is marked so."""
    groups = _groups()
    lines = [HEADER, f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [_line(groups, name, changed) for name, changed in groups]
    rows = [row for found in groups.values() for row in found]
    environments = [row["environment"] for row in rows]
    machines = sorted({f"{e['cpu']}, {e['cores']} cores, {e['device']}, {e['precision']}" for e in environments})
    lines += ["", f"Machines: {'; '.join(machines)}. MACs: {MACS_CONVENTION}."]
    return "\n".join([*lines, "", *_how(rows), "", *_tried()]) + "\n"


def _groups() -> Groups:
    """Rows by recipe and by what was changed in it; a recipe that was never run has none."""
    found = [json.loads(file.read_text()) for file in sorted((HERE / "results").glob("*-seed*.json"))]
    names = list(dict.fromkeys([*PUBLISHED, *builtin(), *(row["name"] for row in found)]))
    groups: Groups = {(name, ""): [] for name in names}
    for row in found:
        groups.setdefault((row["name"], changes(row)), []).append(row)
    return dict(sorted(groups.items(), key=lambda group: (names.index(group[0][0]), group[0][1])))


def verdict(name: str, found: list[Row], rivals: list[Row]) -> str:
    """Whether rows of a recipe meet its goal, beside those of the recipe that the goal names, if it does."""
    if name not in GOALS:
        return ""
    goal = GOALS[name]
    if not found or (goal.rival and not rivals):
        return "not run"
    higher = not goal.rival or round(_means(found).pruned - _means(rivals).pruned, 6) >= goal.above
    return "met" if goal.met(_means(found)) and higher else "missed"


def _verdict(groups: Groups, name: str, changed: str) -> str:
    rival = GOALS[name].rival if name in GOALS else None
    return verdict(name, groups[name, changed], groups.get((rival, changed), []) if rival else [])


def _means(found: list[Row]) -> Means:
    return Means(
        mean(row["dense"]["accuracy"] for row in found),
        mean(row["pruned"]["accuracy"] for row in found),
        mean(row["pruned"]["compression"] for row in found),
        mean(row["pruned"]["sparsity"] for row in found),
        mean(row["pruned"]["macs"] / row["dense"]["macs"] for row in found),
    )


def _line(groups: Groups, name: str, changed: str) -> str:
    label = f"{name}, changed: `{changed}`" if changed else name
    goal, found = GOALS[name].text if name in GOALS else "", groups[name, changed]
    cells = _cells(found) if found else ["not run", *[""] * (len(COLUMNS) - 5)]
    said = _verdict(groups, name, changed)
    return f"| {' | '.join([label, goal, said, PUBLISHED.get(name, 'none at this budget'), *cells])} |"


def _cells(found: list[Row]) -> list[str]:
    def accuracy(part: str) -> str:
        values = [row[part]["accuracy"] for row in found]
        return f"{mean(values):.2%} ({min(values):.2%})"

    def size(key: str) -> str:
        sizes = [row["pruned"].get(key) for row in found]
        return f"{mean(sizes) / 1000:.1f} kB" if all(sizes) else ""

    means = _means(found)
    return [
        ", ".join(str(row["seed"]) for row in found),
        accuracy("dense"),
        accuracy("pruned"),
        f"{means.compression:.1f}x",
        f"{means.macs:.1%}",
        f"{mean(row['speedup'][0] for row in found):.2f}x",
        size("size_sparse_bytes"),
        size("size_entropy_bytes"),
        f"{mean(row['minutes'] for row in found):.1f}",
    ]


def _how(rows: list[Row]) -> list[str]:
    """How rows came about that differ from running the recipe as it is now."""
    masked = [row for row in rows if not all("compacted" in step["finetune"] for step in row["recipe"]["prune"])]
    which = "all rows" if masked == rows else _named(masked)
    apart = sorted({found for row in rows for found in differences(row) if found.startswith(APART)})
    others = [row for row in rows if not row["command"].startswith("python benchmarks/reproduce.py")]
    return [
        "How rows differ from running the recipe today:",
        "",
        f"- Retrained under masks, before `finetune.compacted` existed: {which}.",
        *(f"- With `--set {found}`: {_named([row for row in rows if found in differences(row)])}." for found in apart),
        *(f"- By another command, {_named([row])}: `{without_folders(row['command'])}`." for row in others),
    ]


def _named(rows: list[Row]) -> str:
    seeds: dict[str, list[str]] = {}
    for row in rows:
        seeds.setdefault(row["name"], []).append(str(row["seed"]))
    return "; ".join(f"{name} ({', '.join(found)})" for name, found in seeds.items())


def _tried() -> list[str]:
    lines = ["## What else was tried", ""]
    lines += [
        "Seed 0 unless said; runs that are not in the table are not kept. Held-out images are training images.",
        "",
    ]
    for name, attempts in TRIED.items():
        lines += [f"- {name}", *(f"  - {attempt}" for attempt in attempts)]
    return lines


if __name__ == "__main__":
    main()
