"""Where onnxruntime-web is: the npm package that runs ONNX models in a browser."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from compress.errors import UsageError

VARIABLE = "COMPRESS_WEB_RUNTIME"
"""Environment variable that names the package's folder."""

BUNDLE = "ort.wasm.bundle.min.mjs"
MODULE = "ort.wasm.min.mjs"
WORKER = "ort-wasm-simd-threaded.mjs"
BINARY = "ort-wasm-simd-threaded.wasm"

HOW_TO_GET_IT = f"run `npm i onnxruntime-web` where you run compress, or name its folder in {VARIABLE}"


@dataclass(frozen=True)
class WebRuntime:
    """An installed onnxruntime-web.

    Attributes:
        folder: of its built files.
        version: of the package.
    """

    folder: Path
    version: str

    def read(self, name: str) -> bytes:
        """One of its built files."""
        return (self.folder / name).read_bytes()


def find(given: Path | None = None) -> WebRuntime:
    """The package in the folder given, in the folder that the environment names, or in ./node_modules.

    Args:
        given: folder of the package, "node_modules/onnxruntime-web" for instance.

    Raises:
        UsageError: it is not there, or lacks a file.
    """
    named = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    package = (named or Path("node_modules") / "onnxruntime-web").expanduser()
    try:
        version = str(json.loads((package / "package.json").read_text("utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"no onnxruntime-web in {package}; {HOW_TO_GET_IT}") from None
    folder = package / "dist"
    missing = [name for name in (BUNDLE, MODULE, WORKER, BINARY) if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"onnxruntime-web {version} in {package} lacks dist/{missing[0]}; install 1.20 or newer")
    return WebRuntime(folder, version)
