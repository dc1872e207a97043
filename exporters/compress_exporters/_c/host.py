"""The C file compiled with this machine's compiler and called from Python."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress_exporters._c.source import identifier
from compress_exporters.artifact import ExportError, Predict

WARNINGS = ("-Wall", "-Wextra", "-Werror")
FLAGS = ("-std=c99", "-O3", "-march=native", "-ffp-contract=fast", *WARNINGS)
"""-ffp-contract: in ISO mode GCC does not use fused multiply-adds unless told."""


@dataclass(frozen=True)
class Library:
    """A compiled network.

    Attributes:
        run: its function, of three float pointers: input, output, arena.
        library: with whatever else was compiled in.
        input_size: floats of one image.
        output_size: floats of its scores.
        arena: floats of working memory.
    """

    run: "ctypes._FuncPointer"
    library: ctypes.CDLL
    input_size: int
    output_size: int
    arena: int


def compiler() -> str:
    """The system's C compiler.

    Raises:
        ExportError: there is none.
    """
    asked = [*os.environ.get("CC", "").split()[:1], "cc", "gcc", "clang"]
    found = next((path for name in asked if (path := shutil.which(name))), None)
    if found is None:
        raise ExportError("no C compiler here (looked for $CC, cc, gcc, clang); install one, for instance Debian's gcc")
    return found


def sizes(header: Path) -> tuple[int, int, int]:
    """Input, output and arena in floats, as the header says.

    Raises:
        ExportError: it does not say.
    """
    try:
        text = header.read_text("utf-8")
        one, two, three = (int(re.findall(rf"_{key} (\d+)$", text, re.M)[0]) for key in ("INPUT", "OUTPUT", "ARENA"))
    except (OSError, UnicodeDecodeError, IndexError):
        raise ExportError(f"{header} is not the header of a written network; export it again") from None
    return one, two, three


def build(path: Path, *, flags: tuple[str, ...] = FLAGS, further: tuple[str, ...] = ()) -> Library:
    """Compile a written network and load it.

    Args:
        path: the .c file, its header beside it.
        flags: of the compiler.
        further: C text compiled in with it.

    Raises:
        ExportError: no compiler, or it refuses the file.
    """
    input_size, output_size, arena = sizes(path.with_suffix(".h"))
    folder = Path(tempfile.mkdtemp(prefix="compress-c-"))
    try:
        extra = []
        for number, text in enumerate(further):
            extra.append(folder / f"further{number}.c")
            extra[-1].write_text(text)
        made = folder / "net.so"
        words = [
            compiler(),
            *flags,
            "-shared",
            "-fPIC",
            f"-I{path.parent.absolute()}",
            "-o",
            str(made),
            str(path.absolute()),
            *map(str, extra),
            "-lm",
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error:" in line] or ["it gave no reason"]
            raise ExportError(
                f"the C compiler refuses {path.name}: {said[0].partition('error:')[2].strip() or said[0]}"
            )
        library = ctypes.CDLL(str(made))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run = getattr(library, f"{identifier(path)}_run")
    run.argtypes = [ctypes.c_void_p] * 3
    run.restype = None
    return Library(run, library, input_size, output_size, arena)


def predict(path: Path) -> Predict:
    """Scores of images, one after the other."""
    library = build(path)
    arena = np.zeros(library.arena, np.float32)

    def answer(images: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(images.reshape(len(images), -1), np.float32)
        if flat.shape[1] != library.input_size:
            raise ExportError(f"{path.name} takes {library.input_size} floats an image, got {flat.shape[1]}")
        outputs = np.empty((len(flat), library.output_size), np.float32)
        for image, output in zip(flat, outputs, strict=True):
            library.run(image.ctypes.data, output.ctypes.data, arena.ctypes.data)
        return outputs

    return answer
