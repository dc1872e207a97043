"""C files on this machine: compiled with the system's compiler, timed inside C, all files interleaved in one run.

Optimised for this processor (-O3 -march=native); ``c:portable`` leaves -march out.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import RunError, UsageError
from compress.targets import Measurement, Speedup, Timing, _device
from compress.targets.local import summarised
from compress_exporters._c.host import FLAGS, Library, build, compile_program, compiler
from compress_exporters._c.source import identifier
from compress_exporters.artifact import ExportError

SUFFIXES = (".c",)

TIMER = """
#define _POSIX_C_SOURCE 199309L
#include <time.h>
void {name}_run(const float *, float *, float *);
void net_block(int count, long long *ns, const float *input, float *output, float *arena);
void net_block(int count, long long *ns, const float *input, float *output, float *arena)
{{
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (int i = 0; i < count; ++i) {{
    {name}_run(input, output, arena);
    clock_gettime(CLOCK_MONOTONIC, &b);
    ns[i] = (b.tv_sec - a.tv_sec) * 1000000000LL + (b.tv_nsec - a.tv_nsec);
    a = b;
  }}
}}
"""

PROGRAM = """
#define _POSIX_C_SOURCE 199309L
#include "{header}"
#include <stdio.h>
#include <time.h>
static float input[{guard}_INPUT], output[{guard}_OUTPUT], arena[{guard}_ARENA];
int main(void)
{{
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  {name}_run(input, output, arena);
  clock_gettime(CLOCK_MONOTONIC, &b);
  long kilobytes = 0;
  char line[256];
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status))
    if (sscanf(line, "VmHWM: %ld", &kilobytes) == 1)
      break;
  printf("[%f, %ld]\\n", (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6, kilobytes);
  return 0;
}}
"""
"""One inference in a process of its own: what a program with nothing else in it takes."""

Block = Callable[[int], list[int]]
"""Nanoseconds of each of so many inferences."""


def check(target: str) -> dict[str, str]:
    """The compiler there is.

    Raises:
        UsageError: an address other than ``portable``, or no compiler.
    """
    _flags(target)
    try:
        return {"compiler": _version(compiler())}
    except ExportError as error:
        raise UsageError(f"target {target}: {error}") from None


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Measure C files against each other; arguments and answer as of `compress.targets.local.measure`.

    The code runs in one thread, whatever ``how`` says.

    Raises:
        UsageError: the target was given an address other than ``portable``.
    """
    flags = _flags(target)
    blocks: list[Block | str] = []
    for path in paths:
        try:
            blocks.append(timed_block(path, flags))
        except ExportError as error:
            blocks.append(str(error))
    working = [block for block in blocks if not isinstance(block, str)]
    timings = iter(_device.timed(working, how.warm_up, how.repeats, how.budget_seconds))
    files: list[dict[str, Any]] = []
    for path, block in zip(paths, blocks, strict=True):
        if isinstance(block, str):
            files.append({"reason": block})
        else:
            alone = _once(path, flags) if how.fresh else _device.UNKNOWN
            files.append({"samples_ns": next(timings), **alone})
    described = _device.describe()
    device: dict[str, str] = {key: described[key] for key in ("cpu", "architecture", "kernel") if key in described}
    device |= {"compiler": _version(compiler()), "flags": " ".join(flags)}
    return summarised({"device": device, "files": files}, paths, target, 1, provider="C")


def timed_block(path: Path, flags: tuple[str, ...]) -> Block:
    """What times so many inferences of a file, on random numbers."""
    library = build(path, flags=flags, further=(TIMER.format(name=identifier(path)),))
    image = np.random.default_rng(0).standard_normal(library.input_size).astype(np.float32)
    output, arena = np.zeros(library.output_size, np.float32), np.zeros(library.arena, np.float32)
    return lambda count: _timed(library, count, (image, output, arena))


def _timed(library: Library, count: int, arrays: tuple[Any, ...]) -> list[int]:
    samples = np.zeros(count, np.int64)
    library.call("net_block", count, samples, *arrays)
    found: list[int] = samples.tolist()
    return found


def _once(path: Path, flags: tuple[str, ...]) -> dict[str, Any]:
    """First inference and peak memory of a process of its own; None each where it fails."""
    name = identifier(path)
    text = PROGRAM.format(header=path.with_suffix(".h").name, guard=name.upper(), name=name)
    with tempfile.TemporaryDirectory(prefix="compress-c-") as folder:
        try:
            program = compile_program(path, Path(folder), (text,), flags=flags)
            done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=True)
            first_ms, kilobytes = json.loads(done.stdout)
        except (ExportError, subprocess.SubprocessError, OSError, ValueError):
            return dict(_device.UNKNOWN)
    return {"load_ms": None, "first_ms": first_ms, "peak_memory_bytes": kilobytes * 1024 or None}


def _flags(target: str) -> tuple[str, ...]:
    if target not in ("c", "c:portable"):
        raise UsageError(f"target {target!r}: write c, or c:portable for code that runs on any processor of its kind")
    return FLAGS if target == "c" else tuple(flag for flag in FLAGS if flag != "-march=native")


def _version(compiler: str) -> str:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"the C compiler {compiler} does not run: {error}") from None
    return (done.stdout.splitlines() or [compiler])[0]
