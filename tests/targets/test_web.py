"""Latency in the browser: order and arithmetic with an invented page, the server by hand, and files in a real one."""

import http.client
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress import chromium, web_runtime
from compress.errors import RunError, UsageError
from compress.targets import Timing, find, web
from tests.browser import needs_browser
from tests.conftest import Project, invoke, report_of


def write(path: Path, side: int = 8, layers: int = 1) -> Path:
    """A file that multiplies by a square matrix, `layers` times."""
    value = helper.make_tensor("w", TensorProto.FLOAT, [side, side], np.eye(side, dtype=np.float32).ravel())
    nodes = [helper.make_node("MatMul", [f"v{i}", "w"], [f"v{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in ("v0", f"v{layers}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [value])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


class FakePage:
    """Answers as web.html would, each file with its own milliseconds; `broken` does not open."""

    def __init__(self, milliseconds: Mapping[int, float], broken: tuple[int, ...] = (), gone: bool = False) -> None:
        self.milliseconds, self.broken, self.gone = milliseconds, broken, gone
        self.asked: list[tuple[Any, ...]] = []

    def evaluate(self, expression: str, *, timeout: float) -> Any:
        found = re.fullmatch(r"bench\.([\w.]+)\((.*)\)", expression)
        assert found
        name, given = found[1], json.loads(f"[{found[2]}]")
        self.asked.append((name, *given))
        if name == "open" and given[0] in self.broken:
            raise RunError("the page fails: no kernel")
        if self.gone:
            raise RunError("the browser is gone")
        if name == "open":
            return {"load_ms": 3.0, "first_ms": 2.0}
        if name == "warm":
            return self.milliseconds[given[0]]
        return [self.milliseconds[given[0]]] * given[1] if name == "block" else None


def bench(page: FakePage) -> web._Bench:
    return web._Bench(page)  # type: ignore[arg-type]


def test_blocks_are_interleaved_and_a_sample_is_the_mean_of_a_loop() -> None:
    page = FakePage({0: 0.5, 1: 4.0})
    timings = bench(page).timed([0, 1], Timing(1, 50, 3, 100.0))
    dense, pruned = ("block", 0, 10, 4), ("block", 1, 5, 1)  # loops of 2 ms or one run, blocks of 20 ms
    assert [dense, pruned, pruned, dense, dense, pruned] == [asked for asked in page.asked if asked[0] == "block"]
    assert ((3, 10), (3, 5)) == (timings[0].shape, timings[1].shape)
    assert {0.5e6} == set(timings[0].ravel())  # nanoseconds


def test_a_file_that_does_not_open_leaves_the_others_and_a_dead_browser_does_not() -> None:
    feed = np.zeros((1, 8), np.float32)
    page = bench(FakePage({0: 1.0, 1: 1.0}, broken=(1,)))
    assert {"load_ms": 3.0, "first_ms": 2.0, "peak_memory_bytes": None} == page.open(0, feed)
    assert {"reason": "the page fails: no kernel"} == page.open(1, feed)
    assert {"reason": "no input"} == page.open(2, "no input")
    with pytest.raises(RunError, match="gone"):
        bench(FakePage({}, gone=True)).open(0, feed)


def get(address: str, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_the_server_gives_what_it_is_given_to_those_who_know_the_secret() -> None:
    with web._served({"": ("text/html", lambda: b"page"), "model/0": ("x", lambda: b"bytes")}) as address:
        secret = urlsplit(address).path
        found = get(address, f"{secret}model/0")
        assert (200, b"bytes") == (found.status, found.body)  # type: ignore[attr-defined]
        assert "same-origin" == found.getheader("Cross-Origin-Opener-Policy")
        assert "require-corp" == found.getheader("Cross-Origin-Embedder-Policy")
        for path in ("/", "/model/0", f"{secret}model/1", f"{secret}../../etc/passwd", "/etc/passwd"):
            assert 404 == get(address, path).status
        assert urlsplit(address).hostname == "127.0.0.1"


def test_what_is_missing_is_said_before_anything_runs_and_in_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "dense.onnx")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(chromium, "find", lambda: "chromium")
    with pytest.raises(UsageError, match="npm i onnxruntime-web"):
        find(f"web:{empty}").check(f"web:{empty}")
    (found,), speedup = web.measure([file], Timing(), f"web:{empty}")
    assert ("missing", None, None) == (found.status, found.latency_ms, speedup)
    assert "npm i onnxruntime-web" in found.reason
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(UsageError, match="apt install chromium"):
        web.check(f"web:{empty}")


def test_an_incomplete_runtime_is_named(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"version": "0.1"}')
    with pytest.raises(UsageError, match=r"onnxruntime-web 0.1 in .* lacks dist/ort.wasm.bundle.min.mjs"):
        web_runtime.find(tmp_path)
    (tmp_path / "package.json").write_text("{")
    with pytest.raises(UsageError, match="no onnxruntime-web in"):
        web_runtime.find(tmp_path)


def test_a_run_that_could_not_measure_there_does_not_start(
    user: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = user.words("--method", "magnitude", "--sparsity", 0.5, "--target", "web", "--out", tmp_path / "run")
    ended = invoke(*words)
    assert 2 == ended.exit_code
    assert "apt install chromium" in ended.output
    assert not (tmp_path / "run/model.onnx").exists()


@needs_browser
@pytest.mark.parametrize("threads", [1, 2])
def test_files_run_in_a_real_browser_and_nothing_leaves_the_machine(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = chromium.launch
    monkeypatch.setattr(chromium, "launch", lambda: launch([f"--log-net-log={tmp_path / 'net.json'}"]))
    files = [write(tmp_path / "dense.onnx", 256, 8), write(tmp_path / "model.onnx", 16)]
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    files.append(tmp_path / "broken.onnx")
    found, speedup = web.measure(files, Timing(threads, 3, 3, 0.5), "web")
    assert ["measured", "measured", "failed"] == [one.status for one in found]
    assert "ONNX Runtime" in found[2].reason
    for one in found[:2]:
        assert one.latency_ms
        assert 0 < one.latency_ms.p50 <= one.latency_ms.p99
        assert one.load_ms
        assert one.samples_ms
        assert str(threads) == one.device["threads"]
        assert "yes" == one.device["cross-origin isolated"]
        assert re.match(r"Chrom\w+ \d+\.", one.device["browser"])
    assert speedup
    assert speedup.low <= speedup.value <= speedup.high
    hosts, called = chromium.reached(tmp_path / "net.json")
    assert {"127.0.0.1"} == hosts
    assert {"127.0.0.1"} == called


@needs_browser
def test_a_whole_run_measures_there(user: Project, tmp_path: Path) -> None:
    words = user.words("--method", "magnitude", "--sparsity", 0.5, "--target", "web", "--out", tmp_path / "run")
    ended = invoke(*words)
    assert 0 == ended.exit_code, ended.output
    report = report_of(tmp_path / "run")
    assert {"web"} == {one["target"] for one in report["measurements"]}
    assert report["speedup"] is not None
