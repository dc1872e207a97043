"""The browser on this machine: every file in onnxruntime-web in a headless Chromium, interleaved in one page.

`web` finds onnxruntime-web in ./node_modules or where COMPRESS_WEB_RUNTIME says; `web:DIR` names its folder. A page
is served on 127.0.0.1 with the headers that give it threads and a fine clock; nothing leaves the machine. Blocks
are interleaved as on `local`, but a browser's clock is coarse, so that one sample is the mean of a short loop.
"""

import contextlib
import functools
import json
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from compress import chromium, web_runtime
from compress.errors import CompressError, RunError
from compress.onnx_file import one_line, session
from compress.targets import Measurement, Speedup, Timing
from compress.targets._device import feed_for, plan
from compress.targets.local import summarised

SUFFIXES = (".onnx",)

PROVIDER = "wasm"
"""onnxruntime-web's own name of it."""

LOOP_MS = 2.0
"""Length of a loop: 20 ticks of the clock of a page without the headers, 400 of one with them."""

SLACK_SECONDS = 60.0
"""Given to the browser beyond what it is asked to spend."""

Array = npt.NDArray[Any]


def check(target: str) -> dict[str, str]:
    """The runtime there is, where there is a browser for it.

    Raises:
        UsageError: no Chromium or no onnxruntime-web here, and how to get it.
    """
    chromium.find()
    return {"runtime": f"onnxruntime-web {web_runtime.find(_folder(target)).version}"}


def measure(paths: Sequence[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
    """Measure files against each other.

    Args:
        paths: the dense file first.
        how: threads, time and shapes.
        target: as asked for.

    Returns:
        One measurement for each file, and the speed-up of the second over the first; None unless both ran. load_ms
        is of opening a file when the runtime is already there; starting the runtime is told in `device`.
    """
    feeds = [_feed(path, how) for path in paths]
    try:
        runtime = web_runtime.find(_folder(target))
        with _served(_resources(paths, feeds, runtime)) as address, chromium.launch() as browser:
            bench = _Bench(browser.page(address))
            device = bench.start(how.threads)
            opened = [bench.open(i, feed) for i, feed in enumerate(feeds)]
            working = [i for i, file in enumerate(opened) if "reason" not in file]
            timings = bench.timed(working, how)
    except CompressError as error:
        reason = one_line(error)
        return [Measurement(path.name, target, PROVIDER, how.threads, "missing", reason) for path in paths], None
    found = [{**file, "samples_ns": timings[i]} if i in timings else file for i, file in enumerate(opened)]
    return summarised({"device": device, "files": found}, paths, target, how.threads, PROVIDER)


def _folder(target: str) -> Path | None:
    address = target.partition(":")[2]
    return Path(address) if address else None


def _feed(path: Path, how: Timing) -> Array | str:
    """The input a file is given, or why it does not run."""
    try:
        return next(iter(feed_for(session(path), how.batch, how.shapes).values()))
    except Exception as error:  # whatever one file does, the others are measured
        return one_line(error)


@dataclass(frozen=True)
class _Bench:
    """The page's functions."""

    page: chromium.Page

    def call(self, name: str, *given: object, seconds: float = 0.0) -> Any:
        words = ", ".join(map(json.dumps, given))
        return self.page.evaluate(f"bench.{name}({words})", timeout=seconds + SLACK_SECONDS)

    def start(self, threads: int) -> dict[str, str]:
        """What the browser is, after the runtime has started."""
        found = self.call("start", threads)
        return {
            "browser": str(found["browser"]),
            "runtime": f"onnxruntime-web {found['runtime']}",
            "threads": str(found["threads"]),
            "cross-origin isolated": "yes" if found["isolated"] else "no",
            "runtime start": f"{found['start_ms']:.0f} ms",
        }

    def open(self, index: int, feed: Array | str) -> dict[str, Any]:
        """Open a file and run it once: load_ms and first_ms, or the reason why it does not run."""
        if isinstance(feed, str):
            return {"reason": feed}
        try:
            found = self.call("open", index, feed.dtype.name, list(feed.shape))
        except RunError as error:
            self.call("warm.toString")  # a browser that is gone is not the file's fault
            return {"reason": one_line(error)}
        return {"load_ms": found["load_ms"], "first_ms": found["first_ms"], "peak_memory_bytes": None}

    def timed(self, indices: list[int], how: Timing) -> dict[int, Array]:
        """Nanoseconds of one inference of each file, shape (repeats, loops of a block), interleaved."""
        limit_ms = how.budget_seconds * 1e3 / 4 / max(1, len(indices))
        usual = [self.call("warm", i, how.warm_up, limit_ms, seconds=how.budget_seconds) for i in indices]
        counts = [max(1, math.ceil(LOOP_MS / max(ms, 1e-3))) for ms in usual]
        loops, repeats = plan([n * ms for n, ms in zip(counts, usual, strict=True)], how.repeats, how.budget_seconds)
        rows: dict[int, list[list[float]]] = {i: [] for i in indices}
        order = list(zip(indices, loops, counts, strict=True))
        for repeat in range(repeats if indices else 0):
            for i, loop, count in order if repeat % 2 == 0 else reversed(order):
                rows[i].append(self.call("block", i, loop, count, seconds=how.budget_seconds))
        return {i: np.array(row) * 1e6 for i, row in rows.items()}


Resource = tuple[str, Callable[[], bytes]]
"""Media type, and the bytes when they are asked for."""


def _resources(
    paths: Sequence[Path], feeds: Sequence[Array | str], runtime: web_runtime.WebRuntime
) -> Mapping[str, Resource]:
    page = files("compress.targets") / "web.html"
    found: dict[str, Resource] = {"": ("text/html", page.read_bytes), "probe": (_BYTES, _probe)}
    for name, kind in ((web_runtime.MODULE, _SCRIPT), (web_runtime.WORKER, _SCRIPT), (web_runtime.BINARY, _WASM)):
        found[f"runtime/{name}"] = (kind, functools.partial(runtime.read, name))
    for i, (path, feed) in enumerate(zip(paths, feeds, strict=True)):
        if not isinstance(feed, str):
            found[f"model/{i}"] = (_BYTES, path.read_bytes)
            found[f"feed/{i}"] = (_BYTES, feed.tobytes)
    return found


_SCRIPT, _WASM, _BYTES = "text/javascript", "application/wasm", "application/octet-stream"


def _probe() -> bytes:
    """The least model there is: opening it starts the runtime."""
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", shape[:1], shape[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _served(resources: Mapping[str, Resource]) -> Iterator[str]:
    """Address of a server on 127.0.0.1 that gives exactly these, below a path nobody else can guess."""
    secret = secrets.token_urlsafe(16)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix(f"/{secret}/")
            if name == self.path or name not in resources:
                self.send_error(404)
                return
            kind, content = resources[name]
            data = content()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            # Both together isolate the page: only then does it get threads and a clock of 5 microseconds.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *given: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{secret}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
