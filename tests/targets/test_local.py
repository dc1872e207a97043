"""Latency on this machine: the arithmetic on invented timings, and that real files run; no test reads a real clock."""

import glob
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.errors import UsageError
from compress.targets import Speedup, Timing, _device, check, find, local, names

QUICK = Timing(warm_up=1, repeats=3, budget_seconds=0.01)


def write(path: Path, shape: list[int | str], dtype: int = TensorProto.FLOAT, inputs: int = 1) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["in0"], ["out"], to=TensorProto.FLOAT)],
        "g",
        [helper.make_tensor_value_info(f"in{i}", dtype, shape) for i in range(inputs)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


class FakeTime:
    """A clock that only the runs move, and a record of who ran when."""

    def __init__(self) -> None:
        self.now = 0
        self.ran: list[str] = []

    def clock(self) -> int:
        return self.now

    def block(self, name: str, milliseconds: Iterator[float]) -> Callable[[int], list[int]]:
        def once() -> None:
            self.ran.append(name)
            self.now += round(next(milliseconds) * 1e6)

        return lambda count: _device.block(once, count, self.clock)


def constant(milliseconds: float) -> Iterator[float]:
    while True:
        yield milliseconds


def test_blocks_are_interleaved_and_their_order_alternates() -> None:
    time = FakeTime()
    runs = [time.block("dense", constant(10.0)), time.block("pruned", constant(5.0))]
    dense, pruned = (np.array(rows) / 1e6 for rows in _device.timed(runs, 2, 3, 100.0))
    warm, first = ["dense"] * 2 + ["pruned"] * 2, ["dense"] * 2 + ["pruned"] * 4
    assert [*warm, *first, *first[::-1], *first] == time.ran
    assert ((3, 2), (3, 4)) == (dense.shape, pruned.shape)
    np.testing.assert_array_equal(np.full((3, 2), 10.0), dense)
    assert Speedup(2.0, 2.0, 2.0) == local.speedup(dense, pruned)


def test_a_drift_of_the_machine_is_no_speed_up() -> None:
    """Everything slows down three-fold during the run: measured one after the other it would look like 3."""
    drift = np.linspace(1, 3, 40)[:, None]
    ripple = np.random.default_rng(0).uniform(0.98, 1.02, (2, 40, 10))
    found = local.speedup(drift * ripple[0], drift * ripple[1])
    assert found.low < 1.0 < found.high
    assert not found.claimed
    # And a real difference under the same drift is seen.
    assert local.speedup(1.5 * drift * ripple[0], drift * ripple[1]).claimed
    assert local.speedup(drift * ripple[0], 1.5 * drift * ripple[1]).claimed  # slower, and said so


def test_one_interruption_in_a_block_moves_nothing() -> None:
    calm = np.ones((20, 10))
    hit = calm.copy()
    hit[:, 3] = 100
    assert Speedup(1.0, 1.0, 1.0) == local.speedup(hit, calm)


def test_the_spread_of_a_speed_up_is_its_5th_to_95th_percentile() -> None:
    ratios = np.arange(1, 22, dtype=float)  # 1..21: percentiles fall on elements
    assert Speedup(11.0, 2.0, 20.0) == local.speedup(ratios[:, None], np.ones((21, 3)))


def test_latency_gives_percentiles_of_all_and_the_spread_of_blocks() -> None:
    samples = np.arange(1, 102, dtype=float).reshape(101, 1)
    found = local.latency(samples)
    assert (51.0, 91.0, 100.0, 101) == (found.p50, found.p90, found.p99, found.repeats)
    assert pytest.approx((96 - 6) / 51) == found.spread
    assert 0.0 == local.latency(np.ones((5, 3))).spread


def test_warming_up_stops_at_a_quarter_of_the_budget_but_runs_once() -> None:
    time = FakeTime()
    _device.timed([time.block("slow", constant(10_000.0))], 50, 20, 1.0)
    # One to warm up, then blocks of one, and no fewer repeats than give a spread.
    assert 1 + _device.FEWEST_REPEATS == len(time.ran)


def test_a_plan_fits_its_budget_or_is_the_least() -> None:
    for usual in ([0.001], [0.1, 0.2], [3.0, 1.0, 7.0], [400.0, 900.0]):
        for budget in (0.1, 1.0, 10.0):
            blocks, repeats = _device.plan(usual, 20, budget)
            spent = repeats * sum(n * ms for n, ms in zip(blocks, usual, strict=True)) / 1e3
            assert spent <= budget * (1 + 1e-9) or repeats == _device.FEWEST_REPEATS
            assert 1 <= min(blocks)
            assert repeats <= 20


def test_garbage_is_not_collected_while_timing_and_is_again_after() -> None:
    import gc

    seen = []
    _device.timed([lambda count: seen.append(gc.isenabled()) or [1] * count], 1, 1, 0.001)
    assert {False} == set(seen)
    assert gc.isenabled()


def test_files_are_measured_as_their_inputs_ask(tmp_path: Path) -> None:
    dense = write(tmp_path / "dense.onnx", ["batch", 3, 8, 8])
    pruned = write(tmp_path / "pruned.onnx", [2, 8, 8, 3], TensorProto.UINT8)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    found, speedup = local.measure([dense, pruned, broken], Timing(1, 2, 3, 0.05), "local")
    assert ["measured", "measured", "failed"] == [m.status for m in found]
    assert ["dense.onnx", "pruned.onnx", "broken.onnx"] == [m.artifact for m in found]
    for measurement in found[:2]:
        assert measurement.latency_ms is not None
        assert 0 < measurement.latency_ms.p50 <= measurement.latency_ms.p90 <= measurement.latency_ms.p99
        assert 3 == measurement.latency_ms.repeats
        assert 1 <= len(measurement.samples_ms) <= 200
        assert sorted(measurement.samples_ms) == list(measurement.samples_ms)
        assert measurement.load_ms is not None
        assert measurement.load_ms > 0
        if sys.platform == "linux":
            # A Python with ONNX Runtime takes tens of megabytes, and this test's own torch is not in it.
            assert measurement.peak_memory_bytes is not None
            assert 2e7 < measurement.peak_memory_bytes < 3e8
    assert "refuses" in found[2].reason
    assert (None, None, ()) == (found[2].latency_ms, found[2].load_ms, found[2].samples_ms)
    assert speedup is not None
    assert 0 < speedup.low <= speedup.value <= speedup.high < math.inf
    assert [None, speedup, None] == [m.speedup for m in found]


def test_without_two_files_that_run_there_is_no_speed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    path = write(tmp_path / "m.onnx", [1, 4])
    found, speedup = local.measure([path], QUICK, "local")
    assert speedup is None
    # A fresh process that fails leaves nulls, not a failed measurement.
    assert ("measured", None, None, None) == (
        found[0].status,
        found[0].load_ms,
        found[0].first_ms,
        found[0].peak_memory_bytes,
    )
    _, speedup = local.measure([tmp_path / "none.onnx", path], QUICK, "local")
    assert speedup is None
    # The same path twice is two files.
    found, speedup = local.measure([path, path], QUICK, "local")
    assert 2 == len(found)
    assert speedup is not None


def test_a_machine_says_what_it_can_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, text in (("zone0", "48312\n"), ("zone1", "-5000\n"), ("zone2", "52049\n"), ("zone3", "unknown\n")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "temp").write_text(text)
    zones = {"thermal": f"{tmp_path}/zone*/temp", "cpufreq": f"{tmp_path}/nowhere/*"}
    real = glob.glob
    monkeypatch.setattr("glob.glob", lambda pattern: real(next(zones[name] for name in zones if name in pattern)))
    assert {"temperature_after_c": "52.0"} == _device.conditions("after")  # and no frequency, which is not there
    assert "AMD: fast" == _device.cpu_name("processor : 0\nmodel name\t: AMD: fast\n" * 2)
    arm = "processor : {}\nCPU implementer : 0x41\nCPU part : {}\n"  # two small cores and a large one
    cores = ((0, "0xd03"), (1, "0xd03"), (2, "0xd08"))
    assert "Cortex-A53, Cortex-A72" == _device.cpu_name("".join(arm.format(*core) for core in cores))
    assert "ARM part 0xfff" == _device.cpu_name(arm.format(0, "0xfff"))
    assert "" == _device.cpu_name(_device._read(str(tmp_path / "none")))
    assert "numpy" in _device.describe()
    assert all(_device.describe().values())


@pytest.mark.parametrize(
    ("shape", "dtype", "inputs", "says"),
    [
        (["batch", "side"], TensorProto.FLOAT, 1, "only its batch may be free"),
        (["batch", "side"], TensorProto.FLOAT, 2, "only its batch may be free"),
        ([1, 4], TensorProto.STRING, 1, r"is tensor\(string\); known"),
    ],
)
def test_inputs_that_are_no_images_fail_with_the_reason(
    tmp_path: Path, shape: list[int | str], dtype: int, inputs: int, says: str
) -> None:
    opened = _device.open_session(str(write(tmp_path / "m.onnx", shape, dtype, inputs)), 1)
    with pytest.raises(ValueError, match=says):
        _device.feed_for(opened)


def test_a_free_batch_is_what_was_asked_and_the_feed_is_repeatable(tmp_path: Path) -> None:
    opened = _device.open_session(str(write(tmp_path / "m.onnx", ["batch", 4])), 1)
    assert (7, 4) == _device.feed_for(opened, 7)["in0"].shape
    np.testing.assert_array_equal(_device.feed_for(opened)["in0"], _device.feed_for(opened)["in0"])


def test_targets_are_found_by_name_whatever_the_address() -> None:
    assert "local" in names()
    assert local is find("local")
    with pytest.raises(UsageError, match="no target 'locl'; did you mean local"):
        find("locl")
    with pytest.raises(UsageError, match="local is this machine and takes no address"):
        local.measure([], QUICK, "local:here")


def test_finding_targets_imports_no_runtime() -> None:
    code = "import sys, json, compress.targets as t; t.names(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(json.loads(done.stdout))


def test_only_the_time_is_measured_where_nothing_else_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, started = write(tmp_path / "m.onnx", [1, 4]), list[object]()
    monkeypatch.setattr(_device, "fresh_process", lambda *given: started.append(given))
    found, speedup = local.measure([path, path], replace(QUICK, fresh=False), "local")
    assert speedup is not None
    assert [("measured", None, None)] * 2 == [(m.status, m.load_ms, m.peak_memory_bytes) for m in found]
    assert not started


def test_an_address_is_refused_before_anything_is_done() -> None:
    assert check("local") == {}
    with pytest.raises(UsageError, match="takes no address; write local"):
        check("local:/dev/null")
