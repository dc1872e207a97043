"""Every method at the same budget, from the same dense network, with the same number of training epochs in all.

    python benchmarks/methods.py [--seeds 0 1 2] [--only admm taylor]

Elements: LeNet-300-100, 98 % of the weights. Channels: LeNet-300-100 with batch normalisation, hidden units, to 10 %
of the multiply-accumulates. MNIST; 16 epochs for method and retraining together; knobs at their defaults, and layers
ranked as the short form of the command does. A method that scores once retrains for all 16. dsd, whose outcome is
dense, has the budget of its paper. One JSON row per run in results/methods; METHODS.md is made from them.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from reproduce import HERE, provenance

from compress import methods, recipe_text
from compress.method import PruningMethod
from compress.pipeline import prune_and_export
from compress.progress import Display
from compress.question import asked
from compress.recipe import Recipe

RESULTS = HERE / "results" / "methods"
EPOCHS = 16


def short_form(kind: str) -> str:
    """How the short form of the command compares layers."""
    words = {"model": "lenet300", "data": "mnist", "method": "magnitude", "units": kind, "macs": 0.1}
    return asked(None, [], words).prune[0].budget.ranking


CASES: dict[str, dict[str, Any]] = {
    "element": {"model": {"name": "lenet300"}, "budget": {"sparsity": 0.98, "floor": 0.005}},
    "channel": {
        "model": {"name": f"{HERE / 'networks.py'}:NormedMLP"},
        "budget": {"macs": 0.1},
    },
}
for _kind, _case in CASES.items():
    _case["budget"]["ranking"] = short_form(_kind)

PLANS: dict[str, dict[str, Any]] = {
    "han": {"rounds": 4, "finetune": {"epochs": 4}},
    "lottery": {"rounds": 4, "rewind": 1, "finetune": {"epochs": 4}},
    "supermask": {"epochs": 8, "finetune": {"epochs": 8}},
    "sparsevd": {"epochs": 12, "finetune": {"epochs": 4}},
    "softshare": {"epochs": EPOCHS, "finetune": {"epochs": 0}},
    "dsd": {
        **{"epochs": EPOCHS, "schedule": "step", "finetune": {"epochs": 0}},
        "budget": {"sparsity": 0.3, "scope": "layer"},
    },
}
"""Steps of methods that are not one phase of their own and one of retraining under the case's budget."""

VARIANTS = {"gradual-obd": {"criterion": "obd"}}
"""Knobs worth a row of their own, by METHOD-WHAT."""

NAMES = [*methods.names(), *VARIANTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for kind in CASES:
            for name in given.only:
                file = RESULTS / f"{kind}-{CASES[kind]['budget']['ranking']}-{name}-seed{seed}.json"
                if has_place(kind, name) and not file.exists():
                    file.write_text(json.dumps(run(kind, name, seed, given.runs), indent=2) + "\n")
    (HERE / "METHODS.md").write_text(table())


def method_of(name: str) -> type[PruningMethod]:
    """The method of a row."""
    return methods.find(name.partition("-")[0])


def has_place(kind: str, name: str) -> bool:
    """Whether a method is measured: one that meets no budget only with a plan, on single weights as in its paper."""
    method = method_of(name)
    return kind not in method.refuses and (method.meets_budget or (kind == "element" and name in PLANS))


def recipe(kind: str, name: str, seed: int) -> Recipe:
    """What a run does."""
    case, method = CASES[kind], method_of(name)
    own = 8 if method.epochs == 5 else method.epochs
    trained = own if method.trains else 0
    plan, knobs = PLANS.get(name, {"epochs": own, "finetune": {"epochs": EPOCHS - trained}}), VARIANTS.get(name, {})
    return recipe_text.build(
        {
            "model": case["model"],
            "data": {"name": "mnist", "held_out": 5000},
            "train": {"epochs": 6},
            "prune": [{"method": name.partition("-")[0], "units": kind, "budget": case["budget"], **plan, **knobs}],
            "export": {"formats": ["onnx"]},
            "validate": {"seconds": 1, "repeats": 3},
            "seed": seed,
        }
    )


def run(kind: str, name: str, seed: int, runs: Path) -> dict[str, Any]:
    """One run, as a row; the dense network of a seed is trained once."""
    started = time.monotonic()
    report = prune_and_export(recipe(kind, name, seed), runs / f"{kind}-seed{seed}", Display(quiet=True))
    found = provenance(report)
    row = {"kind": kind, "ranking": ranking(found), "method": name, "seed": seed}
    row["seconds"] = sum(s["seconds"] for s in report["stages"] if s["name"].startswith(("prune-0", "retrain-0")))
    row["minutes"] = round((time.monotonic() - started) / 60, 2)
    return row | {"dense": report["dense"], "pruned": report["pruned"]} | found


def ranking(row: dict[str, Any]) -> str:
    """How a run compared layers."""
    found: str = row["recipe"]["prune"][0]["budget"]["ranking"]
    return found


HEADER = """# Every method at the same budget

Made by `benchmarks/methods.py` from `results/methods/*.json`; its docstring says how. Accuracy is ONNX Runtime's on the
whole test set, mean (worst) over the seeds and their standard deviation; `vs magnitude` is in percentage points.
Knobs at their defaults, nothing tuned: a method that needs hundreds of epochs cannot show itself here, and one seed
tells apart no more than large differences. `snip` is measured on the trained network like all others, where its own
text says that it is meant for the untrained one. `gradual-obd` is `gradual` with `criterion = "obd"`.
"""


def table() -> str:
    """METHODS.md from all rows."""
    rows = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    lines = [HEADER]
    for kind, case in CASES.items():
        now = case["budget"]["ranking"]
        for by in dict.fromkeys([now, *(ranking(row) for row in rows if row["kind"] == kind)]):
            lines += [f"## {kind.capitalize()}s, ranking `{by}`", ""]
            if by != now:
                lines += [f"Measured when layers were compared `{by}`; `--units {kind}` takes `{now}` now.", ""]
            found = [row for row in rows if (row["kind"], ranking(row)) == (kind, by)]
            missing = [n for n in NAMES if has_place(kind, n) and n not in {row["method"] for row in found}]
            if found:
                lines += [*_section(found), ""]
            if missing:
                lines += [f"Not run: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def _section(rows: list[dict[str, Any]]) -> list[str]:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    whole = {name: by_method.pop(name) for name in list(by_method) if not method_of(name).meets_budget}
    dense = mean(row["dense"]["accuracy"] for row in rows)
    notes = [
        f"{name}, dense again at its end after {EPOCHS} epochs more: {_accuracy(found)}, seeds {_seeds(found)}."
        for name, found in whole.items()
    ]
    return [*_ranked(by_method), "", " ".join([f"Dense: {dense:.2%}.", *notes])]


def _ranked(by_method: dict[str, list[dict[str, Any]]]) -> list[str]:
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
        cells = [name, _seeds(found), _accuracy(found), spread, gain, f"{macs:.1%}", f"{seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _accuracy(found: list[dict[str, Any]]) -> str:
    accuracies = [row["pruned"]["accuracy"] for row in found]
    return f"{mean(accuracies):.2%} ({min(accuracies):.2%})"


def _seeds(found: list[dict[str, Any]]) -> str:
    return ", ".join(str(row["seed"]) for row in found)


if __name__ == "__main__":
    main()
