"""The target `qemu-aarch64-ort`: answers are compared with this machine's; an invented emulator also lies."""

import os
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from compress.errors import UsageError
from compress.targets import Measurement, Timing, check
from compress.targets import qemu_aarch64_ort as target
from compress_exporters import Request, find

ARM = b"\x7fELF" + bytes(14) + b"\xb7\x00"
"""Beginning of a library for AArch64."""

EMULATOR = """#!{python}
import os, struct, sys
at = next(i for i, word in enumerate(sys.argv) if word.endswith("/program"))
library, model, answer, data, shape = sys.argv[at + 1 : at + 6]
assert open(library, "rb").read(4) == b"\\x7fELF" and open(sys.argv[2] + "/proc/cpuinfo").read()
does = os.environ["FAKE"]
numbers = open(data, "rb").read()
count = len(numbers) // 4
assert shape == "2,3"
if does == "ends":
    print("no such operator", file=sys.stderr)
    sys.exit(3)
values = [value * (1.5 if does == "differs" else 1.0) for value in struct.unpack(f"{{count}}f", numbers)]
if does == "not finite":
    values[1] = float("nan")
if does == "short":
    values, count = values[1:], count - 1
if does != "silent":
    with open(answer, "wb") as file:
        file.write(struct.pack("<qq", 99 if does == "odd" else 1, 10**9 if does == "cut" else count))
        file.write(struct.pack(f"{{count}}f", *values))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of what passes for ONNX Runtime for AArch64."""
    runtime = tmp_path / "runtime"
    (runtime / "lib").mkdir(parents=True)
    (runtime / "include").mkdir()
    (runtime / "lib/libonnxruntime.so.1.30.0").write_bytes(ARM)
    (runtime / "include/onnxruntime_c_api.h").touch()
    return runtime


@pytest.fixture
def fake(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs and libraries of the emulator, all invented."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(target, "SYSTEM", tmp_path / "system")
    (tmp_path / "bin").mkdir()
    (tmp_path / "system").mkdir()
    (tmp_path / "system/libstdc++.so.6").touch()
    programs = {
        "qemu-aarch64-static": EMULATOR.format(python=sys.executable),
        "aarch64-linux-gnu-gcc": "#!/bin/sh\n:\n",
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return folder


def measured(folder: Path, runtime: Path) -> Measurement:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    save(model, folder / "model.onnx")
    (found,), speedup = target.measure([folder / "model.onnx"], Timing(batch=2), f"qemu-aarch64-ort:{runtime}")
    assert (None, None) == (speedup, found.latency_ms)
    return found


def test_equal_answers_differ_by_nothing(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "equal")
    found = measured(tmp_path, fake)
    assert ("measured", 0.0, "1.30.0") == (found.status, found.max_abs, found.device["onnxruntime"])


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("not finite", "an output is not finite"),
        ("short", "its outputs there have other types or sizes than here"),
        ("silent", "No such file"),
        ("odd", "99"),
        ("cut", "buffer is smaller than requested size"),
        ("ends", "the program ended with 3: no such operator"),
    ],
)
def test_what_lies_or_fails_there_is_not_equal(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, says: str
) -> None:
    monkeypatch.setenv("FAKE", does)
    found = measured(tmp_path, fake)
    assert ("failed", None) == (found.status, found.max_abs)
    assert says in found.reason


def test_other_answers_are_seen(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "differs")
    found = measured(tmp_path, fake)
    assert found.max_abs is not None
    assert found.max_abs > 0.01


def test_what_is_missing_is_said_before_anything_runs(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(target.FOLDER_VARIABLE, raising=False)
    with pytest.raises(
        UsageError, match=r"needs ONNX Runtime for aarch64; write qemu-aarch64-ort:DIR or set COMPRESS_"
    ):
        check("qemu-aarch64-ort")
    monkeypatch.setenv(target.FOLDER_VARIABLE, str(fake))
    assert {"onnxruntime": "1.30.0"} == check("qemu-aarch64-ort")
    (fake / "include/onnxruntime_c_api.h").unlink()
    with pytest.raises(UsageError, match=r"there is no onnxruntime_c_api\.h in"):
        check("qemu-aarch64-ort")
    (fake / "include/onnxruntime_c_api.h").touch()
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (fake / "lib/libonnxruntime.so.1.30.0").write_bytes(library.read_bytes()[:18] + b"\x3e\x00")  # x86-64
    with pytest.raises(UsageError, match="is no library for aarch64"):
        check("qemu-aarch64-ort")
    (fake / "lib/libonnxruntime.so.1.30.0").unlink()
    with pytest.raises(UsageError, match=r"there is no libonnxruntime\.so in"):
        check("qemu-aarch64-ort")
    (target.SYSTEM / "libstdc++.so.6").unlink()
    with pytest.raises(UsageError, match=r"apt install libstdc\+\+6-arm64-cross"):
        check("qemu-aarch64-ort")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"apt install gcc-aarch64-linux-gnu .* qemu-user-static"):
        check("qemu-aarch64-ort")


def _missing() -> str:
    if missing := [name for name in target.PROGRAMS if shutil.which(name) is None]:
        return f"needs {' and '.join(missing)}"
    return (
        "" if os.environ.get(target.FOLDER_VARIABLE) else f"{target.FOLDER_VARIABLE} names no ONNX Runtime for aarch64"
    )


@pytest.mark.skipif(bool(_missing()), reason=_missing())
@pytest.mark.parametrize("pixels", [False, True])
def test_64_bit_arm_computes_the_same(tmp_path: Path, pixels: bool) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    normalisation = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)) if pixels else None
    find("onnx").export(Request(net, (3, 8, 8), normalisation=normalisation), tmp_path / "model.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    files = [tmp_path / "model.onnx", tmp_path / "broken.onnx"]
    (found, broken), _ = target.measure(files, Timing(), "qemu-aarch64-ort")
    assert ("measured", "") == (found.status, found.reason)
    assert found.max_abs is not None
    assert found.max_abs < 1e-5
    assert "failed" == broken.status
