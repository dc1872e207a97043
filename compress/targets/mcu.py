"""A microcontroller in an emulator: C files on an Arm Cortex-M, as deterministic counts of instructions.

QEMU executes one instruction after the other; there is no model of pipeline, cache or flash wait states. So these are
instructions, not cycles, and no time is claimed: ratios of counts say what zeros save, and equal runs count equally.
``mcu`` is a Cortex-M4 with its single-precision unit; ``mcu:cortex-m7`` and ``mcu:cortex-m3`` (no floating-point unit)
are the others.
"""

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from compress.errors import UsageError
from compress.targets import Measurement, Speedup, Timing
from compress.targets._emulated import Machine, compare, need
from compress_exporters._c.host import compile_program
from compress_exporters.artifact import ExportError

SUFFIXES = (".c",)
UNIT = "instructions"

SHIFT = 5
"""An instruction takes 2**5 ns of the emulator's time; a tick of the 25 MHz timer is 40 ns."""

_HARD = ("-mthumb", "-mfloat-abi=hard")
CORES = {
    "cortex-m3": ("mps2-an385", ("-mcpu=cortex-m3", "-mthumb", "-mfloat-abi=soft")),
    "cortex-m4": ("mps2-an386", ("-mcpu=cortex-m4", *_HARD, "-mfpu=fpv4-sp-d16")),
    "cortex-m7": ("mps2-an500", ("-mcpu=cortex-m7", *_HARD, "-mfpu=fpv5-sp-d16")),
}
"""Core -> QEMU's board, and the compiler's flags."""

FLAGS = ("-std=gnu99", "-O3", "-ffp-contract=fast", "-ffunction-sections", "-Wall", "-Wextra", "-Werror")

PROGRAMS = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}

CLOCK = """
#define TIMER ((volatile uint32_t *)0x40000000)
static void start_clock(void) { TIMER[0] = 0; TIMER[2] = 0xffffffffu; TIMER[1] = 0xffffffffu; TIMER[0] = 1; }
static unsigned long read_clock(void) { return 0xffffffffu - TIMER[1]; }
"""
"""The board's 32-bit timer: control, value, reload."""

START = """
#include <stdint.h>
#include <stdlib.h>
extern void initialise_monitor_handles(void);
extern int main(void);
extern uint32_t stack_top;
void reset(void);
void stop(void);
void reset(void)
{
#ifdef __ARM_FP
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* coprocessors 10 and 11: floating point */
  __asm volatile("dsb\\n isb");
#endif
  initialise_monitor_handles();
  exit(main());
}
void stop(void) { for (;;) {} }
__attribute__((section(".vectors"), used)) void (*const vectors[16])(void) = {
  (void (*)(void))&stack_top, reset, stop, stop, stop, stop, stop, 0, 0, 0, 0, stop, stop, 0, stop, stop,
};
"""

LAYOUT = """
MEMORY { CODE (rx) : ORIGIN = 0, LENGTH = 4M  DATA (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
ENTRY(reset)
SECTIONS
{
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) } > CODE
  .ARM.exidx : { __exidx_start = .; *(.ARM.exidx*) __exidx_end = .; } > CODE
  .data : { *(.data*) } > DATA
  .bss : { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; } > DATA
  end = .;
  stack_top = ORIGIN(DATA) + LENGTH(DATA);
  __stack = stack_top;
}
"""


def check(target: str) -> dict[str, str]:
    """The compiler and the emulator are there.

    Raises:
        UsageError: an unknown core, or a program is missing.
    """
    core = _core(target)
    need(target, PROGRAMS)
    return {"core": core}


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Instructions of one inference of each C file, and its outputs beside this machine's.

    Counts do not vary, so nothing of ``how`` is needed; a speed-up is not claimed.

    Raises:
        UsageError: an unknown core, or a program is missing.
    """
    core = check(target)["core"]
    board, flags = CORES[core]
    found = []
    with tempfile.TemporaryDirectory(prefix="compress-mcu-") as folder:
        layout = Path(folder, "layout.ld")
        layout.write_text(LAYOUT)
        link = ("--specs=rdimon.specs", "-nostartfiles", f"-T{layout}", "-Wl,--gc-sections,--no-warn-rwx-segments")
        emulator = ("qemu-system-arm", "-M", board, "-icount", f"shift={SHIFT}", "-nographic", "-monitor", "none")
        semihosting = ("-serial", "none", "-semihosting-config", "enable=on,target=native", "-kernel")
        machine = Machine("arm-none-eabi-gcc", (*FLAGS, *flags, *link), (*emulator, *semihosting), CLOCK, (START,))
        for path in paths:
            device = {"core": core, "emulator": f"QEMU {board}, instructions counted"}
            measurement, ticks = compare(path, machine, target, device)
            if measurement.status == "measured":
                device |= _footprint(path, Path(folder), (*FLAGS, *flags))
                measurement = dataclasses.replace(measurement, instructions=ticks * 40 // 2**SHIFT, device=device)
            found.append(measurement)
    return found, None


def _footprint(path: Path, folder: Path, flags: tuple[str, ...]) -> dict[str, str]:
    """Flash that the network takes, code and weights, in bytes; nothing where it cannot be told."""
    try:
        made = compile_program(path, folder, (), flags=(*flags, "-c"), cc="arm-none-eabi-gcc")
        done = subprocess.run(
            [shutil.which("arm-none-eabi-size") or "size", str(made)], capture_output=True, text=True, check=True
        )
        return {"flash_bytes": done.stdout.splitlines()[1].split()[0]}
    except (ExportError, subprocess.SubprocessError, OSError, IndexError):
        return {}


def _core(target: str) -> str:
    core = target.partition(":")[2] or "cortex-m4"
    if core not in CORES:
        raise UsageError(f"target {target}: no core {core!r} here; known: {', '.join(CORES)}")
    return core
