"""Small-weight retention beside magnitude: accuracy right after pruning and after the same short retraining.

    OMP_NUM_THREADS=1 python benchmarks/retention.py

One row per network, seed, rate and arm in results/retention; a row whose file exists is not repeated, and the dense
network of a network and seed is trained once, into a run folder. RETENTION.md is made from all rows.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from compress import cost, machine, rounds
from compress.budget import Budget
from compress.data import load as load_data
from compress.descent import Optimization
from compress.masks import Masks
from compress.method import PruningMethod, Retrain, View
from compress.methods.magnitude import Magnitude
from compress.methods.retention import Retention
from compress.probe import TaskProbe
from compress.train import Task, derive, evaluate, to_device
from compress.units import ElementUnits
from compress_models import load as load_model

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "retention"


@dataclass(frozen=True)
class Setting:
    """How one network is trained: epochs of the dense one, and the images an epoch of scores or retraining reads."""

    title: str
    dense_epochs: int
    images: int


NETWORKS = {
    "lenet300": Setting("LeNet-300-100", dense_epochs=6, images=55_000),
    "lenet5": Setting("LeNet-5", dense_epochs=3, images=16_000),
}
RATES = (0.90, 0.95, 0.98, 0.99)
SEEDS = (0, 1, 2)
RETRAINING = Optimization(epochs=1, batch_size=128, lr=1e-3)
ARMS = ("magnitude", "random", "knapsack", "qubo", "scores")

TEXT = """# Small-weight retention

Made by `benchmarks/retention.py` from `results/retention/*.json`. MNIST, top-1 accuracy on the whole test set, mean
(worst) over seeds {seeds}. Weights are the units, with one budget over all layers (of the budget's forms the one that
serves magnitude best on these networks). All arms of a network and seed prune the same dense network at once, to
the same number of weights, and are retrained alike: {epochs} epoch, Adam at {lr:g} with a cosine, under the masks.

*magnitude* keeps the largest weights. Every other arm keeps the largest half of these and chooses the other half:
*random* (the control), or an optimiser that sees {samples:,} training images (second-order terms: {curvature}; at most
{iterations} steps), *scores* in one epoch. Knobs were chosen on held-out training images; test images decided nothing.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/retention"), help="where the dense networks go")
    asked = parser.parse_args()
    for name in asked.networks:
        for seed in asked.seeds:
            measure(name, seed, asked.runs)
    (HERE / "RETENTION.md").write_text(table(read()))


def measure(name: str, seed: int, runs: Path) -> None:
    """All rows of one network and seed that are still missing."""
    missing = [(r, arm) for r in RATES for arm in ARMS if not file_of(name, seed, r, arm).exists()]
    if not missing:
        return
    task, dense = dense_network(name, seed, runs)
    images = NETWORKS[name].images
    whole: Any = task.data.train
    few = replace(whole, images=whole.images[:images], labels=whole.labels[:images])
    short = replace(task, data=replace(task.data, train=few))
    for rate, arm in missing:
        task.model.load_state_dict(dense)
        row = {"network": name, "seed": seed, "rate": rate, "arm": arm, "dense": evaluate(task, task.data.test)}
        row |= one(short, method_of(arm, seed), rate, epochs=int(arm == "scores"))
        file = file_of(name, seed, rate, arm)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row | environment(), indent=2) + "\n")
        print(name, seed, rate, arm, row["pruned"], row["retrained"], row["seconds"], flush=True)


def file_of(name: str, seed: int, rate: float, arm: str) -> Path:
    return RESULTS / f"{name}-seed{seed}-{rate:.2f}-{arm}.json"


def method_of(arm: str, seed: int) -> PruningMethod:
    if arm == "magnitude":
        return Magnitude()
    return Retention(optimiser=arm, samples=1024, curvature=128, iterations=10, seed=seed)  # type: ignore[arg-type]


def dense_network(name: str, seed: int, runs: Path) -> tuple[Task, dict[str, Tensor]]:
    """The trained network, from the run folder if it is there."""
    data = load_data("mnist", held_out=5000, seed=derive(seed, "held out"))
    torch.manual_seed(derive(seed, "init"))
    task = Task(to_device(load_model(name), torch.device("cpu")), data, torch.device("cpu"), None, seed)
    file = runs / f"{name}-seed{seed}.pt"
    if not file.exists():
        rounds.training(task, "dense", Optimization(NETWORKS[name].dense_epochs, batch_size=128, lr=1e-3))
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(task.model.state_dict(), file)
    return task, torch.load(file, weights_only=True)


def one(task: Task, method: PruningMethod, rate: float, epochs: int) -> dict[str, Any]:
    """Prune, test, retrain, test."""
    view = view_of(task, Budget(sparsity=rate))
    with torch.no_grad():
        by_magnitude = view.select(view.units.scores(view.values), {})
    started = time.monotonic()
    pruning = rounds.Phase("prune", method, replace(RETRAINING, epochs=epochs), 1.0, True)
    masks = rounds.run_phases(task, [pruning], {}, view)
    seconds, pruned = time.monotonic() - started, evaluate(task, task.data.test)
    rounds.run_phases(task, [rounds.Phase("retrain", Retrain(), RETRAINING, 1.0, False)], masks, view)
    return {
        "pruned": pruned,
        "retrained": evaluate(task, task.data.test),
        "kept": cost.nonzero_count(task.model),
        "small": small(masks, by_magnitude),
        "seconds": round(seconds, 1),
        "method": asdict(method),
    }


def view_of(task: Task, budget: Budget) -> View:
    values, positions = dict(task.model.named_parameters()), cost.positions(task.model, (1, 28, 28))
    shapes = {name: values[name].shape for name in positions}
    units = ElementUnits(shapes, positions, cost.weight_count(task.model), cost.macs(task.model, (1, 28, 28)))
    return View(values, cost.prunable(task.model), units, budget, {}, lambda kept: kept, TaskProbe(task))


def small(masks: Masks, by_magnitude: Masks) -> float:
    """Fraction of the kept weights that magnitude would have deleted."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return sum(int((mask & ~by_magnitude[name]).sum()) for name, mask in masks.items()) / kept


def environment() -> dict[str, Any]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    here = {"cpu": machine.cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {"environment": here | {"commit": commit.stdout.strip()}}


Rows = Mapping[tuple[str, float, str], list[dict[str, Any]]]


def read() -> Rows:
    """All recorded rows by network, rate and arm."""
    rows: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for file in sorted(RESULTS.glob("*.json")):
        row = json.loads(file.read_text())
        rows.setdefault((row["network"], row["rate"], row["arm"]), []).append(row)
    return rows


def table(rows: Rows) -> str:
    """RETENTION.md."""
    every = [row for found in rows.values() for row in found]
    knobs = next(row["method"] for row in every if row["arm"] == "qubo")
    seeds = ", ".join(map(str, sorted({row["seed"] for row in every})))
    lines = [TEXT.format(seeds=seeds, epochs=RETRAINING.epochs, lr=RETRAINING.lr, **knobs).rstrip()]
    for name, setting in NETWORKS.items():
        dense = {row["seed"]: row["dense"] for row in every if row["network"] == name}
        if not dense:
            continue
        lines += [
            "",
            f"## {setting.title}",
            "",
            f"Dense, {setting.dense_epochs} epochs: {percent(list(dense.values()))}. An epoch of scores or retraining "
            f"reads {setting.images:,} images.",
        ]
        for title, cell in CELLS.items():
            lines += ["", f"| {title} | {' | '.join(ARMS)} |", "| --- " * (len(ARMS) + 1) + "|"]
            for rate in RATES:
                cells = [cell(found) if (found := rows.get((name, rate, arm))) else "not run" for arm in ARMS]
                lines.append(f"| {rate:.0%} | {' | '.join(cells)} |")
    cpus = sorted({f"{row['environment']['cpu']}, {row['environment']['threads']} thread" for row in every})
    lines += ["", f"Machine: {'; '.join(cpus)}, with other work beside: compare the seconds with each other only."]
    return "\n".join(lines) + "\n"


def percent(figures: list[float]) -> str:
    return f"{mean(figures):.2%} ({min(figures):.2%})"


CELLS: Mapping[str, Callable[[list[dict[str, Any]]], str]] = {
    "right after pruning": lambda rows: percent([row["pruned"] for row in rows]),
    "after retraining": lambda rows: percent([row["retrained"] for row in rows]),
    "kept that magnitude deletes": lambda rows: f"{mean(row['small'] for row in rows):.1%}",
    "seconds to choose": lambda rows: f"{mean(row['seconds'] for row in rows):.0f}",
}


if __name__ == "__main__":
    main()
