"""The offline web page: model, preprocessing and onnxruntime-web in one HTML file."""

import base64
import gzip
import json
from collections.abc import Sequence

from compress.app.templates import render
from compress.web_runtime import BINARY, BUNDLE, WebRuntime

DRAWN = (1, 28, 28)
"""Input shape of models that digits are drawn for."""

LARGEST_BYTES = 100_000_000
"""Of a model in a page: a browser holds its text, its bytes and the opened model at the same time."""


def page(title: str, labels: Sequence[str], shape: tuple[int, int, int], model: bytes, runtime: WebRuntime) -> bytes:
    """One self-contained page; the same arguments give the same bytes."""
    text = render(
        "web/index.html.j2",
        title=title,
        # Inside a script only "<" could end it.
        labels=json.dumps(list(labels)).replace("<", "\\u003c"),
        draws=shape == DRAWN,
        height=shape[1],
        width=shape[2],
        runtime=runtime.version,
        model=_embedded(model),
        module=_embedded(runtime.read(BUNDLE)),
        binary=_embedded(runtime.read(BINARY)),
    )
    return text.encode()


def _embedded(data: bytes) -> str:
    # Level 6: 9 takes three times as long for one part in a hundred.
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode("ascii")
