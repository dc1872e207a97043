"""Files that ONNX Runtime does not run, timed beside those it does: with an invented runtime that also lies."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.targets import Measurement, Timing, _own_runtime, local
from compress_exporters import Request, find, formats

RUNTIME = """
import os, sys, time
import numpy as np
from compress_exporters.artifact import ExportError

suffix = ".fake"
NAME = "Fake 1.0"

def version():
    if os.environ.get("FAKE_MISSING"):
        raise ExportError("the format fake needs the package fake; run: pip install fake")
    return NAME

def start(path, threads):
    does = path.read_text()
    if does == "refuses":
        raise ExportError(f"fake refuses {path.name}")
    if does == "takes two processors":
        sys.modules["__main__"].process_time_ns = lambda: 2 * time.perf_counter_ns()
    if does == "prints":
        os.write(1, b"[1, 2, 3]\\n")
        print("nonsense")

    def prepare(images):
        calls = 0

        def run():
            nonlocal calls
            calls += 1
            if does == "ends" and calls == 3:
                os._exit(3)
            if does == "dies" and calls == 3:
                os.abort()
            if does == "hangs":
                time.sleep(60)
            if does == "raises" and calls == 3:
                raise RuntimeError("out of memory\\nat line 7")
            time.sleep(0.001)
            answer = images.reshape(len(images), -1)[:, :2] * threads
            if does == "forgets" and calls > 3:
                answer = answer * np.nan
            if does == "is not finite":
                answer = answer * np.inf
            return answer[: 1 if does == "skips images" else None]

        return run

    return prepare
"""

HOW = Timing(warm_up=3, repeats=3, budget_seconds=0.2)
SHAPE = (3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with dense.onnx, of a batch of two, where an invented runtime is known."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/fake_runtime.py").write_text(RUNTIME)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(local.OWN_RUNTIMES, ".fake", "fake_runtime")
    find("onnx").export(Request(network(), SHAPE, 2), tmp_path / "dense.onnx")
    return tmp_path


def measured(folder: Path, *does: str, how: Timing = HOW) -> list[Measurement]:
    files = [folder / "dense.onnx"]
    for number, what in enumerate(does):
        files.append(folder / f"model{number}.fake")
        files[-1].write_text(what)
    return local.measure(files, how, "local")[0]


@pytest.mark.parametrize("does", ["answers", "prints"])
def test_a_file_is_timed_in_its_own_runtime_beside_the_dense_one(fake: Path, does: str) -> None:
    dense, found = measured(fake, does)
    assert ("measured", "measured") == (dense.status, found.status)
    assert ("CPUExecutionProvider", "Fake 1.0") == (dense.provider, found.provider)
    assert found.latency_ms is not None
    assert found.latency_ms.p50 >= 1.0  # it sleeps as long
    assert found.speedup is not None
    assert found.load_ms is not None
    assert found.first_ms is not None
    assert found.first_ms >= 1.0
    if sys.platform == "linux":
        # Python and numpy; not this test's own torch
        assert found.peak_memory_bytes is not None
        assert 1e7 < found.peak_memory_bytes < 1.5e8


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("refuses", "fake refuses model0.fake"),
        ("raises", "out of memory"),
        ("ends", "its runtime ended without an answer (exit code 3)"),
        ("dies", "its runtime ended without an answer (SIGABRT)"),
        ("forgets", "its answer to the same images changed from one inference to another"),
        ("is not finite", "its answer to 2 images is of shape (2, 2), or not finite"),
        ("skips images", "its answer to 2 images is of shape (1, 2), or not finite"),
        ("takes two processors", "it kept 2.0 processors busy, and threads = 1"),
    ],
)
def test_what_does_not_run_or_lies_is_not_measured_and_the_others_are(fake: Path, does: str, says: str) -> None:
    dense, found, other = measured(fake, does, "answers")
    assert ("failed", says) == (found.status, found.reason)
    assert (None, None, None, ()) == (found.latency_ms, found.speedup, found.load_ms, found.samples_ms)
    assert found.provider.lower().startswith("fake")
    assert ("measured", "measured") == (dense.status, other.status)


def test_two_processors_are_fine_where_two_threads_were_given(fake: Path) -> None:
    _, found = measured(fake, "takes two processors", how=Timing(2, 3, 3, 0.2))
    assert "measured" == found.status


def test_a_runtime_that_hangs_is_ended(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_own_runtime, "TIMEOUT_SECONDS", 2.0)
    _, found = measured(fake, "hangs")
    assert ("failed", "its runtime ended without an answer (SIGKILL)") == (found.status, found.reason)


def test_a_missing_package_is_missing_and_says_how_to_get_it(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MISSING", "1")
    dense, found = measured(fake, "answers")
    assert ("measured", "missing") == (dense.status, found.status)
    assert found.reason.endswith("run: pip install fake")


def test_without_an_onnx_file_nobody_knows_the_images(fake: Path) -> None:
    (fake / "dense.onnx").unlink()
    dense, found = measured(fake, "answers")
    assert ("failed", "failed") == (dense.status, found.status)
    assert "no ONNX file beside it tells what images it takes" == found.reason


def test_raw_pixels_and_images_are_of_one_shape(tmp_path: Path) -> None:
    pixels = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    find("onnx").export(Request(network(), SHAPE, 2, normalisation=pixels), tmp_path / "pixels.onnx")
    find("onnx").export(Request(network(), SHAPE, "dynamic"), tmp_path / "images.onnx")
    assert [2, *SHAPE] == list(local._images([tmp_path / "pixels.onnx"], Timing()) or [])
    assert [4, *SHAPE] == list(local._images([tmp_path / "images.onnx"], Timing(batch=4)) or [])


def test_knowing_the_runtimes_imports_none_of_them() -> None:
    code = "import sys, json, compress_exporters.runtimes as r; r.modules(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "onnx", "onnxruntime", "openvino", "ncnn", "executorch"} & set(json.loads(done.stdout))


def test_every_format_that_onnx_runtime_does_not_run_is_timed_somewhere() -> None:
    others = [exporter.suffix for exporter in map(find, formats()) if hasattr(exporter, "load")]
    assert {".c", *local.OWN_RUNTIMES} >= {suffix if suffix[-2:] != ".c" else ".c" for suffix in others}
    assert set(local.SUFFIXES) >= set(local.OWN_RUNTIMES) >= {".xml", ".ncnn.param", ".pte"}


@pytest.mark.parametrize(
    ("format", "packages"),
    [("openvino", ["openvino"]), ("ncnn", ["ncnn", "pnnx"]), ("executorch", ["executorch"])],
)
@pytest.mark.parametrize("pixels", [False, True])
def test_the_real_runtimes(format: str, packages: list[str], pixels: bool, tmp_path: Path) -> None:
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed")
    request = Request(network(), SHAPE, normalisation=((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)) if pixels else None)
    file = tmp_path / f"model{find(format).suffix}"
    find("onnx").export(request, tmp_path / "dense.onnx")
    find(format).export(request, file)
    dense, found = local.measure([tmp_path / "dense.onnx", file], HOW, "local")[0]
    assert ("measured", "measured", "") == (dense.status, found.status, found.reason)
    assert found.provider.lower().startswith(format)
    assert found.load_ms is not None
    assert found.first_ms is not None
