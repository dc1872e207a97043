"""A finished run of LeNet-5 on MNIST, its sums made to agree by hand, and two that ended otherwise."""

from copy import deepcopy
from typing import Any

import pytest

from compress.report.html import render

LAYERS = [
    # name, weights dense, left, nonzero, MACs dense, left, nonzero (24 x 24 and 8 x 8 outputs)
    ("conv1", 500, 200, 150, 288_000, 115_200, 86_400),
    ("conv2", 25_000, 4_000, 1_525, 1_600_000, 256_000, 97_600),
    ("fc1", 400_000, 32_000, 5_000, 400_000, 32_000, 5_000),
    ("fc2", 5_000, 1_000, 500, 5_000, 1_000, 500),
]
LAYER_KEYS = ("name", "weights_dense", "weights", "nonzero", "macs_dense", "macs", "macs_nonzero")
WIDTHS = [
    ("conv1", 1, 1, 20, 8),
    ("conv2", 20, 8, 50, 20),
    ("fc1", 800, 320, 500, 100),
    ("fc2", 500, 100, 10, 10),
]
WIDTH_KEYS = ("name", "in_before", "in_after", "out_before", "out_after")
STAGES = [
    ("dense", 148.2, 0.9918, None, 2_293_000, 430_500),
    ("prune-0 admm channel", 201.7, 0.9903, 0.9136, 2_293_000, 430_500),
    ("compact-0", 1.9, 0.9903, 0.9136, 404_200, 37_200),
    ("prune-1 admm element", 96.4, 0.9891, 0.9833, 404_200, 37_200),
    ("compact-1", 1.1, 0.9891, 0.9833, 404_200, 37_200),
    ("export", 6.3, None, None, None, None),
    ("validate", 24.8, None, None, None, None),
]
STAGE_KEYS = ("name", "seconds", "accuracy", "sparsity", "macs", "weights")


def measured(artifact: str, p50: float) -> dict[str, Any]:
    samples = [round(p50 * (0.93 + 0.0008 * i + (0.4 if i > 195 else 0)), 5) for i in range(200)]
    return {
        "artifact": artifact,
        "target": "local",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "status": "measured",
        "reason": None,
        "latency_ms": {"p50": p50, "p90": 1.06 * p50, "p99": 1.3 * p50, "repeats": 5, "spread": 0.004},
        "load_ms": 9.1,
        "first_ms": 3 * p50,
        "peak_memory_bytes": 31_400_000,
        "samples_ms": samples,
        "device": {"cpu": "Cortex-A76", "temperature_after_c": "61.2"},
    }


def epochs() -> list[dict[str, Any]]:
    plan = [
        ("dense", 12, 0.0, 0.9918),
        ("prune-0 admm channel", 16, 0.9136, 0.9903),
        ("prune-1 admm element", 8, 0.9833, 0.9891),
    ]
    return [
        {
            "stage": stage,
            "epoch": i + 1,
            "loss": 0.02 + 0.25 / (i + 1) ** 1.3,
            "accuracy": best - 0.02 / (i + 1) ** 1.5,
            "sparsity": sparsity,
        }
        for stage, n, sparsity, best in plan
        for i in range(n)
    ]


def finished() -> dict[str, Any]:
    stages = [{**dict(zip(STAGE_KEYS, row, strict=True)), "resumed": row[0] == "dense"} for row in STAGES]
    parity = {"max_abs": 3.1e-6, "tolerance": 1e-4, "top1_agreement": 1.0, "samples": 10_000, "passed": True}
    files = [
        ("dense.onnx", 1_727_000, 1_600_000),
        ("model.onnx", 152_400, 40_100),
        ("model.sparse.onnx", 23_900, 21_200),
    ]
    return {
        "schema": 1,
        "status": "passed",
        "exit_code": 0,
        "recipe": {
            "seed": 0,
            "device": "cpu",
            "precision": None,
            "model": {"name": "lenet5"},
            "data": {"name": "mnist"},
            "train": {"epochs": 12, "lr": 0.001},
            "prune": [
                {"method": "admm", "units": "channel", "budget": {"macs": 0.2}, "epochs": 16},
                {"method": "admm", "units": "element", "budget": {"compression": 60.0}, "epochs": 8},
            ],
            "export": {"formats": ["onnx"], "opset": 18, "batch": "dynamic"},
            "validate": {"targets": ["local"], "threads": 1, "gates": {"max_accuracy_drop_points": 0.5}},
        },
        "seed": 0,
        "metric": {"name": "top1", "higher_is_better": True},
        "environment": {"torch": "2.15.0", "onnxruntime": "1.32.0", "cpu": "Cortex-A76", "threads": 1},
        "data": {"name": "mnist", "train": 55_000, "held_out": 5_000, "test": 10_000,
            "classes": [*"0123456789"]},
        "macs_convention": "multiply-accumulates of convolution and linear layers, batch 1",
        "dense": {
            "accuracy": 0.9921, "accuracy_low": 0.9902, "accuracy_high": 0.9936, "accuracy_torch": 0.9921,
            "weights": 430_500, "nonzero": 430_500, "macs": 2_293_000, "size_bytes": 1_727_000,
            "size_zip_bytes": 1_600_000, "latency_ms": {"p50": 0.142, "p90": 0.151, "p99": 0.185},
        },
        "pruned": {
            "accuracy": 0.9898, "accuracy_low": 0.9876, "accuracy_high": 0.9916, "accuracy_torch": 0.9898,
            "weights": 37_200, "nonzero": 7_175, "macs": 404_200, "size_bytes": 152_400,
            "size_zip_bytes": 40_100, "size_sparse_bytes": 23_900,
            "latency_ms": {"p50": 0.061, "p90": 0.065, "p99": 0.079},
            "sparsity": 1 - 7_175 / 430_500, "compression": 60.0, "channels_removed": 442,
        },
        "speedup": 2.33, "speedup_low": 2.21, "speedup_high": 2.45, "speedup_claimed": True,
        "speedups": [{"target": "local", "artifact": "model.onnx", "value": 2.33, "low": 2.21, "high": 2.45}],
        "parity": parity,
        "compaction": {
            "max_error_relative": 2.4e-15,
            "dtype": "float64",
            "max_abs_error_shipped": 1.9e-6,
            "frozen_operators": [],
            "layers": [dict(zip(WIDTH_KEYS, row, strict=True)) for row in WIDTHS],
        },
        "layers": [dict(zip(LAYER_KEYS, row, strict=True)) for row in LAYERS],
        "gates": [
            {"name": "max_accuracy_drop_points", "limit": 0.5, "value": 0.23, "passed": True},
            {"name": "max_size_bytes", "limit": 200_000, "value": 152_400, "passed": True},
        ],
        "artifacts": [
            {
                "path": path, "files": [path], "format": "onnx", "size_bytes": stored,
                "size_zip_bytes": zipped, "sha256": "9f86d081" * 8,
                "opset": 18, "min_ort": "1.14", "parity": parity,
                "accuracy": 0.9921 if path == "dense.onnx" else 0.9898,
            }
            for path, stored, zipped in files
        ],
        "measurements": [measured("dense.onnx", 0.142), measured("model.onnx", 0.061)],
        "stages": stages,
        "history": epochs(),
        "notes": ["Batch normalisation statistics were measured again after compaction."],
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    """Passed: 60 times fewer weights, 2.33 times faster."""
    return finished()


@pytest.fixture(scope="session")
def page() -> str:
    """The page of the passed run."""
    return render(finished())


@pytest.fixture
def scattered() -> dict[str, Any]:
    """Pruned by elements alone: compaction found nothing to remove, the spread of the speed-up covers 1.0."""
    report = finished()
    for layer in report["layers"]:
        layer["weights"], layer["macs"] = layer["weights_dense"], layer["macs_dense"]
    report["pruned"] |= {
        "weights": 430_500,
        "macs": 2_293_000,
        "size_bytes": 1_727_000,
        "channels_removed": 0,
    }
    report["pruned"]["latency_ms"] = {"p50": 0.139, "p90": 0.15, "p99": 0.19}
    report |= {"speedup": 1.02, "speedup_low": 0.96, "speedup_high": 1.08, "speedup_claimed": False}
    report["speedups"][0] |= {"value": 1.02, "low": 0.96, "high": 1.08}
    return deepcopy(report)


@pytest.fixture
def interrupted() -> dict[str, Any]:
    """Stopped by the user while pruning: no pruned model, no artifact, no measurement."""
    return {
        "schema": 1,
        "status": "interrupted",
        "exit_code": 130,
        "recipe": {"model": {"name": "lenet5"}, "data": {"name": "mnist"}, "prune": [{"method": "admm"}]},
        "dense": None,
        "pruned": None,
        "speedup": None,
        "stages": [{"name": "dense", "seconds": 148.2, "resumed": False, "accuracy": 0.9918, "sparsity": None}],
        "gates": None,
        "notes": [],
    }
