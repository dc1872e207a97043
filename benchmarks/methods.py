"""Every method at the same budget, from the same dense network, with the same number of training epochs in all.

    python benchmarks/methods.py [--seeds 0 1 2] [--only admm taylor]

Elements: LeNet-300-100, 98 % of the weights. Channels: LeNet-300-100 with batch normalisation, hidden units, to 10 %
of the multiply-accumulates. MNIST; 16 epochs for method and retraining together; defaults otherwise, nothing tuned. A
method that scores once retrains for all 16. One JSON row per run in results/methods; METHODS.md is made from them.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from reproduce import HERE, provenance

from compress import methods, recipe_text
from compress.pipeline import prune_and_export
from compress.progress import Display

RESULTS = HERE / "results" / "methods"
EPOCHS = 16

CASES: dict[str, dict[str, Any]] = {
    "element": {"model": {"name": "lenet300"}, "budget": {"sparsity": 0.98, "floor": 0.005}},
    "channel": {
        "model": {"name": f"{HERE / 'networks.py'}:NormedMLP"},
        "budget": {"macs": 0.1, "ranking": "normalised", "floor": 0.02},
    },
}

PLANS: dict[str, dict[str, Any]] = {
    "han": {"rounds": 4, "finetune": {"epochs": 4}},
    "lottery": {"rounds": 4, "rewind": 1, "finetune": {"epochs": 4}},
    "supermask": {"epochs": 8, "finetune": {"epochs": 8}},
    "sparsevd": {"epochs": 12, "finetune": {"epochs": 4}},
    "softshare": {"epochs": EPOCHS, "finetune": {"epochs": 0}},
    "dsd": {"epochs": EPOCHS, "finetune": {"epochs": 0}},
}
"""Steps of methods that are not one phase of their own and one of retraining."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=methods.names(), default=methods.names())
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for kind in CASES:
            for name in asked.only:
                file = RESULTS / f"{kind}-{name}-seed{seed}.json"
                method = methods.find(name)
                if kind in method.refuses or not method.meets_budget or file.exists():
                    continue
                file.write_text(json.dumps(run(kind, name, seed, asked.runs), indent=2) + "\n")
    (HERE / "METHODS.md").write_text(table())


def run(kind: str, name: str, seed: int, runs: Path) -> dict[str, Any]:
    """One run, as a row; the dense network of a seed is trained once."""
    case, method = CASES[kind], methods.find(name)
    own = 8 if method.epochs == 5 else method.epochs
    trained = own if method.trains else 0
    plan = PLANS.get(name, {"epochs": own, "finetune": {"epochs": EPOCHS - trained}})
    resolved = recipe_text.build(
        {
            "model": case["model"],
            "data": {"name": "mnist", "held_out": 5000},
            "train": {"epochs": 6},
            "prune": [{"method": name, "units": kind, "budget": case["budget"], **plan}],
            "export": {"formats": ["onnx"]},
            "validate": {"seconds": 1, "repeats": 3},
            "seed": seed,
        }
    )
    started = time.monotonic()
    report = prune_and_export(resolved, runs / f"{kind}-seed{seed}", Display(quiet=True))
    history = next(stage for stage in report["stages"] if stage["name"].startswith("prune-0"))
    row = {"kind": kind, "method": name, "seed": seed, "seconds": history["seconds"]}
    row["minutes"] = round((time.monotonic() - started) / 60, 2)
    return row | {"dense": report["dense"], "pruned": report["pruned"]} | provenance(report)


def table() -> str:
    """METHODS.md from all rows."""
    rows = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Every method at the same budget",
        "",
        "Made by `benchmarks/methods.py` from `results/methods/*.json`; its docstring says how. Accuracy is ONNX",
        "Runtime's on the whole test set, mean (worst) over the seeds and their standard deviation; `vs magnitude` is",
        "in percentage points.",
        "Defaults, nothing tuned: a method that needs hundreds of epochs cannot show itself here.",
    ]
    for kind in CASES:
        found = [row for row in rows if row["kind"] == kind]
        lines += ["", f"## {kind.capitalize()}s", "", *_section(found)]
    return "\n".join(lines) + "\n"


def _section(rows: list[dict[str, Any]]) -> list[str]:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    means = {name: mean(row["pruned"]["accuracy"] for row in found) for name, found in by_method.items()}
    base = means.get("magnitude")
    lines = [
        "| method | seeds | accuracy | sd | vs magnitude | MACs left | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted(means, key=lambda name: -means[name]):
        found = by_method[name]
        accuracies = [row["pruned"]["accuracy"] for row in found]
        spread = f"{100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        gain = f"{100 * (means[name] - base):+.2f}" if base is not None else ""
        macs = mean(row["pruned"]["macs"] / row["dense"]["macs"] for row in found)
        seconds = mean(row["seconds"] for row in found)
        seeds = ", ".join(str(row["seed"]) for row in found)
        accuracy = f"{means[name]:.2%} ({min(accuracies):.2%})"
        lines.append(f"| {name} | {seeds} | {accuracy} | {spread} | {gain} | {macs:.1%} | {seconds:.0f} |")
    if rows:
        dense = mean(row["dense"]["accuracy"] for row in rows)
        lines += ["", f"Dense: {dense:.2%}."]
    return lines


if __name__ == "__main__":
    main()
