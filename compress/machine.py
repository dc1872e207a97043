"""What this machine is and can do."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from compress import __version__
from compress.errors import UsageError
from compress.run import Run


def device(asked: str) -> torch.device:
    """The device asked for; ``auto`` takes a GPU where there is one.

    Raises:
        UsageError: it cannot be used here.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(asked)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {asked!r} cannot be used ({str(error).splitlines()[0]}); try --device cpu") from None
    if found.type == "cuda":
        torch.backends.cudnn.benchmark = True
        # The default stream cannot be recorded, and what a step has used on one stream must not move to another.
        torch.cuda.set_stream(torch.cuda.Stream(found))  # type: ignore[no-untyped-call]
    return found


def precision(device: torch.device) -> dict[str, str]:
    """Autocast dtype, and why; decided once per run directory so that a resumed run computes the same."""
    if device.type == "cuda":
        return {
            "dtype": "bf16" if torch.cuda.is_bf16_supported() else "fp32",
            "reason": "what the GPU supports",
        }
    if torch.cpu._is_avx512_bf16_supported():
        return {"dtype": "bf16", "reason": "the CPU multiplies bfloat16 in hardware"}
    return {"dtype": "fp32", "reason": "the CPU has no bfloat16 instructions"}


def environment(run: Run) -> dict[str, Any]:
    """Versions, CPU and threads of a run, for its report."""
    return {
        **versions(),
        "device": str(run.device),
        "precision": str(run.autocast).removeprefix("torch.") if run.autocast else "float32",
        "training_threads": torch.get_num_threads(),
        "threads": run.recipe.validate_.threads,
    }


def versions() -> dict[str, Any]:
    """Versions, system and CPU: what holds for every command."""
    return {
        "compress": __version__,
        "torch": torch.__version__,
        "onnxruntime": version("onnxruntime"),
        "onnx": version("onnx"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }


def cpu_name() -> str:
    """What the system calls its CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
