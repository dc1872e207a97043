"""C files in an emulator: the same program there and here, on the same image; what it prints is compared."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.errors import UsageError
from compress.targets import Measurement
from compress_exporters._c.host import compile_program
from compress_exporters._c.source import identifier
from compress_exporters.artifact import ExportError

TIMEOUT_SECONDS = 600

PROGRAM = """
#include "{header}"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
static float input[{guard}_INPUT], output[{guard}_OUTPUT], arena[{guard}_ARENA];
{clock}
int main(void)
{{
  uint32_t state = 1;
  for (int i = 0; i < {guard}_INPUT; ++i) {{
    state = state * 1664525u + 1013904223u;
    input[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
  }}
  start_clock();
  {name}_run(input, output, arena);
  printf("clock %lu\\n", read_clock());
  for (int i = 0; i < {guard}_OUTPUT; ++i) {{
    uint32_t bits;
    memcpy(&bits, output + i, 4);
    printf("%08lx\\n", (unsigned long)bits);
  }}
  return 0;
}}
"""
"""Numerical Recipes' generator makes the image; outputs are printed bit by bit."""

NO_CLOCK = """
static void start_clock(void) {}
static unsigned long read_clock(void) { return 0; }
"""


@dataclass(frozen=True)
class Machine:
    """How a file is compiled for a machine and run on it.

    Attributes:
        cc: the compiler.
        flags: of the compiler.
        run: words before the program.
        clock: C functions ``start_clock`` and ``read_clock``.
        further: C text compiled in with it.
    """

    cc: str | None
    flags: tuple[str, ...]
    run: tuple[str, ...] = ()
    clock: str = NO_CLOCK
    further: tuple[str, ...] = ()


def need(target: str, programs: Mapping[str, str]) -> None:
    """What a target cannot do without.

    Args:
        target: as asked for.
        programs: name -> Debian package.

    Raises:
        UsageError: programs are missing; all are named, with how to get them.
    """
    if missing := [name for name in programs if shutil.which(name) is None]:
        packages = " ".join(dict.fromkeys(programs[name] for name in missing))
        raise UsageError(
            f"target {target} needs {' and '.join(missing)}; install them, on Debian: apt install {packages}"
        )


def compare(path: Path, machine: Machine, target: str, device: Mapping[str, str]) -> tuple[Measurement, int]:
    """Run a file there and here.

    Returns:
        A measurement whose ``max_abs`` is the largest difference of an output, and what the clock read.
    """
    common = (path.name, target, "C", 1)
    try:
        there, clock = _answer(path, machine)
        here, _ = _answer(path, Machine(None, ("-std=c99", "-O2")))
    except (ExportError, subprocess.SubprocessError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        return Measurement(*common, "failed", reason, device=device), 0
    max_abs = float(np.abs(there.astype(np.float64) - here).max())
    if not np.isfinite(max_abs):
        return Measurement(*common, "failed", "an output is not finite", device=device), 0
    return Measurement(*common, "measured", max_abs=max_abs, device=device), clock


def _answer(path: Path, machine: Machine) -> tuple[np.ndarray, int]:
    """Outputs on the image, and the clock."""
    name = identifier(path)
    text = PROGRAM.format(header=path.with_suffix(".h").name, guard=name.upper(), name=name, clock=machine.clock)
    with tempfile.TemporaryDirectory(prefix="compress-emulated-") as folder:
        program = compile_program(path, Path(folder), (text, *machine.further), flags=machine.flags, cc=machine.cc)
        words: Sequence[str] = [*machine.run, str(program)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ValueError(f"the program ended with {done.returncode}: {done.stderr.strip()[-200:] or 'no reason given'}")
    first, *rest = done.stdout.split("\n")
    if not first.startswith("clock ") or not rest:
        raise ValueError(f"the program printed {done.stdout[:80]!r}, no outputs")
    bits = np.array([int(line, 16) for line in rest if line.strip()], np.uint32)
    return bits.view(np.float32), int(first.split()[1])
