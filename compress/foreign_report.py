"""report.json of a run on an ONNX file: the keys of every run, None where a file cannot tell."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from compress import cost

if TYPE_CHECKING:
    from compress.foreign_run import Work

_MODEL = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_torch", "held_out_accuracy", "latency_ms")


def assemble(
    work: "Work", environment: dict[str, Any], status: str | None = None, exit_code: int | None = None
) -> dict[str, Any]:
    """The report, schema 1, of finished work or of one that ended early.

    Args:
        work: with all that is known by now.
        environment: versions, CPU.
        status: of work that ended early.
        exit_code: of work that ended early.
    """
    checked, data = work.checked, work.data
    results = checked.get("results", {})
    return {
        "schema": 1,
        "status": status or checked["status"],
        "exit_code": exit_code if status else 0 if checked["status"] == "passed" else 3,
        "recipe": work.asked.to_dict(),
        "seed": None,
        "metric": {"name": None if data is None else "custom" if data.metric else "top1", "higher_is_better": True},
        "environment": environment | {"threads": work.asked.validate.threads},
        "data": None if data is None else {"name": data.name, "test": len(data.test), "classes": list(data.classes)},
        "macs_convention": cost.MACS_CONVENTION,
        "dense": _model(work, "dense.onnx", 0),
        "pruned": _model(work, "model.onnx", 1) | _savings(work),
        **{key: checked.get(key) for key in ("speedup", "speedup_low", "speedup_high", "speedup_claimed")},
        "speedups": checked.get("speedups", []),
        "parity": results.get("model.onnx", {}).get("parity"),
        "compaction": _compaction(work),
        "gates": checked.get("gates", []),
        "artifacts": [
            asdict(artifact)
            | {"path": name, "files": work.files.get(name, [name]), "accuracy": None}
            | results.get(name, {})
            for artifact in work.artifacts
            for name in [artifact.path.name]
        ],
        "measurements": checked.get("measurements", []),
        "app": None,
        "layers": [],
        "stages": work.stages,
        "history": [],
        "latency_budgets": [],
        "notes": [*work.directory.notes, *work.notes],
    }


def _model(work: "Work", file: str, place: int) -> dict[str, Any]:
    """Figures of the given file (place 0) or of the compacted one (place 1)."""
    outcome = work.outcome
    if outcome is None:
        return {}
    written = {artifact.path.name: artifact for artifact in work.artifacts}.get(file)
    result = work.checked.get("results", {}).get(file, {})
    known = {key: result.get(key) for key in _MODEL} | {"latency_ms": work.checked.get("latencies", {}).get(file)}
    return known | {
        "weights": outcome.weights[place],
        "nonzero": outcome.nonzero[place],
        "macs": outcome.macs[place] if outcome.macs else None,
        "size_bytes": written.size_bytes if written else None,
        "size_zip_bytes": written.size_zip_bytes if written else None,
    }


def _savings(work: "Work") -> dict[str, Any]:
    """Sparsity and compression, both against the given file's weights."""
    outcome = work.outcome
    if outcome is None:
        return {}
    weights, left = outcome.weights[0], outcome.nonzero[1]
    sizes = {artifact.format: artifact.size_bytes for artifact in work.artifacts}
    return {
        "sparsity": 1 - left / weights if weights else None,
        "compression": weights / left if left else None,
        "channels_removed": sum(layer.out_before - layer.out_after for layer in outcome.layers),
        "size_sparse_bytes": sizes.get("sparse"),
        "size_entropy_bytes": None,
    }


def _compaction(work: "Work") -> dict[str, Any] | None:
    outcome = work.outcome
    if outcome is None:
        return None
    return {
        "max_error_relative": outcome.proved,
        "dtype": outcome.proof_dtype,
        "rewritten": None,
        "max_abs_error_shipped": None,
        "frozen_operators": list(outcome.frozen),
        "layers": [asdict(layer) for layer in outcome.layers],
    }
