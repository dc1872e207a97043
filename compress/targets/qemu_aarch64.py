"""64-bit Arm Linux in an emulator: C files give the same outputs there. No time is claimed: it is an emulator's."""

from collections.abc import Sequence
from pathlib import Path

from compress.errors import UsageError
from compress.targets import Measurement, Speedup, Timing
from compress.targets._emulated import Machine, compare, need

SUFFIXES = (".c",)
UNIT = ""

PROGRAMS = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "qemu-aarch64-static": "qemu-user-static",
}

FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-static", "-Wall", "-Wextra", "-Werror")


def check(target: str) -> dict[str, str]:
    """The compiler and the emulator are there.

    Raises:
        UsageError: the target was given an address, or a program is missing.
    """
    if target != "qemu-aarch64":
        raise UsageError(f"target {target!r} takes no address; write qemu-aarch64")
    need(target, PROGRAMS)
    return {}


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Outputs of each C file there beside this machine's; no latency, and no speed-up.

    Raises:
        UsageError: a program is missing.
    """
    check(target)
    machine = Machine("aarch64-linux-gnu-gcc", FLAGS, ("qemu-aarch64-static", "-cpu", "cortex-a72"))
    device = {"emulator": "QEMU, Cortex-A72", "flags": " ".join(FLAGS)}
    return [compare(path, machine, target, device)[0] for path in paths], None
