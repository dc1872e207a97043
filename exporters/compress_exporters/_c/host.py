"""The C file compiled with this machine's compiler and called from Python."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_exporters._c.source import identifier
from compress_exporters.artifact import ExportError, Predict

WARNINGS = ("-Wall", "-Wextra", "-Werror")
FLAGS = ("-std=c99", "-O3", "-march=native", "-ffp-contract=fast", *WARNINGS)
"""-ffp-contract: in ISO mode GCC does not use fused multiply-adds unless told."""


@dataclass(frozen=True)
class Library:
    """A compiled network.

    Attributes:
        library: it, with whatever else was compiled in.
        input_size: floats of one image.
        output_size: floats of its scores.
        arena: floats of working memory.
    """

    library: ctypes.CDLL
    input_size: int
    output_size: int
    arena: int

    def call(self, name: str, *arguments: int | npt.NDArray[Any]) -> None:
        """Call a function that gives nothing back, with ints and pointers to arrays."""
        words = [a if isinstance(a, int) else ctypes.c_void_p(a.ctypes.data) for a in arguments]
        getattr(self.library, name)(*words)


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
    found = sizes(path.with_suffix(".h"))
    with tempfile.TemporaryDirectory(prefix="compress-c-") as folder:
        made = compile_program(path, Path(folder), further, flags=(*flags, "-shared", "-fPIC"))
        return Library(ctypes.CDLL(str(made)), *found)


def compile_program(
    path: Path, folder: Path, further: tuple[str, ...], *, flags: tuple[str, ...] = FLAGS, cc: str | None = None
) -> Path:
    """Compile a written network with further C text into a program, or into what the flags ask for.

    Args:
        path: the .c file, its header beside it.
        folder: where everything is written.
        further: C text compiled in with it.
        flags: of the compiler.
        cc: the compiler; the system's by default.

    Raises:
        ExportError: no compiler, or it refuses the file.
    """
    texts = [folder / f"further{number}.c" for number in range(len(further))]
    for file, text in zip(texts, further, strict=True):
        file.write_text(text, "utf-8")
    made = folder / "made"
    words = [cc or compiler(), *flags, f"-I{path.parent.absolute()}", "-o", str(made), str(path.absolute())]
    done = subprocess.run([*words, *map(str, texts), "-lm"], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error:" in line or "undefined" in line] or [
            "it gave no reason"
        ]
        raise ExportError(f"the C compiler refuses {path.name}: {said[0].partition('error:')[2].strip() or said[0]}")
    return made


def predict(path: Path) -> Predict:
    """Scores of images, one after the other."""
    library, name = build(path), f"{identifier(path)}_run"
    arena = np.zeros(library.arena, np.float32)

    def answer(images: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(images.reshape(len(images), -1), np.float32)
        if flat.shape[1] != library.input_size:
            raise ExportError(f"{path.name} takes {library.input_size} floats an image, got {flat.shape[1]}")
        outputs = np.empty((len(flat), library.output_size), np.float32)
        for image, output in zip(flat, outputs, strict=True):
            library.call(name, image, output, arena)
        return outputs

    return answer
