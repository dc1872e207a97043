"""A device that the system's ssh reaches: ``ssh://user@host:port?python=/path/python``.

Measured as this machine is (see `compress.targets._device`), in a folder that is removed whatever happens. The device
needs a POSIX shell, Python 3.8, numpy and onnxruntime.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from compress.errors import RunError, UsageError
from compress.targets import Measurement, Speedup, Timing
from compress.targets._ssh import ask, parse
from compress.targets.local import summarised

SUFFIXES = (".onnx", ".ort")

CHECK_SECONDS = 180.0
"""A small device imports onnxruntime from its card for many seconds."""

MEASURE_SECONDS = 3600.0
"""Beside the time that was asked for: sending, warming up, and three inferences of a slow network at least."""

PAUSES_SECONDS = (0.0, 5.0, 30.0)
"""Before each attempt to measure; a device that starts again takes half a minute."""

TOO_OLD = re.compile(
    r"Unsupported model IR version: \d+, max supported IR version: \d+"
    r"|official support for domain [\w.]+ is till opset \d+"
)
"""How ONNX Runtime refuses a file that is newer than itself."""


def check(target: str) -> Mapping[str, str]:
    """What the device says of itself; it can be reached and has what measuring needs.

    Raises:
        UsageError: no address, ssh refuses, or the device lacks something.
        RunError: it cannot be reached.
    """
    device: Mapping[str, str] = ask(parse(target), {}, [], seconds=CHECK_SECONDS)["device"]
    return device


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Measure files against each other on the device; arguments and result are those of `compress.targets.local`.

    Raises:
        UsageError: the target is no address.
        RunError: the device is lost, or can no longer be used; the same command resumes.
    """
    address = parse(target)
    seconds = MEASURE_SECONDS + 2 * how.budget_seconds
    try:
        found = ask(address, asdict(how), paths, seconds=seconds, pauses=PAUSES_SECONDS)
    except UsageError as error:  # what the start of the run found in order
        raise RunError(str(error)) from None
    if len(found["files"]) != len(paths):
        raise RunError(f"{address.host}: it measured {len(found['files'])} files in place of {len(paths)}; try again")
    for path, file in zip(paths, found["files"], strict=True):
        # an error of the run, not a finding about the file: with a newer runtime the same command goes on
        if old := TOO_OLD.search(file.get("reason", "")):
            raise RunError(
                f"{address.host}: its onnxruntime is too old for {path.name} ({old[0]}); type there: {address.python} "
                "-m pip install --upgrade onnxruntime; or export with a lower --opset"
            )
    return summarised(found, paths, target, how.threads)
