"""The app stage of a run: compose, prove, and write ``DIR/app``; found again by its key like every other stage."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from compress import web_runtime
from compress.app.bundle import Ingredients, contents
from compress.app.check import prove
from compress.app.graph import Preprocessing, build
from compress.data import Data
from compress.errors import UsageError
from compress.report.fields import Report
from compress.run import Payload, Run
from compress.stages import digest

FOLDER = "app"

RESIZING_ORT = (1, 15)
"""First ONNX Runtime known to resize with antialiasing: 1.15.1 gives the same answers; older ones were not tried."""


def unfit(data: Data) -> str | None:
    """Why no bundle can be made for a data set, None where one can."""
    if data.loss is not None or not data.classes:
        return f"data {data.name} brings a loss of its own, so that the outputs are not known to be class scores"
    if data.input_shape[0] not in (1, 3):
        return f"images of data {data.name} have {data.input_shape[0]} channels; grey and RGB are known"
    if data.test.raw(0, 1) is None:
        return f"images of data {data.name} are not of 8 bits"
    return None


def write(run: Run, report: Report, network: Callable[[], bytes]) -> Payload | None:
    """Write the bundle, or say why there is none.

    Args:
        run: after its validate stage.
        report: what is known of the run.
        network: gives the exported network, float32 NCHW with batch 1 or free.

    Raises:
        GateError: the composed model does not agree with the network; nothing is written.
    """
    asked = run.recipe.app
    if not asked.write:
        return None
    if reason := unfit(run.data):
        if not run.display.quiet:
            run.display.note(f"app: not written: {reason}")
        return None

    def work() -> Payload:
        found = _contents(run, report, network())
        run.directory.own(*(f"{FOLDER}/{name}" for name in found[0]))
        for name, content in found[0].items():
            (run.directory.path / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            run.directory.write(f"{FOLDER}/{name}", content)
        return {"files": {name: hashlib.sha256(content).hexdigest() for name, content in found[0].items()}, **found[1]}

    depends = {"web_runtime": _runtime_version(run)}
    payload = run.stage(FOLDER, FOLDER, depends, work)
    if any(digest(run.directory.path / FOLDER / name) != found for name, found in payload["files"].items()):
        run.display.note("  a file of the app bundle is missing or changed; writing it again")
        payload.update(work())
        run.directory.store(FOLDER, run.key, payload)
    return payload


def _contents(run: Run, report: Report, network: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    preprocessing = Preprocessing.of(run.data)
    model = build(network, preprocessing, {"labels": json.dumps(run.data.classes), "input_layout": "HWC"})
    agreement = prove(model, network, run.data)
    written = {artifact["path"]: artifact for artifact in run.payloads["export"]["artifacts"]}
    ends = (".c", ".h")
    sources = [name for artifact in written.values() for name in artifact["files"] if name.endswith(ends)]
    given = Ingredients(
        model=model,
        agreement=agreement,
        preprocessing=preprocessing,
        data=run.data,
        report=report,
        min_ort=_oldest(written["model.onnx"]["min_ort"]),
        web_runtime=run.recipe.app.web_runtime,
        c_sources={name: (run.directory.path / name).read_bytes() for name in sources if name.startswith("model.")},
    )
    return contents(given), {"agreement": asdict(agreement)}


def _oldest(network: str) -> str:
    """Oldest ONNX Runtime for the network and for the resize before it.

    >>> _oldest("1.14"), _oldest("1.21")
    ('1.15', '1.21')
    """
    return ".".join(map(str, max(RESIZING_ORT, tuple(map(int, network.split("."))))))


def _runtime_version(run: Run) -> str | None:
    try:
        return web_runtime.find(run.recipe.app.web_runtime).version
    except UsageError:
        return None
