"""A headless Chromium that is driven through a pipe and can reach nothing but this machine.

It speaks the DevTools protocol (chromedevtools.github.io/devtools-protocol) over file descriptors 3 and 4, so
neither Node nor a WebSocket library is needed.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import RunError, UsageError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

QUIET = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
)
_NOWHERE = "http://127.0.0.1:9"
OFFLINE = (
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    # Names are not resolved above; addresses go to a proxy that is not there. 127.0.0.1 is exempt from it.
    f"--proxy-server={_NOWHERE}",
    # What the browser asks for of its own accord, it asks nobody.
    f"--gaia-url={_NOWHERE}",
    f"--component-updater=url-source={_NOWHERE}/",
    "--disable-features=NetworkTimeServiceQuerying",
)

_HAND_OVER = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipe where Chromium looks for it; which numbers are free in this process is a matter of chance."""


def find() -> str:
    """Path of an installed Chromium.

    Raises:
        UsageError: there is none.
    """
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise UsageError(f"no Chromium on the PATH ({', '.join(NAMES)}); on Debian: apt install chromium")


@dataclass
class Browser:
    """A running Chromium.

    Attributes:
        process: of the browser.
        commands: file descriptor that it reads.
        answers: file descriptor that it writes.
        events: what it told unasked, in order.
    """

    process: "subprocess.Popen[bytes]"
    commands: int
    answers: int
    events: list[dict[str, Any]] = field(default_factory=list)
    _buffer: bytes = b""
    _asked: int = 0

    def call(self, method: str, *, session: str | None = None, timeout: float = 60.0, **parameters: Any) -> Any:
        """Ask for something and wait for the answer.

        Args:
            method: of the DevTools protocol.
            session: of a page; the browser itself without one.
            timeout: seconds.
            parameters: of the method.

        Raises:
            RunError: the browser refuses, is gone, or does not answer in time.
        """
        self._asked += 1
        number = self._asked
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        try:
            _write(self.commands, json.dumps(message).encode() + b"\0")
        except OSError:
            raise RunError("the browser is gone; run the same command again") from None
        limit = time.monotonic() + timeout
        while (answer := self._next(limit, method)).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise RunError(f"the browser refuses {method}: {answer['error'].get('message', 'no reason given')}")
        return answer.get("result", {})

    def page(self, url: str) -> "Page":
        """Open a page and wait until it is loaded.

        Raises:
            RunError: it cannot be loaded.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network"):
            page.call(f"{domain}.enable")
        failed = page.call("Page.navigate", url=url).get("errorText")
        if failed:
            raise RunError(f"the browser cannot open {url}: {failed}")
        page.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
        )
        return page

    def _next(self, limit: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self.answers], [], [], left)[0]:
                raise RunError(f"the browser did not answer {method} in time; run the same command again")
            chunk = os.read(self.answers, 1 << 16)
            if not chunk:
                raise RunError("the browser ended unexpectedly; run the same command again")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(text))


@dataclass(frozen=True)
class Page:
    """A page of a browser."""

    browser: Browser
    session: str

    def call(self, method: str, *, timeout: float = 60.0, **parameters: Any) -> Any:
        """Ask the page for something; see `Browser.call`."""
        return self.browser.call(method, session=self.session, timeout=timeout, **parameters)

    def evaluate(self, expression: str, *, timeout: float = 60.0) -> Any:
        """Value of a JavaScript expression; a promise is waited for.

        Raises:
            RunError: it throws, or takes too long.
        """
        answer = self.call(
            "Runtime.evaluate", timeout=timeout, expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            said = details.get("exception", {}).get("description") or details.get("text", "")
            raise RunError(f"the page fails: {(str(said).splitlines() or ['no reason given'])[0]}")
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses that the page has asked for so far."""
        self.call("Runtime.evaluate", expression="0")  # what was under way has been told when this is answered
        return [
            event["params"]["request"]["url"]
            for event in self.browser.events
            if event.get("method") == "Network.requestWillBeSent" and event.get("sessionId") == self.session
        ]


@contextlib.contextmanager
def launch(more: Sequence[str] = ()) -> Iterator[Browser]:
    """A fresh browser with an empty profile; both are gone when the block ends.

    Args:
        more: flags of the command line.

    Raises:
        UsageError: no Chromium here.
    """
    program = find()
    with tempfile.TemporaryDirectory(prefix="compress-chromium-", ignore_cleanup_errors=True) as profile:
        flags = [*QUIET, *OFFLINE, f"--user-data-dir={profile}", "--remote-debugging-pipe", *more, "about:blank"]
        if os.geteuid() == 0:
            flags.insert(0, "--no-sandbox")  # Chromium refuses to start as root without it
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        words = [sys.executable, "-I", "-S", "-c", _HAND_OVER, str(theirs_in), str(theirs_out), program, *flags]
        process = subprocess.Popen(
            words,
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(process, ours_out, ours_in)
        finally:
            _end(process, ours_out, ours_in)


def reached(log: Path) -> tuple[set[str], set[str]]:
    """Whom a browser launched with ``--log-net-log=FILE`` asked, once it has ended.

    Its probe for IPv6 is left out: it binds a UDP socket to a public address and sends nothing.

    Args:
        log: the file.

    Returns:
        Hosts of every request that was started, and every address that was called over TCP.
    """
    found = json.loads(log.read_text())
    kinds = {number: name for name, number in found["constants"]["logEventTypes"].items()}
    events = [(kinds[event["type"]], event.get("params") or {}) for event in found["events"]]
    urls = [more["url"] for kind, more in events if kind == "URL_REQUEST_START_JOB" and "url" in more]
    called = [more["address"] for kind, more in events if kind == "TCP_CONNECT_ATTEMPT" and "address" in more]
    hosts = {url.split("/")[2].split(":")[0] for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))}
    return hosts, {address.rpartition(":")[0] for address in called}


def _end(process: "subprocess.Popen[bytes]", commands: int, answers: int) -> None:
    """Ask it to close, so that it writes what it was asked to log; then make sure."""
    with contextlib.suppress(OSError):
        _write(commands, b'{"id": 0, "method": "Browser.close"}\0')
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(commands)
    os.close(answers)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
