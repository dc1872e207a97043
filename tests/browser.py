"""What the tests that need a browser or another language look for, and why they are skipped without it."""

import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from compress import chromium, web_runtime
from compress.errors import UsageError


def _missing() -> str:
    try:
        chromium.find()
        web_runtime.find()
    except UsageError as error:
        return str(error)
    return ""


def _no_node() -> str:
    if not shutil.which("node"):
        return "no Node on the PATH"
    words = ["node", "-e", "require('onnxruntime-node')"]
    found = subprocess.run(words, capture_output=True, check=False, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
    return (
        "" if found.returncode == 0 else "Node finds no onnxruntime-node; set NODE_PATH to a node_modules that has it"
    )


HEADERS = Path(os.environ.get("ORT_INCLUDE", "/usr/include/onnxruntime"))
LIBRARY = max(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), default=None)


def _no_c() -> str:
    if not shutil.which("gcc"):
        return "no gcc on the PATH"
    if not (HEADERS / "onnxruntime_c_api.h").is_file():
        return f"no onnxruntime_c_api.h in {HEADERS}; set ORT_INCLUDE (Debian's libonnxruntime-dev has it)"
    return "" if LIBRARY else "this onnxruntime brings no shared library"


needs_browser = pytest.mark.skipif(bool(_missing()), reason=_missing())
needs_node = pytest.mark.skipif(bool(_no_node()), reason=_no_node())
needs_c = pytest.mark.skipif(bool(_no_c()), reason=_no_c())
