"""Speed-ups of a run, target by target."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress import targets, validation
from compress.assemble import assemble
from compress.recipe import ValidateSection
from compress.report.store import to_json
from compress.targets import Measurement, Speedup
from compress.train import Epoch

TWICE, NONE = Speedup(2.0, 1.9, 2.1), Speedup(1.0, 0.9, 1.1)


def measured(artifact: str, **known: Any) -> Measurement:
    return Measurement(artifact, "fake", "", 1, "measured", **known)


def latency(
    monkeypatch: pytest.MonkeyPatch, found: Sequence[Measurement], second: Speedup | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    fake = SimpleNamespace(SUFFIXES=(".c",), measure=lambda paths, how, target: (list(found), second))
    monkeypatch.setattr(targets, "find", lambda name: fake)
    return validation.latency(Path(), ["dense.c", "model.c"], ValidateSection(targets=("fake",)))


def test_every_file_has_its_speed_up_over_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [measured("dense.c"), measured("model.c", speedup=TWICE), measured("model.int8.c", speedup=NONE)]
    measurements, found = latency(monkeypatch, files, TWICE)
    assert [
        {"target": "fake", "artifact": "model.c", "value": 2.0, "low": 1.9, "high": 2.1},
        {"target": "fake", "artifact": "model.int8.c", "value": 1.0, "low": 0.9, "high": 1.1},
    ] == found["speedups"]
    assert (2.0, 1.9, 2.1, True) == tuple(
        found[key] for key in ("speedup", "speedup_low", "speedup_high", "speedup_claimed")
    )
    assert not any("speedup" in m for m in measurements)  # said once


def test_a_target_that_knows_the_second_file_alone_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = latency(monkeypatch, [measured("dense.c"), measured("model.c"), measured("model.int8.c")], TWICE)
    assert ["model.c"] == [s["artifact"] for s in found["speedups"]]


def test_counts_give_a_ratio_without_spread_and_no_speed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [measured("dense.c", instructions=300), measured("model.c", instructions=100), measured("model.int8.c")]
    _, found = latency(monkeypatch, files, None)
    assert [{"target": "fake", "artifact": "model.c", "value": 3.0, "low": None, "high": None}] == found["speedups"]
    assert found["speedup"] is None


def test_nothing_is_compared_without_the_dense_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for files in ([], [measured("model.c"), measured("model.int8.c", speedup=TWICE)]):
        assert [] == latency(monkeypatch, files, None)[1]["speedups"]


def reported(payloads: dict[str, Any]) -> dict[str, Any]:
    """The report of a run that ended with these payloads."""
    run: Any = SimpleNamespace(
        payloads=payloads,
        recipe=SimpleNamespace(prune=(), seed=0, to_dict=dict),
        data=SimpleNamespace(name="", train=(), held_out=(), test=(), classes=(), metric=None),
        stages=[],
        directory=SimpleNamespace(notes=[]),
        latencies=[],
    )
    return assemble(run, {}, "interrupted", 130)


def test_the_report_names_all_files_of_an_artifact() -> None:
    written = {"path": "model.c", "files": ["model.c", "model.h"], "format": "c", "size_bytes": 1}
    report = reported({"export": {"artifacts": [written]}})
    assert [["model.c", "model.h"]] == [artifact["files"] for artifact in report["artifacts"]]
    assert [] == report["speedups"]


def test_the_history_holds_what_methods_log_and_no_nan() -> None:
    metrics = {"primal_residual": 0.5, "dual_residual": float("nan"), "rho": float("inf")}
    epoch = asdict(Epoch("prune-0", 1, 2, 0.25, 0.75, 0.5, 1.0, metrics))
    (found,) = reported({"prune-0": {"history": [epoch]}})["history"]
    assert {"primal_residual": 0.5, "dual_residual": None, "rho": None} == found["metrics"]
    assert ("prune-0", 1, 0.25) == (found["stage"], found["epoch"], found["loss"])
    assert json.loads(to_json({"history": [found]})) == {"history": [found]}
