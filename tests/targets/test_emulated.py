"""The targets `mcu` and `qemu-aarch64`: what runs there computes the same, and counts repeat."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import UsageError
from compress.targets import Timing, _emulated, check, find, mcu, names, qemu_aarch64
from compress_exporters import Request
from compress_exporters import find as exporter


def without(programs: dict[str, str]) -> list[str]:
    return [name for name in programs if shutil.which(name) is None]


needs_mcu = pytest.mark.skipif(bool(without(mcu.PROGRAMS)), reason=f"needs {without(mcu.PROGRAMS)}")
needs_arm = pytest.mark.skipif(bool(without(qemu_aarch64.PROGRAMS)), reason=f"needs {without(qemu_aarch64.PROGRAMS)}")


def written(folder: Path, name: str, share: float, format: str = "c") -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 25, 4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape) < share)
    images = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    path = folder / f"{name}{exporter(format).suffix}"
    return exporter(format).export(Request(model, (3, 12, 12), calibration=images), path).path


@needs_mcu
@pytest.mark.parametrize("core", mcu.CORES)
def test_a_microcontroller_counts_instructions(core: str, tmp_path: Path) -> None:
    files = [written(tmp_path, "dense", 1.0), written(tmp_path, "model", 0.05)]
    target = f"mcu:{core}"
    (dense, pruned), speedup = find(target).measure(files, Timing(), target)
    for measurement in (dense, pruned):
        assert (measurement.status, measurement.latency_ms) == ("measured", None)
        assert measurement.max_abs is not None
        assert measurement.max_abs < 1e-5
    assert speedup is None
    assert dense.instructions is not None
    assert pruned.instructions is not None
    macs = 8 * 27 * 100 + 200 * 4
    assert macs < dense.instructions < 200 * macs
    assert dense.instructions > 4 * pruned.instructions
    assert int(dense.device["flash_bytes"]) > 4 * (216 + 800)
    again, _ = find(target).measure(files[1:], Timing(), target)
    assert again[0].instructions == pruned.instructions


@needs_mcu
def test_integers_need_no_floating_point_unit(tmp_path: Path) -> None:
    files = [written(tmp_path, "model", 0.3), written(tmp_path, "model", 0.3, "c-int8")]
    (real, whole), _ = find("mcu").measure(files, Timing(), "mcu:cortex-m3")
    assert (whole.status, whole.max_abs) == ("measured", 0.0)  # integers: the same bits on every machine
    assert real.instructions is not None
    assert whole.instructions is not None
    assert real.instructions > 5 * whole.instructions


@needs_arm
def test_64_bit_arm_computes_the_same(tmp_path: Path) -> None:
    found, speedup = find("qemu-aarch64").measure([written(tmp_path, "model", 0.3)], Timing(), "qemu-aarch64")
    assert ("measured", None, None) == (found[0].status, found[0].latency_ms, speedup)
    assert found[0].max_abs is not None
    assert found[0].max_abs < 1e-5


@needs_arm
def test_a_program_that_computes_something_else_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path, "model", 0.3)
    text = path.read_text()
    wrong = text.replace(
        "memcpy(output,", "#ifdef __aarch64__\n  arena[0] = arena[1] = arena[2] = 3;\n#endif\n  memcpy(output,"
    )
    assert wrong != text
    path.write_text(wrong.replace("arena[0] = arena[1] = arena[2] = 3;", "for (int i = 0; i < 300; ++i) arena[i] = 3;"))
    found, _ = qemu_aarch64.measure([path], Timing(), "qemu-aarch64")
    assert (found[0].max_abs or 0) > 1e-2


@needs_arm
def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "model", 0.3)
    path.write_text(path.read_text().replace("memcpy(output,", "__builtin_trap();\n  memcpy(output,"))
    found, _ = qemu_aarch64.measure([path], Timing(), "qemu-aarch64")
    assert found[0].status == "failed"
    assert "the program ended with" in found[0].reason


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"needs arm-none-eabi-gcc and qemu-system-arm; .* apt install gcc-arm"):
        check("mcu")
    with pytest.raises(UsageError, match="needs aarch64-linux-gnu-gcc and qemu-aarch64-static"):
        check("qemu-aarch64")


def test_wrong_addresses_are_refused() -> None:
    with pytest.raises(UsageError, match="no core 'cortex-m99' here; known: cortex-m3, cortex-m4"):
        check("mcu:cortex-m99")
    with pytest.raises(UsageError, match="takes no address"):
        check("qemu-aarch64:x")
    assert {"local", "c", "mcu", "qemu-aarch64"} <= set(names())


def test_need_says_nothing_where_all_is_there() -> None:
    _emulated.need("x", {"sh": "dash"})
