"""The validate stage of a run: every exported file against PyTorch, on the test set, and on the targets."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from compress import machine, targets
from compress.onnx_file import session
from compress.recipe import ValidateSection
from compress.run import Payload, Run
from compress.train import evaluate
from compress.validate import accuracy, check_files, check_gates, parity
from compress_exporters import find

_BATCH = 250
_PARITY_BATCHES = 4
"""Parity is checked on the first 1,000 test images."""


def validate(run: Run, payload: Payload) -> Payload:
    """Parity, accuracy and latency of every exported file, and the gates."""
    asked = run.recipe.validate_

    def work() -> Payload:
        dense = run.payloads["dense"]
        models = {a["path"]: dense if a["path"].startswith("dense.") else payload for a in _artifacts(run)}
        results = {a["path"]: _check(run, a, models[a["path"]]) for a in _artifacts(run)}
        measurements, speedup = latency(run.directory.path, list(models), asked)
        figures = {part: _figures(run, results[f"{name}.onnx"], models[f"{name}.onnx"]) for part, name in _PARTS}
        for measured in measurements[:2]:
            part = "dense" if measured["artifact"].startswith("dense.") else "pruned"
            figures[part]["latency_ms"] = measured["latency_ms"]
        limits = asked.gates.model_dump(exclude_none=True)
        further = {
            name: result["accuracy"]
            for name, result in results.items()
            if name != "model.onnx" and not name.startswith("dense.")
        }
        gates = [
            *check_gates(limits, _gated(run, figures, speedup)),
            *check_files(limits, figures["dense"]["accuracy"], further),
        ]
        found = results["model.onnx"]["parity"]
        everything = found["passed"] and all(result["parity"]["passed"] for result in results.values())
        return {
            "status": "passed" if everything and all(gate.passed for gate in gates) else "gate_failed",
            **figures,
            "parity": found,
            "artifacts": results,
            "gates": [asdict(gate) for gate in gates],
            "measurements": measurements,
            **speedup,
        }

    depends = {
        "validate": asked.model_dump(mode="json"),
        "files": [a["sha256"] for a in _artifacts(run)],
        "runtime": [version("onnxruntime"), machine.cpu_name(), os.cpu_count()],
    }
    return run.stage("validate", "validate", depends, work)


_PARTS = (("dense", "dense"), ("pruned", "model"))
"""Part of the report -> the file that its accuracy is measured on."""


def _artifacts(run: Run) -> list[dict[str, Any]]:
    """What was exported, the dense network first."""
    return sorted(run.payloads["export"]["artifacts"], key=lambda a: not a["path"].startswith("dense."))


def _check(run: Run, artifact: dict[str, Any], payload: Payload) -> dict[str, Any]:
    """Parity with PyTorch, and the score on the whole test set, in the runtime that the file is for."""
    file = run.directory.path / artifact["path"]
    opened = session(file) if artifact["min_ort"] else find(artifact["format"]).load(file)
    batches = islice(run.data.test.batches(_BATCH), _PARITY_BATCHES)
    found = parity(opened, run.model(payload), batches, dtype=artifact["dtype"])
    score = accuracy(opened, run.data.test.batches(_BATCH), metric=run.data.metric)
    return {"parity": asdict(found), "accuracy": score.value, "interval": (score.low, score.high)}


def _figures(run: Run, result: dict[str, Any], payload: Payload) -> dict[str, Any]:
    low, high = result["interval"]
    return {
        "accuracy": result["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_torch": evaluate(run.task(run.model(payload)), run.data.test),
        "latency_ms": None,
    }


def latency(
    folder: Path, names: Sequence[str], asked: ValidateSection, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measurements on every target, and the speed-up on the first: dense and pruned interleaved in one run.

    Args:
        folder: of the files.
        names: of the files, the dense one first.
        asked: targets, threads and time.
        shapes: of inputs, by name, where a file leaves more open than its batch.

    Returns:
        The report's measurements, and its keys that begin with speedup.
    """
    measurements: list[dict[str, Any]] = []
    speedup: dict[str, Any] = dict.fromkeys(("speedup", "speedup_low", "speedup_high", "speedup_claimed"))
    speedups: list[dict[str, Any]] = []
    how = targets.Timing(asked.threads, asked.warm_up, asked.repeats, asked.seconds, shapes=shapes or {})
    for name in asked.targets:
        target = targets.find(name)
        files = [folder / file for file in names if file.endswith(target.SUFFIXES)]
        results, ratio = target.measure(files, how, name)
        measurements.extend(_written(result) for result in results)
        speedups.extend(_speedups(results, ratio))
        if ratio is not None and speedup["speedup"] is None:
            speedup = {
                "speedup": ratio.value,
                "speedup_low": ratio.low,
                "speedup_high": ratio.high,
                "speedup_claimed": ratio.claimed,
            }
    return measurements, {**speedup, "speedups": speedups}


def _written(measurement: targets.Measurement) -> dict[str, Any]:
    """The report's entry; speed-ups have a list of their own."""
    entry = asdict(measurement)
    del entry["speedup"]
    return entry


def _speedups(results: Sequence[targets.Measurement], second: targets.Speedup | None) -> list[dict[str, Any]]:
    """Of every file over the dense one on one target: of time with its spread, else of instructions, without.

    Args:
        results: of the target, in the order measured.
        second: speed-up of the second file, where the target knows no other.
    """
    if not results or not results[0].artifact.startswith("dense."):
        return []
    dense, *others = results
    found = []
    for i, other in enumerate(others):
        ratio = other.speedup or (second if i == 0 else None)
        if ratio is not None:
            known: dict[str, float | None] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        elif dense.instructions and other.instructions:
            known = {"value": dense.instructions / other.instructions, "low": None, "high": None}
        else:
            continue
        found.append({"target": other.target, "artifact": other.artifact, **known})
    return found


def _gated(run: Run, figures: dict[str, dict[str, Any]], speedup: dict[str, Any]) -> dict[str, float | None]:
    """Measured values by the names the gates read."""
    sizes = {a["path"]: a["size_bytes"] for a in run.payloads["export"]["artifacts"]}
    latency = figures["pruned"]["latency_ms"]
    return {
        "accuracy_drop_points": 100 * (figures["dense"]["accuracy"] - figures["pruned"]["accuracy"]),
        "latency_ms": latency["p50"] if latency else None,
        "size_kb": sizes["model.onnx"] / 1000,
        "speedup_low": speedup["speedup_low"],
    }
