"""report.json's content, gathered from the payloads of the stages."""

import math
from typing import Any

from compress import cost, entropy
from compress.run import Payload, Run


def assemble(
    run: Run, environment: dict[str, Any], status: str | None = None, exit_code: int | None = None
) -> dict[str, Any]:
    """The report, schema 1, of a finished run or of one that ended early; what is unknown is None.

    Args:
        run: with the payloads of all stages that finished.
        environment: versions, CPU, threads.
        status: of a run that ended early.
        exit_code: of a run that ended early.
    """
    checked = run.payloads.get("validate", {})
    dense, pruned = run.payloads.get("dense"), _last_model(run)
    return {
        "schema": 1,
        "status": status or checked["status"],
        "exit_code": exit_code if status else 0 if checked["status"] == "passed" else 3,
        "recipe": run.recipe.to_dict(),
        "seed": run.recipe.seed,
        "metric": {"name": "custom" if run.data.metric else "top1", "higher_is_better": True},
        "environment": environment,
        "data": {
            "name": run.data.name,
            "train": len(run.data.train),
            "held_out": len(run.data.held_out),
            "test": len(run.data.test),
            "classes": list(run.data.classes),
        },
        "macs_convention": cost.MACS_CONVENTION,
        "dense": _model(dense, run.payloads, "dense.onnx") | checked.get("dense", {}),
        "pruned": _model(pruned, run.payloads, "model.onnx") | _savings(run, dense, pruned) | checked.get("pruned", {}),
        **{key: checked.get(key) for key in ("speedup", "speedup_low", "speedup_high", "speedup_claimed", "parity")},
        "speedups": checked.get("speedups", []),
        "compaction": _compaction(run),
        "gates": checked.get("gates", []),
        "artifacts": _artifacts(run, checked),
        "measurements": checked.get("measurements", []),
        "app": _app(run),
        "latency_budgets": [_timed(found, checked.get("measurements", [])) for found in run.latencies],
        "layers": _layers(dense, pruned),
        "stages": run.stages,
        "history": [_epoch(epoch) for payload in run.payloads.values() for epoch in payload.get("history", [])],
        "notes": run.directory.notes,
    }


def _timed(found: dict[str, Any], measurements: list[dict[str, Any]]) -> dict[str, Any]:
    """What was found for a budget of time, with what the trained network takes."""
    times: dict[str, float] = {}
    for measured in measurements:
        time = (measured["latency_ms"] or {}).get("p50", measured["instructions"])
        if measured["target"] == found["target"] and time is not None:
            times.setdefault(measured["artifact"].partition(".")[0], time)
    achieved = times["model"] / times["dense"] if {"model", "dense"} <= set(times) else None
    return {**found, "achieved_ratio": achieved, "achieved_time": times.get("model")}


def _last_model(run: Run) -> Payload | None:
    found = [payload for name, payload in run.payloads.items() if name.startswith(("prune-", "compact-", "retrain-"))]
    if not run.recipe.prune:
        return run.payloads.get("dense")
    return found[-1] if found else None


def _model(payload: Payload | None, payloads: dict[str, Payload], file: str) -> dict[str, Any]:
    if payload is None:
        return {}
    written = {artifact["path"]: artifact for artifact in payloads.get("export", {}).get("artifacts", [])}
    sizes = {key: written.get(file, {}).get(key) for key in ("size_bytes", "size_zip_bytes")}
    return {
        "weights": payload["weights"],
        "nonzero": sum(layer["nonzero"] for layer in payload["layers"].values()),
        "macs": payload["macs"],
        "held_out_accuracy": payload["accuracy"],
        **sizes,
    }


def _savings(run: Run, dense: Payload | None, pruned: Payload | None) -> dict[str, Any]:
    """Sparsity and compression, both against the dense weights."""
    if dense is None or pruned is None:
        return {}
    nonzero = sum(layer["nonzero"] for layer in pruned["layers"].values())
    sizes = {a["format"]: a["size_bytes"] for a in run.payloads.get("export", {}).get("artifacts", [])}
    return {
        "sparsity": 1 - nonzero / dense["weights"],
        "compression": dense["weights"] / nonzero if nonzero else None,
        "channels_removed": sum(part["channels_removed"] for part in _compactions(run)),
        "size_sparse_bytes": sizes.get("sparse"),
        "size_entropy_bytes": entropy.size_bytes(
            tensor.float().numpy() for tensor in pruned["state"].values() if tensor.is_floating_point()
        ),
    }


def _compactions(run: Run) -> list[dict[str, Any]]:
    return [payload["compaction"] for payload in run.payloads.values() if "compaction" in payload]


def _compaction(run: Run) -> dict[str, Any] | None:
    """All compactions of the run as one: worst errors, and widths from the dense model to the last."""
    parts = _compactions(run)
    if not parts:
        return None
    after = {layer["name"]: layer for layer in parts[-1]["layers"]}
    return {
        "max_error_relative": max(part["max_error_relative"] for part in parts),
        "dtype": min(part["dtype"] for part in parts),  # float32 before float64: the weaker proof
        "rewritten": any(part["rewritten"] for part in parts),
        "max_abs_error_shipped": max(part["max_abs_error_shipped"] for part in parts),
        "frozen_operators": sorted({name for part in parts for name in part["frozen_operators"]}),
        "layers": [
            {
                **layer,
                "in_after": after[layer["name"]]["in_after"],
                "out_after": after[layer["name"]]["out_after"],
            }
            for layer in parts[0]["layers"]
            if layer["name"] in after
        ],
    }


def _artifacts(run: Run, checked: dict[str, Any]) -> list[dict[str, Any]]:
    results = checked.get("artifacts", {})
    return [
        {**artifact, **results.get(artifact["path"], {})}
        for artifact in run.payloads.get("export", {}).get("artifacts", [])
    ]


def _app(run: Run) -> dict[str, Any] | None:
    """The app bundle: its folder, its files with their SHA-256, and how well its model agrees with model.onnx."""
    written = run.payloads.get("app")
    return {"path": "app", "files": written["files"], "agreement": written["agreement"]} if written else None


def _layers(dense: Payload | None, pruned: Payload | None) -> list[dict[str, Any]]:
    if dense is None or pruned is None:
        return []
    return [
        {
            "name": name,
            "weights_dense": before["weights"],
            "weights": pruned["layers"][name]["weights"],
            "nonzero": pruned["layers"][name]["nonzero"],
            "macs_dense": before["macs"],
            "macs": pruned["layers"][name]["macs"],
            "macs_nonzero": pruned["layers"][name]["macs_nonzero"],
        }
        for name, before in dense["layers"].items()
        if name in pruned["layers"]
    ]


def _epoch(epoch: dict[str, Any]) -> dict[str, Any]:
    kept = {key: epoch[key] for key in ("stage", "epoch", "loss", "accuracy", "sparsity", "seconds")}
    metrics = {name: float(value) for name, value in epoch["metrics"].items()}
    # JSON has no NaN, and a report is not to fail over what a method only logs.
    return {**kept, "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()}}
