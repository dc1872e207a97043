"""The files of ``DIR/app``, from a composed and proved model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress import web_runtime
from compress.app.card import markdown, model_card
from compress.app.check import Agreement
from compress.app.graph import AppModel, Preprocessing
from compress.app.page import DRAWN, LARGEST_BYTES, page
from compress.app.templates import PROGRAMS, program, render
from compress.data import Data
from compress.errors import UsageError
from compress.onnx_file import session
from compress.report import words
from compress.report.fields import Report, clean, text

TERMS = {
    "mnist": "MNIST's authors give no licence file; it is commonly distributed under CC BY-SA 3.0 "
    "(https://creativecommons.org/licenses/by-sa/3.0/).",
}
"""What is known of the terms of data sets that come with the tool; see its NOTICE."""


@dataclass(frozen=True)
class Ingredients:
    """What a bundle is made of.

    Attributes:
        model: composed and proved.
        agreement: what the proof found.
        preprocessing: inside the model.
        data: names the classes and gives the sample.
        report: of the run, as far as it is known.
        min_ort: oldest ONNX Runtime that loads the model.
        web_runtime: folder of onnxruntime-web, where the recipe names one.
        c_sources: files of the network as C source, name to content.
    """

    model: AppModel
    agreement: Agreement
    preprocessing: Preprocessing
    data: Data
    report: Report
    min_ort: str
    web_runtime: Path | None
    c_sources: Mapping[str, bytes]


def contents(given: Ingredients) -> dict[str, bytes]:
    """Every file of the bundle, by its path in it."""
    sample, pixels = _sample(given.data)
    names, line = _answer(given, pixels)
    title = words.title(given.report)
    found = {
        "model.onnx": given.model.whole,
        "labels.txt": "".join(f"{name}\n" for name in names).encode(),
        "labels.json": (json.dumps(names, indent=2) + "\n").encode(),
        sample: _pnm(pixels),
        **{name: program(name) for name in PROGRAMS},
        **{f"c99/{name}": content for name, content in given.c_sources.items()},
    }
    runtime, missing = _runtime(given.web_runtime, len(given.model.whole))
    if runtime is not None:
        found["web/index.html"] = page(title, names, given.preprocessing.shape, given.model.whole, runtime)
    channels, height, width = given.preprocessing.shape
    texts = {
        "MODEL_CARD.md": model_card(given.report, given.preprocessing, given.agreement, names),
        "NOTICE.txt": render(
            "NOTICE.txt.j2",
            data=clean(given.data.name),
            terms=TERMS.get(given.data.name, ""),
            weights=bool(text(given.report, "recipe", "model", "weights")),
            sample=sample,
            runtime=clean(runtime.version) if runtime else "",
            c99=bool(given.c_sources),
        ),
        "README.md": render(
            "README.md.j2",
            title=markdown(title),
            classes=len(names),
            channels=channels,
            height=height,
            width=width,
            shorter_side=given.preprocessing.shorter_side,
            min_ort=given.min_ort,
            sample=sample,
            expected=line,
            page=runtime is not None,
            page_missing=missing,
            draws=given.preprocessing.shape == DRAWN,
            c99=bool(given.c_sources),
        ),
    }
    return found | {name: said.encode() for name, said in texts.items()}


def _runtime(folder: Path | None, size_bytes: int) -> tuple[web_runtime.WebRuntime | None, str]:
    """onnxruntime-web for a model of a size, or why there is no page."""
    if size_bytes > LARGEST_BYTES:
        return (
            None,
            f"the model takes {size_bytes / 1e6:.0f} MB, and one page holds {LARGEST_BYTES / 1e6:.0f} MB at most",
        )
    try:
        return web_runtime.find(folder), ""
    except UsageError as error:
        return None, f"{error}, then run the same compress command again"


def labels(classes: Sequence[str], outputs: int) -> list[str]:
    """A printable name for every output of the network; outputs beyond the classes are numbered.

    >>> labels(["cat", "dog"], 3)
    ['cat', 'dog', '2']
    """
    return [clean(name).strip() for name in classes] + [str(i) for i in range(len(classes), outputs)]


def _sample(data: Data) -> tuple[str, npt.NDArray[np.uint8]]:
    """The first test image, as a file name and pixels (H, W, C)."""
    stored = data.test.raw(0, 1)
    assert stored is not None  # 8-bit images only
    pixels = stored[0][0]
    return ("sample.pgm" if pixels.shape[2] == 1 else "sample.ppm"), pixels


def _pnm(pixels: npt.NDArray[np.uint8]) -> bytes:
    height, width, channels = pixels.shape
    return f"P{5 if channels == 1 else 6}\n{width} {height}\n255\n".encode() + pixels.tobytes()


def _answer(given: Ingredients, pixels: Any) -> tuple[list[str], str]:
    """Names of the classes, and the line that the programs print for the sample."""
    label, probability, probabilities = session(given.model.whole).run(None, {"image": pixels})
    names = labels(given.data.classes, probabilities.shape[1])
    return names, f"{names[label[0]]}  {100 * probability[0]:.2f} %  ... ms"
