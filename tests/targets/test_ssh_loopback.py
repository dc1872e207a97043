"""The target ssh against a real OpenSSH server on this machine; skipped where there is none."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from compress.errors import CompressError, RunError, UsageError
from compress.targets import Measurement, Speedup, Timing, _device, _ssh, ssh
from tests.conftest import Project, invoke, report_of
from tests.targets.loopback import Loopback, serving
from tests.targets.test_local import write

HANGS_UP = "kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)"
"""In a program that the device's shell has started: ends the server's side of the connection."""

ENDLESS = Timing(repeats=100_000, budget_seconds=600.0)


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture(autouse=True)
def _logged_in(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The right key and the known server; whatever happens, nothing is left over there, telemetry least of all."""
    monkeypatch.setenv(_ssh.CONFIG_VARIABLE, str(loopback.config(tmp_path / "config")))
    monkeypatch.setattr(ssh, "PAUSES_SECONDS", (0.0,))
    yield
    assert loopback.empty()
    assert [] == [path for path in loopback.home.rglob("*") if path.is_file()]


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a program that does something, with `real` in it for this Python, in place of the device's Python."""

    def program(script: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script.replace('real', sys.executable)}\n")
        path.chmod(0o755)
        return path

    return program


def measured(
    loopback: Loopback, folder: Path, python: str | Path = sys.executable, how: Timing | None = None
) -> tuple[list[Measurement], Speedup | None]:
    files = [write(folder / "dense.onnx", ["batch", 3, 32, 32]), write(folder / "model.onnx", [1, 3, 8, 8])]
    small = Timing(warm_up=2, repeats=4, budget_seconds=0.1)
    return ssh.measure(files, how or small, loopback.target(python))


def test_files_are_measured_and_nothing_is_left(loopback: Loopback, tmp_path: Path) -> None:
    found, speedup = measured(loopback, tmp_path)
    for measurement in found:
        assert ("measured", loopback.target(sys.executable)) == (measurement.status, measurement.target)
        assert measurement.latency_ms is not None
        assert measurement.load_ms is not None
        assert measurement.first_ms is not None
        assert 0 < measurement.latency_ms.p50 <= measurement.latency_ms.p99
        assert 4 == measurement.latency_ms.repeats
        assert 0 < measurement.first_ms
        assert 0 < measurement.load_ms
        assert sys.platform != "linux" or 2e7 < (measurement.peak_memory_bytes or 0) < 3e8
        assert {"python", "numpy", "onnxruntime", "kernel", "architecture", "cores"} <= set(measurement.device)
    assert ["dense.onnx", "model.onnx"] == [measurement.artifact for measurement in found]
    assert speedup is not None
    assert 0 < speedup.low <= speedup.value <= speedup.high
    assert found[0].device == ssh.check(loopback.target(sys.executable)) | found[0].device


def test_telemetry_would_be_seen(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The liar: without one line of the script, the home that every other test looks into is written to."""
    source, line = Path(_device.__file__).read_text(), 'os.environ["ORT_DISABLE_TELEMETRY"] = "1"'
    assert line in source
    (tmp_path / "liar.py").write_text(source.replace(line, ""))
    monkeypatch.setattr(_device, "__file__", str(tmp_path / "liar.py"))
    measured(loopback, tmp_path)
    left = [path for path in loopback.home.rglob("*") if path.is_file()]
    for folder in (loopback.home, loopback.temporary):  # a session's name is kept in the latter
        shutil.rmtree(folder)
        folder.mkdir()
    if not left:
        pytest.skip("this onnxruntime writes no telemetry")


@pytest.mark.parametrize(
    ("identity", "known", "says"),
    [
        ("id", "other", r"somebody may stand in between.*ssh-keygen -R '\[127.0.0.1\]:\d+'$"),
        ("id", None, "its host key is not in known_hosts; log in once with `ssh -p .*127.0.0.1` and accept"),
        ("other", "host", "it accepts none of your keys"),
    ],
)
def test_keys_that_do_not_fit_are_refused_and_nothing_is_learnt(
    loopback: Loopback, tmp_path: Path, identity: str, known: str | None, says: str
) -> None:
    hosts = loopback.config(tmp_path / "config", identity=identity, known=known).with_suffix(".known")
    before = hosts.read_text()
    with pytest.raises(UsageError, match=says):
        ssh.check(loopback.target(sys.executable))
    assert before == hosts.read_text()


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        (None, UsageError, "no program .* there"),
        ("exec real -I -S \"$@\"", UsageError, r"-m pip install numpy 'onnxruntime>="),
        ("kill -9 $$", RunError, "killed there, most likely for memory"),
        ("exec echo hello", RunError, "answered something else than measurements"),
        (HANGS_UP, RunError, "the connection was lost"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_ready_is_found_at_the_start(
    loopback: Loopback, python: Callable[[str], Path], script: str | None, error: type[CompressError], says: str
) -> None:
    program = python(script) if script else Path("/nowhere/python")
    with pytest.raises(CompressError, match=says) as found:
        ssh.check(loopback.target(program))
    assert error is type(found.value)


def test_a_connection_lost_while_measuring_ends_the_script_over_there(
    loopback: Loopback, python: Callable[[str], Path], tmp_path: Path
) -> None:
    program = python(f'echo $$ > {tmp_path}/pid; (sleep 1.5; {HANGS_UP}) & exec real "$@"')
    with pytest.raises(RunError, match="the connection was lost"):
        measured(loopback, tmp_path, program, ENDLESS)
    assert loopback.empty()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_connection_lost_once_is_made_again(
    loopback: Loopback, python: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "PAUSES_SECONDS", (0.0, 0.0))
    program = python(f'[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; {HANGS_UP}; }}; exec real "$@"')
    found, _ = measured(loopback, tmp_path, program)
    assert ["measured", "measured"] == [measurement.status for measurement in found]


def test_killed_in_the_middle_is_an_error_of_the_run(
    loopback: Loopback, python: Callable[[str], Path], tmp_path: Path
) -> None:
    program = python('(sleep 1.5; kill -9 $$) & exec real "$@"')
    with pytest.raises(RunError, match="killed there, most likely for memory"):
        measured(loopback, tmp_path, program, ENDLESS)


def test_an_interrupted_command_leaves_nothing_over_there(loopback: Loopback, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", [1, 4])
    target = loopback.target(sys.executable)
    # a shell starts background jobs with SIGINT ignored, and the tests may be one
    code = f"""
import pathlib, signal
from compress.targets import Timing, ssh
signal.signal(signal.SIGINT, signal.default_int_handler)
ssh.measure([pathlib.Path("m.onnx")], {ENDLESS}, {target!r})
"""
    with subprocess.Popen([sys.executable, "-P", "-c", code], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 30
        while not list(loopback.temporary.glob("*/0.onnx")) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(loopback.temporary.glob("*/0.onnx"))
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert loopback.empty()


def test_a_full_disk_over_there(loopback: Loopback, tmp_path: Path) -> None:
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(loopback.temporary)]
    if os.getuid() or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (tmp_path / "big.onnx").write_bytes(bytes(1_000_000))
        with pytest.raises(RunError, match="no space left in its temporary folder; free some, or set TMPDIR there"):
            ssh.measure([tmp_path / "big.onnx"], Timing(), loopback.target(sys.executable))
        assert loopback.empty()
    finally:
        subprocess.run(["umount", str(loopback.temporary)], check=True)


def test_a_file_newer_than_the_runtime(loopback: Loopback, tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "m.onnx", [1, 4]))
    model.ir_version = 99
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(RunError, match=r"onnxruntime is too old for m.onnx \(.*Unsupported model IR version"):
        ssh.measure([tmp_path / "m.onnx"], Timing(), loopback.target(sys.executable))


def test_a_whole_run_on_a_device(loopback: Loopback, user: Project, tmp_path: Path) -> None:
    """Dense and pruned interleaved over there: its speed-up is the report's."""
    target = loopback.target(sys.executable)
    words = user.words("--method", "magnitude", "--sparsity", 0.5, "--target", target, "--out", tmp_path / "run")
    ended = invoke(*words)
    assert 0 == ended.exit_code, ended.output
    found = report_of(tmp_path / "run")
    assert ["dense.onnx", "model.onnx", "model.sparse.onnx"] == [m["artifact"] for m in found["measurements"]]
    assert {(target, "measured")} == {(m["target"], m["status"]) for m in found["measurements"]}
    assert found["pruned"]["latency_ms"] == found["measurements"][1]["latency_ms"]
    assert found["speedup"] > 0
    assert found["measurements"][0]["device"]["cpu"] in (tmp_path / "run" / "report.html").read_text()


def test_a_target_out_of_reach_is_found_before_anything_is_trained(
    loopback: Loopback, user: Project, tmp_path: Path
) -> None:
    for known, code in (("other", 2), ("host", 4)):
        loopback.config(tmp_path / "config", known=known)
        target = "ssh://127.0.0.1:1" if code == 4 else loopback.target(sys.executable)
        ended = invoke(
            *user.words("--method", "magnitude", "--sparsity", 0.5, "--target", target, "--out", tmp_path / "run")
        )
        assert code == ended.exit_code
        assert "epoch" not in ended.output
        assert not (tmp_path / "run" / "dense.onnx").exists()
