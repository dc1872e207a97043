"""Beside Torch-Pruning: the same pretrained ResNet, the same multiply-accumulates, the same fine-tuning, one report.

    python benchmarks/peers.py resnet20 --weights resnet20.safetensors --data-root ~/data --seeds 0 1 2

The peer prunes (see peers_networks.py), and the pipeline fine-tunes and exports what it gives; our arms get exactly
the multiply-accumulates that the peer ended with, and as many epochs over the training set in all. Accuracy is ONNX
Runtime's on the whole test set. All files of a seed are timed together, interleaved. Resumable; a row whose file
exists is not repeated. PEERS.md is made from results/peers/*.json.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

from reproduce import HERE, provenance
from torch import nn

from compress import cost, methods, recipe_text
from compress.cost import MACS_CONVENTION
from compress.pipeline import prune_and_export
from compress.progress import Display
from compress.targets import Timing
from compress.targets.local import measure
from compress_exporters import Request, find
from compress_models import load

SHAPE = (3, 32, 32)
RESULTS = HERE / "results" / "peers"

ARMS: dict[str, dict[str, Any]] = {
    "Torch-Pruning": {},
    "L1 norm (pfec)": {"method": "pfec", "epochs": 0, "budget": {"ranking": "normalised", "floor": 0.1}},
    "L1 norm, balanced": {"method": "pfec", "epochs": 0, "budget": {"ranking": "balanced"}},
    "L1 norm, balanced, distilled": {
        "method": "pfec",
        "epochs": 0,
        "budget": {"ranking": "balanced"},
        "distill": 0.5,
    },
    "ADMM, balanced": {"method": "admm", "epochs": 3, "budget": {"ranking": "balanced"}},
    "ThiNet, balanced": {"method": "thinet", "epochs": 0, "budget": {"ranking": "balanced"}},
    "taylor": {"method": "taylor", "epochs": 1},
    "taylor, distilled": {"method": "taylor", "epochs": 1, "distill": 0.5},
    "gdp": {"method": "gdp", "epochs": 1, "budget": {"floor": 0.1}},
}
"""The peer, and the step's keys of ours. Epochs that train count as fine-tuning epochs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["resnet20", "resnet56"])
    parser.add_argument("--weights", type=Path, required=True, help="pretrained, safetensors")
    parser.add_argument("--data-root", type=Path, required=True, help="where CIFAR-10 lies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--share", type=float, default=0.541, help="multiply-accumulates left")
    parser.add_argument("--epochs", type=int, default=8, help="training epochs of every arm, in all")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing all files of a seed; 0 leaves it out")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"))
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for arm in asked.arms:
            file = RESULTS / f"{asked.network}-{_slug(arm)}-seed{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(run(asked, arm, seed), indent=2) + "\n")
        if asked.seconds:
            time_together(asked, seed)
    (HERE / "PEERS.md").write_text(table())


def time_together(asked: argparse.Namespace, seed: int) -> None:
    """Latency of the pretrained network, the peer's and that of every arm there is a run of, interleaved.

    The peer's is exported as the peer pruned it: weights do not matter for time.
    """
    runs = {arm: asked.runs / f"{asked.network}-{_slug(arm)}-seed{seed}" for arm in asked.arms if ARMS[arm]}
    ours = {arm: folder / "model.onnx" for arm, folder in runs.items() if (folder / "model.onnx").exists()}
    if not ours:
        return
    peer = asked.runs / f"{asked.network}-torch-pruning.onnx"
    find("onnx").export(Request(_pruned_by_peer(asked), SHAPE), peer)
    files = {"dense": runs[next(iter(ours))] / "dense.onnx", "Torch-Pruning": peer, **ours}
    found, _ = measure(list(files.values()), Timing(threads=1, budget_seconds=asked.seconds), "local")
    medians = [m.latency_ms.p50 if m.latency_ms else None for m in found]
    row = {"network": asked.network, "seed": seed, "p50_ms": dict(zip(files, medians, strict=True))}
    (RESULTS / f"latency-{asked.network}-seed{seed}.json").write_text(json.dumps(row, indent=2) + "\n")


def run(asked: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """One arm of one seed, as a row."""
    started = time.monotonic()
    directory = asked.runs / f"{asked.network}-{_slug(arm)}-seed{seed}"
    report = prune_and_export(recipe_text.build(_table(asked, ARMS[arm], seed)), directory, Display())
    return {
        "network": asked.network,
        "arm": arm,
        "seed": seed,
        "epochs": asked.epochs,
        "lr": asked.lr,
        "share": asked.share,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "dense": report["dense"],
        "pruned": report["pruned"],
        **provenance(report),
    }


def _table(asked: argparse.Namespace, arm: dict[str, Any], seed: int) -> dict[str, Any]:
    """The arm as a recipe."""
    data = {"name": "cifar10", "root": str(asked.data_root), "held_out": 2000, "shift": 4, "flip": True}
    descent = {"optimizer": "sgd", "lr": asked.lr, "schedule": "cosine", "weight_decay": 5e-4, "batch_size": 128}
    common = {"data": data, "seed": seed, "validate": {"seconds": 1}}
    if not arm:
        options = {"weights": str(asked.weights), "share": asked.share}
        spec = f"{HERE / 'peers_networks.py'}:{asked.network}"
        return {**common, "model": {"name": spec, "options": options}, "train": {**descent, "epochs": asked.epochs}}
    step = {key: value for key, value in arm.items() if key not in ("distill", "budget")}
    trains = step["epochs"] if methods.find(step["method"]).trains else 0
    # Only the blocks' inner channels, as the peer does.
    budget = {"macs": _peers_macs(asked), "skip": ["conv1"], **arm.get("budget", {})}
    tune = {"epochs": asked.epochs - trains, "lr": asked.lr, "schedule": "cosine", "distill": arm.get("distill", 0.0)}
    step |= {"units": "channel", "budget": budget, "finetune": tune, "lr": asked.lr}
    model = {"name": asked.network, "weights": str(asked.weights)}
    return {**common, "model": model, "train": {**descent, "epochs": 0}, "prune": [step]}


def _peers_macs(asked: argparse.Namespace) -> int:
    """What the peer's network costs: the same for every seed, since its ranking reads the weights only."""
    return cost.macs(_pruned_by_peer(asked), SHAPE)


def _pruned_by_peer(asked: argparse.Namespace) -> nn.Module:
    from peers_networks import pruned

    return pruned(asked.network, str(asked.weights), asked.share)


def table() -> str:
    """PEERS.md from all rows."""
    rows = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("resnet*.json"))]
    lines = [
        "# Beside Torch-Pruning",
        "",
        "Made by `benchmarks/peers.py` from `results/peers/*.json`: the same pretrained weights, the same training",
        "epochs in all, the same optimizer, accuracy by ONNX Runtime on the whole test set, mean (worst) over the",
        "seeds; arms called distilled learn from the pretrained network as well. Speed-ups against the pretrained",
        "network, all files timed interleaved, one thread; runs of arms without one are not kept. Torch-Pruning",
        "prunes the inner channels of the residual blocks; on the others, whose shortcuts pad with zeros, it ends in",
        "an IndexError. By hand, without distillation: the smallest filters of the layer whose loss rises least, again",
        "and again (NetAdapt, Yang et al. 2018, without its short trainings), 89.93 % at 53.2 %, seed 0.",
        "",
        "| network | arm | seeds | epochs | MACs left | accuracy | speed-up |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for network in ("resnet20", "resnet56"):
        for arm in ARMS:
            found = [row for row in rows if (row["network"], row["arm"]) == (network, arm)]
            lines.append(
                f"| {network} | {arm} | {' | '.join(_cells(found) if found else ['not run', '', '', '', ''])} |"
            )
    return "\n".join([*lines, "", f"MACs: {MACS_CONVENTION}.", ""])


def _cells(found: list[dict[str, Any]]) -> list[str]:
    accuracies = [row["pruned"]["accuracy"] for row in found]
    dense = cost.macs(load(found[0]["network"]), SHAPE)
    return [
        ", ".join(str(row["seed"]) for row in found),
        ", ".join(sorted({str(row["epochs"]) for row in found})),
        f"{mean(row['pruned']['macs'] for row in found) / dense:.1%}",
        f"{mean(accuracies):.2%} ({min(accuracies):.2%})",
        _speedup(found[0]["network"], found[0]["arm"]),
    ]


def _speedup(network: str, arm: str) -> str:
    rows = [json.loads(file.read_text())["p50_ms"] for file in RESULTS.glob(f"latency-{network}-*.json")]
    ratios = [row["dense"] / row[arm] for row in rows if row.get(arm)]
    return f"{mean(ratios):.2f}x" if ratios else ""


def _slug(arm: str) -> str:
    return arm.lower().replace(",", "").replace(" ", "-").replace("(", "").replace(")", "")


if __name__ == "__main__":
    main()
