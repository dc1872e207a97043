"""Run a recipe over several seeds and record what ONNX Runtime measured: one row per run, resumable.

    python benchmarks/reproduce.py lenet5-mnist-admm-paper --seeds 0 1 2

Each run leaves results/NAME-seedN.json with its command, commit, versions, machine, minutes and figures; a run whose
file exists is not repeated. RESULTS.md is made from all these files, published figures beside ours.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

from compress import recipe_text
from compress.builtin_recipes import builtin
from compress.cost import MACS_CONVENTION
from compress.pipeline import prune_and_export
from compress.progress import Display

HERE = Path(__file__).parent

PUBLISHED = {
    "lenet5-mnist-admm-paper": "71.2x at 99.2 % (Zhang et al. 2018; authors' README)",
    "lenet300-mnist-padmm": "97.43 % sparsity at 2.2 % error, network not stated (P-ADMM, Liu 2023)",
    "lenet300-mnist-padmm-sigmoid": "97.43 % sparsity at 2.2 % error, network not stated (P-ADMM, Liu 2023)",
    "lenet5-mnist-padmm": "99.50 % sparsity at 1 % error (P-ADMM, Liu 2023)",
    "lenet5-mnist-padmm-sigmoid": "99.50 % sparsity at 1 % error (P-ADMM, Liu 2023)",
    "lenet300-mnist-80x": "68x at 1.92 % error (SparseVD, Molchanov et al. 2017)",
    "lenet5-mnist-310x": "280x at 0.75 % error (SparseVD); 246x with almost no loss (progressive ADMM, Ye et al. 2019)",
    "lenet5-mnist-400x": "none known",
    "lenet5-mnist-deep-compression": "39x in bytes at 0.74 % error (Deep Compression, Han et al. 2016)",
    "lenet300-mnist-lottery": "accuracy kept to about 3.6 % of the weights (Frankle and Carbin 2019)",
    "vgg16-cifar10": "VGG-16-A: 93.25 % -> 93.40 %, 34.2 % fewer MACs (PFEC, Li et al. 2017)",
    "vgg16-cifar10-gdp": "35.3 % fewer MACs for 0.14 points (GDP, Wang et al. 2020)",
    "resnet56-cifar10-pfec-a": "93.04 % -> 93.10 %, 10.4 % fewer MACs (PFEC)",
    "resnet56-cifar10-pfec-b": "93.04 % -> 93.06 %, 27.6 % fewer MACs (PFEC)",
    "resnet110-cifar10-pfec-a": "93.53 % -> 93.55 %, 15.9 % fewer MACs (PFEC)",
    "resnet110-cifar10-pfec-b": "93.53 % -> 93.30 %, 38.6 % fewer MACs (PFEC)",
    "resnet34-imagenet-pfec-a": "73.23 % -> 72.56 %, 15.5 % fewer MACs (PFEC)",
    "resnet34-imagenet-pfec-b": "73.23 % -> 72.17 %, 24.2 % fewer MACs (PFEC)",
    "resnet34-imagenet-pfec-c": "73.23 % -> 72.48 %, 7.5 % fewer MACs (PFEC)",
    "alexnet-imagenet": "21x at 80.2 % top-5 (Zhang et al. 2018)",
    "alexnet-imagenet-conv": "13.4x in the convolutions, no accuracy lost (Zhang et al. 2018)",
}
"""What the literature gives for the recipe's budget."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(builtin()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="where the run directories go")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    for seed in asked.seeds:
        result = HERE / "results" / f"{asked.name}-seed{seed}.json"
        if not result.exists():
            row = run(asked.name, seed, asked.runs, asked.assignments)
            result.parent.mkdir(exist_ok=True)
            result.write_text(json.dumps(row, indent=2) + "\n")
    (HERE / "RESULTS.md").write_text(table())


def run(name: str, seed: int, runs: Path, assignments: list[str]) -> dict[str, Any]:
    """One run, as a row."""
    overrides = {**dict(map(recipe_text.parse_assignment, assignments)), "seed": seed}
    resolved = recipe_text.build(recipe_text.override(recipe_text.read(name), overrides))
    started = time.monotonic()
    report = prune_and_export(resolved, runs / f"{name}-seed{seed}", Display())
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


def provenance(report: dict[str, Any]) -> dict[str, Any]:
    """What a figure needs to be believed: command, commit, versions, machine, every knob."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    found = {"command": command, "commit": commit, "environment": report["environment"], "recipe": report["recipe"]}
    return {key: without_folders(value) for key, value in found.items()}


def without_folders(value: Any) -> Any:
    """The same with absolute paths cut to their last part: where files lay is nobody's business."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    return re.sub(r"(?<!\S)/\S*/", "", value) if isinstance(value, str) else value


def table() -> str:
    """RESULTS.md from all result files; what was never run is marked so."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in [*PUBLISHED, *builtin()]}
    for file in sorted((HERE / "results").glob("*-seed*.json")):
        row = json.loads(file.read_text())
        rows.setdefault(row["name"], []).append(row)
    lines = [
        "# Results",
        "",
        "Made by `benchmarks/reproduce.py` from `results/*.json`. Accuracies are ONNX Runtime's on the whole test set,",
        "mean (worst) over the seeds. lenet5-mnist-admm-paper, lenet300-mnist-80x, lenet5-mnist-padmm-sigmoid and the",
        "price per weight of lenet300-mnist-padmm were chosen with test figures of seed 0 in view. Speed-ups are dense",
        "p50 / pruned p50, interleaved, one thread, mean over the seeds; those of the rows trained on a GPU, of",
        "lenet5-mnist-padmm-sigmoid, Deep Compression and lottery tickets were timed beside other trainings.",
        "",
        "| recipe | published | seeds | dense | pruned | compression | MACs left | speed-up | sparse file | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in rows.items():
        cells = _cells(found) if found else ["not run", *[""] * 7]
        lines.append(f"| {name} | {PUBLISHED.get(name, 'none at this budget')} | {' | '.join(cells)} |")
    environments = [row["environment"] for found in rows.values() for row in found]
    machines = sorted({f"{e['cpu']}, {e['cores']} cores, {e['device']}, {e['precision']}" for e in environments})
    lines += ["", f"Machines: {'; '.join(machines)}. MACs: {MACS_CONVENTION}."]
    return "\n".join(lines) + "\n"


def _cells(found: list[dict[str, Any]]) -> list[str]:
    def accuracy(part: str) -> str:
        values = [row[part]["accuracy"] for row in found]
        return f"{mean(values):.2%} ({min(values):.2%})"

    macs = mean(row["pruned"]["macs"] / row["dense"]["macs"] for row in found)
    return [
        ", ".join(str(row["seed"]) for row in found),
        accuracy("dense"),
        accuracy("pruned"),
        f"{mean(row['pruned']['compression'] for row in found):.1f}x",
        f"{macs:.1%}",
        f"{mean(row['speedup'][0] for row in found):.2f}x",
        f"{mean(row['pruned']['size_sparse_bytes'] for row in found) / 1000:.1f} kB",
        f"{mean(row['minutes'] for row in found):.1f}",
    ]


if __name__ == "__main__":
    main()
