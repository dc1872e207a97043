"""64-bit Arm Linux in an emulator: ONNX files give the same outputs in ONNX Runtime there. No time is claimed.

ONNX Runtime's own build for that processor runs, with the kernels that it has for Arm. `qemu-aarch64-ort:DIR`, or
COMPRESS_ORT_AARCH64, names a folder with its library and C header.
"""

import os
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UsageError
from compress.onnx_file import one_line, session
from compress.targets import Measurement, Speedup, Timing
from compress.targets._device import PROVIDER, feed_for
from compress.targets._emulated import TIMEOUT_SECONDS, need

SUFFIXES = (".onnx",)
UNIT = ""

FOLDER_VARIABLE = "COMPRESS_ORT_AARCH64"

PROGRAMS = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross",
    "qemu-aarch64-static": "qemu-user-static",
}

SYSTEM = Path("/usr/aarch64-linux-gnu/lib")
"""Where Debian's cross packages keep that processor's libraries."""

CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
"""Of a Cortex-A72. ONNX Runtime reads /proc/cpuinfo, and the host's ends it with a segmentation fault."""

TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
"""ONNX's numbers of the types that outputs may have."""

PROGRAM = files("compress.targets") / "once.c"

FLAGS = ("-std=gnu99", "-O1", "-Wall", "-Wextra", "-Werror")


def check(target: str) -> dict[str, str]:
    """The compiler, the emulator and ONNX Runtime for that processor are there; its version.

    Raises:
        UsageError: something is missing, and how to get it.
    """
    need(target, PROGRAMS)
    if not (SYSTEM / "libstdc++.so.6").exists():
        raise UsageError(f"target {target} needs libstdc++ in {SYSTEM}; on Debian: apt install libstdc++6-arm64-cross")
    library, _ = _runtime(target)
    return {"onnxruntime": library.name.partition(".so.")[2]}


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Outputs of each file there beside this machine's, on random inputs; no latency, and no speed-up.

    Raises:
        UsageError: something is missing.
    """
    device = {"emulator": "QEMU, Cortex-A72", **check(target)}
    library, header = _runtime(target)
    with tempfile.TemporaryDirectory(prefix="compress-emulated-") as scratch:
        folder = Path(scratch)
        words = _emulator(folder, library, header)
        return [_compare(path, how, target, device, folder, words) for path in paths], None


def _runtime(target: str) -> tuple[Path, Path]:
    """The library, and the folder of its header."""
    given = target.partition(":")[2] or os.environ.get(FOLDER_VARIABLE, "")
    advice = (
        f"write qemu-aarch64-ort:DIR or set {FOLDER_VARIABLE}; DIR is where onnxruntime-linux-aarch64-VERSION.tgz of "
        "ONNX Runtime's releases was unpacked, or the wheel for manylinux aarch64 with onnxruntime_c_api.h beside it"
    )
    if not given:
        raise UsageError(f"target {target} needs ONNX Runtime for aarch64; {advice}")
    libraries = [path for path in sorted(Path(given).rglob("libonnxruntime.so.*")) if path.is_file()]
    headers = sorted(Path(given).rglob("onnxruntime_c_api.h"))
    if not libraries or not headers:
        lacks = "libonnxruntime.so" if not libraries else "onnxruntime_c_api.h"
        raise UsageError(f"target {target}: there is no {lacks} in {given}; {advice}")
    with libraries[-1].open("rb") as file:
        start = file.read(20)
    if start[:4] != b"\x7fELF" or start[18:] != b"\xb7\x00":  # ELF's number of AArch64
        raise UsageError(f"target {target}: {libraries[-1]} is no library for aarch64; {advice}")
    return libraries[-1].resolve(), headers[0].parent


def _emulator(folder: Path, library: Path, header: Path) -> list[str]:
    """Words that run the program there, up to the model; `folder` gets the program and the system that it sees."""
    (folder / "root/proc").mkdir(parents=True)
    (folder / "root/proc/cpuinfo").write_text(CPUINFO)
    (folder / "root/lib").symlink_to(SYSTEM)
    (folder / "main.c").write_bytes(PROGRAM.read_bytes())
    words = ["aarch64-linux-gnu-gcc", *FLAGS, f"-I{header}", "main.c", "-o", "program"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{header}/onnxruntime_c_api.h does not compile: {done.stderr.strip()[-300:]}")
    emulator = ["qemu-aarch64-static", "-L", str(folder / "root"), "-cpu", "cortex-a72"]
    return [*emulator, str(folder / "program"), str(library)]


def _compare(
    path: Path, how: Timing, target: str, device: Mapping[str, str], folder: Path, words: Sequence[str]
) -> Measurement:
    common = (path.name, target, PROVIDER, 1)
    try:
        opened = session(path)
        feed = feed_for(opened, how.batch, how.shapes)
        here = [np.asarray(output) for output in opened.run(None, feed)]
        there = _answer(path, feed, folder, words)
        if [(a.dtype, a.size) for a in here] != [(b.dtype, b.size) for b in there]:
            raise ValueError("its outputs there have other types or sizes than here")
        differences = [np.abs(a.ravel().astype(float) - b.astype(float)) for a, b in zip(here, there, strict=True)]
        max_abs = max(float(one.max(initial=0.0)) for one in differences)
        if not np.isfinite([max_abs, *(one.sum() for one in differences)]).all():
            raise ValueError("an output is not finite")
    except Exception as error:  # whatever one file does, the others are compared
        return Measurement(*common, "failed", one_line(error), device=device)
    return Measurement(*common, "measured", max_abs=max_abs, device=device)


def _answer(path: Path, feed: Mapping[str, Any], folder: Path, words: Sequence[str]) -> list[Any]:
    """All outputs, flat."""
    given: list[str] = []
    for number, values in enumerate(feed.values()):
        (folder / f"{number}.bin").write_bytes(np.ascontiguousarray(values).tobytes())
        given += [str(folder / f"{number}.bin"), ",".join(map(str, values.shape))]
    answer = folder / "answer"
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [*words, str(path), str(answer), *given],
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"the program ended with {done.returncode}: {done.stderr.strip()[-200:] or 'no reason given'}")
    data, at, found = answer.read_bytes(), 0, []
    while at < len(data):
        kind, count = struct.unpack_from("<qq", data, at)
        found.append(np.frombuffer(data, TYPES[kind], count, at + 16))
        at += 16 + found[-1].nbytes
    return found
