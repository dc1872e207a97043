"""One question to a device through the system's ssh, with the user's own ~/.ssh/config and known hosts.

A single connection carries everything. Standard input holds `compress.targets._device`, the request and the files,
and stays open until the answer stands on standard output. When it ends early, because the connection was lost or
this process has gone, the script over there kills itself, and the shell around it removes the folder.
"""

import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from compress.errors import RunError, UsageError
from compress.targets import _device
from compress.targets._ssh_faults import Lost, fault

CONFIG_VARIABLE = "COMPRESS_SSH_CONFIG"
"""Names a file that ssh reads in place of ~/.ssh/config (its option -F)."""

OPTIONS = {
    "BatchMode": "yes",  # nobody is there to type a password
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "LogLevel": "INFO",  # an error is told by its text
}
"""Set on the command line, which wins over the user's file. Host keys are not among them: nothing here weakens how
the user has them checked."""

ANSWER_LIMIT_BYTES = 256 * 1024 * 1024

BOOT = (
    "import pathlib, runpy, sys; s = sys.stdin.buffer; "
    'pathlib.Path("device.py").write_bytes(s.read(int(s.readline()))); '
    'runpy.run_path("device.py", run_name="__main__")'
)
"""Stores the script in the working directory and runs it, with the rest of the input still unread."""

SHELL = "; ".join(
    [
        'p=$1; case $p in "~/"*) p=$HOME/${p#"~/"};; esac',
        'command -v "$p" >/dev/null 2>&1 || exit 72',
        'd=$(mktemp -d "${TMPDIR:-/tmp}/compress-XXXXXX") || exit 71',
        "trap 'rm -rf \"$d\"' EXIT",
        "trap 'exit 143' HUP INT TERM PIPE",  # PIPE: it complains of a killed script to a connection that is gone
        'cd "$d" && "$p" -B -c "$2"',
        "exit $?",  # a last command could replace the shell, and with it the trap
    ]
)
"""Runs the script in a private folder that outlives it in no case; on one line, which every login shell can quote."""


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        host: name, IP address or entry of the user's ssh configuration.
        user: login name; empty leaves it to ssh.
        port: None leaves it to ssh.
        python: program there: a name, or a path from / or ~/.
    """

    host: str
    user: str = ""
    port: int | None = None
    python: str = "python3"

    @property
    def words(self) -> list[str]:
        """The arguments that name it to ssh."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]

    @property
    def command(self) -> str:
        """What a person types to log in."""
        return " ".join(["ssh", *(word for word in self.words if word != "--")])


def parse(target: str) -> Address:
    """The address in ``ssh://[user@]host[:port][?python=/path/python]``.

    No part can be taken for an option of ssh or reach a shell unquoted.

    Raises:
        UsageError: it is none.

    >>> parse("ssh://pi@edge.local:2222?python=~/venv/bin/python")
    Address(host='edge.local', user='pi', port=2222, python='~/venv/bin/python')
    """
    expected = "write ssh://user@host:port?python=/path/python, of which only the host is needed"
    parts = re.fullmatch(
        r"ssh://(?:(?P<user>\w[\w.-]*)@)?(?:(?P<host>\w[\w.-]*)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
        r"(?::(?P<port>[0-9]{1,5}))?/?(?:\?python=(?P<python>.*))?",
        target,
        re.ASCII,
    )
    if not parts or not (port := int(parts["port"] or 22)) or port > 65535:
        raise UsageError(f"target {target!r} is no address; {expected}")
    python = Address.python if parts["python"] is None else unquote(parts["python"])
    if not re.fullmatch(r"~?/[^\0-\x1f\x7f]+|[A-Za-z0-9_][A-Za-z0-9_.+-]*", python):
        raise UsageError(f"target {target!r}: python {python!r} is neither a name nor a path from / or ~/; {expected}")
    host = parts["host"] or parts["ipv6"]
    return Address(host, parts["user"] or "", port if parts["port"] else None, python)


def words(address: Address) -> list[str]:
    """The command line of ssh."""
    config = os.environ.get(CONFIG_VARIABLE)
    options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
    remote = " ".join(["exec", *map(shlex.quote, ("sh", "-c", SHELL, "sh", address.python, BOOT))])
    return ["ssh", "-T", *(["-F", config] if config else []), *options, *address.words, remote]


def ask(
    address: Address, how: dict[str, Any], files: Sequence[Path], *, seconds: float, pauses: Sequence[float] = (0,)
) -> dict[str, Any]:
    """What `compress.targets._device` finds there: with files, as its `measure` says; without, only ``device``.

    Args:
        address: of the device.
        how: arguments of `measure` beside the files.
        files: to be measured.
        seconds: in which an attempt must end.
        pauses: seconds before each attempt; a further one is made only after a connection that was lost or not made.

    Raises:
        UsageError: ssh refuses, or the device is not set up for it.
        RunError: the device was lost, or it failed.
    """
    contents = [path.read_bytes() for path in files]
    sizes = [(path.suffix, len(content)) for path, content in zip(files, contents, strict=True)]
    script = Path(_device.__file__).read_bytes()
    request = json.dumps({"files": sizes, "how": how}).encode()
    parts = [f"{len(script)}\n".encode(), script, request, b"\n", *contents]
    for pause in pauses[:-1]:
        time.sleep(pause)
        with suppress(Lost):
            return _attempt(address, parts, seconds)
    time.sleep(pauses[-1])
    try:
        return _attempt(address, parts, seconds)
    except Lost as error:
        raise RunError(f"{error} (attempts: {len(pauses)})") from None


def _attempt(address: Address, parts: Sequence[bytes], seconds: float) -> dict[str, Any]:
    # a file, not a pipe: nothing has to read it meanwhile
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                words(address),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "LC_ALL": "C"},  # errors are told by their text
            )
        except FileNotFoundError:
            raise UsageError("target ssh needs the program ssh, which is not here; install OpenSSH's client") from None
        end = time.monotonic() + seconds
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            said = _conversation(process, parts)
            code = process.wait()
        finally:
            timer.cancel()
            _close(process)
        if time.monotonic() >= end:
            raise RunError(f"{address.host}: no answer within {seconds:.0f} seconds; see what keeps it busy")
        errors.seek(0)
        complaint = errors.read(100_000).decode(errors="replace")
    if code == 0:
        return _answer(address, said)
    raise fault(address.host, address.command, address.python, code, complaint)


def _conversation(process: "subprocess.Popen[bytes]", parts: Iterable[bytes]) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # ended already; its exit status says why
        for part in parts:
            process.stdin.write(part)
        process.stdin.flush()
    said: bytes = process.stdout.read(ANSWER_LIMIT_BYTES)
    return said


def _close(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    pipes: tuple[IO[bytes] | None, ...] = (process.stdin, process.stdout)
    for pipe in pipes:
        with suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()
    process.wait()


def _answer(address: Address, said: bytes) -> dict[str, Any]:
    """The answer among whatever else was printed; it is not trusted."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.startswith(_device.ANSWER)]
    try:
        found = json.loads(lines[-1].removeprefix(_device.ANSWER))
        device = {str(name)[:40]: str(text)[:200] for name, text in list(found["device"].items())[:40]}
        return {"device": device, "files": [_file(file) for file in found["files"]]}
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise RunError(
            f"{address.host}: it answered something else than measurements; see what `{address.command} true` prints"
        ) from None


def _file(found: dict[str, Any]) -> dict[str, Any]:
    """One file's findings, every number in its range."""
    if "reason" in found:
        return {"reason": str(found["reason"])}
    blocks = [[_within(n, 1, 1e15) for n in block] for block in found["samples_ns"]]
    if not blocks or not blocks[0] or len({len(block) for block in blocks}) > 1:
        raise ValueError("blocks are of one size")
    rest = {name: found[name] for name in ("load_ms", "first_ms", "peak_memory_bytes")}
    return {"samples_ns": blocks, **{name: n if n is None else _within(n, 0, 1e15) for name, n in rest.items()}}


def _within(number: Any, low: float, high: float) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
        raise ValueError("no number in its range")
    return number
