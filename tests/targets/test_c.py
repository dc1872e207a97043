"""The target `c`: C files compiled and timed here, and what it says when it cannot."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import UsageError
from compress.targets import Timing, c, check, find
from compress_exporters import Request
from compress_exporters import find as exporter

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def written(folder: Path, name: str, share: float) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape) < share)
    return exporter("c").export(Request(model, (3, 24, 24)), folder / f"{name}.c").path


@needs_compiler
@pytest.mark.parametrize("target", ["c", "c:portable"])
def test_zeros_are_time_here(target: str, tmp_path: Path) -> None:
    files = [written(tmp_path, "dense", 1.0), written(tmp_path, "model", 0.03)]
    found, speedup = find(target).measure(files, Timing(budget_seconds=0.5), target)
    assert [("dense.c", "measured", 1), ("model.c", "measured", 1)] == [
        (m.artifact, m.status, m.threads) for m in found
    ]
    for measurement in found:
        assert measurement.latency_ms is not None
        assert measurement.first_ms is not None
        assert (measurement.peak_memory_bytes or 0) > 100_000
        assert ("-march=native" in measurement.device["flags"]) == (target == "c")
    assert speedup is not None
    assert speedup.value > 3  # 33 times fewer multiplications


@needs_compiler
def test_a_file_that_does_not_compile_is_failed_and_the_other_measured(tmp_path: Path) -> None:
    files = [written(tmp_path, "dense", 1.0), written(tmp_path, "model", 0.1)]
    files[0].write_text("int wrong(")
    found, speedup = c.measure(files, Timing(budget_seconds=0.1), "c")
    assert ["failed", "measured"] == [m.status for m in found]
    assert "the C compiler refuses dense.c" in found[0].reason
    assert speedup is None


@needs_compiler
def test_a_file_is_compiled_once_where_only_the_time_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "_once", lambda *given: pytest.fail("compiled again"))
    (found,), _ = c.measure([written(tmp_path, "model", 0.1)], Timing(budget_seconds=0.1, fresh=False), "c")
    assert ("measured", None, None) == (found.status, found.first_ms, found.peak_memory_bytes)


def test_an_unknown_address_is_refused() -> None:
    with pytest.raises(UsageError, match="write c, or c:portable"):
        check("c:fast")


def test_a_missing_compiler_is_found_before_hours_are_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UsageError, match="target c: no C compiler here"):
        check("c")
