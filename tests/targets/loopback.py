"""A real OpenSSH server on this machine, with keys, a home and a temporary folder of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

CLIENT = """
Host *
    IdentityFile {identity}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {known}
    GlobalKnownHostsFile /dev/null
"""

SERVER = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/id.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
MaxStartups 100
SetEnv HOME={folder}/home TMPDIR={folder}/tmp
"""


@dataclass(frozen=True)
class Loopback:
    """The server and what belongs to it.

    Attributes:
        folder: keys: ``host`` is its own, ``id`` may log in, ``other`` is neither.
        port: where it listens.
    """

    folder: Path
    port: int

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def target(self, python: str | Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}?python={python}"

    def config(self, path: Path, *, identity: str = "id", known: str | None = "host") -> Path:
        """An ssh_config whose user logs in with a key, and knows the server under a key or not at all."""
        hosts = path.with_suffix(".known")
        key = f"[127.0.0.1]:{self.port} {(self.folder / f'{known}.pub').read_text()}" if known else ""
        hosts.write_text(key)
        path.write_text(CLIENT.format(identity=self.folder / identity, known=hosts))
        return path

    def empty(self, seconds: float = 10) -> bool:
        """Whether nothing is left in the temporary folder, at once or soon."""
        end = time.monotonic() + seconds
        while (left := any(self.temporary.iterdir())) and time.monotonic() < end:
            time.sleep(0.05)
        return not left


@contextmanager
def serving(folder: Path) -> Iterator[Loopback]:
    """Start a server; the test is skipped where there is none, or where it lets nobody in."""
    if SSHD is None or not shutil.which("ssh"):
        pytest.skip("no OpenSSH server and client here")
    for name in ("host", "id", "other"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself in
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(SERVER.format(folder=folder, port=port))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        loopback = Loopback(folder, port)
        _await(loopback, server)
        yield loopback
    finally:
        server.terminate()
        server.wait(10)


def _await(loopback: Loopback, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 10
    while server.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", loopback.port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    config = loopback.config(loopback.folder / "trial")
    words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-p", str(loopback.port), "127.0.0.1", "true"]
    trial = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"an sshd started by {getpass.getuser()} lets nobody in: {trial.stderr.strip()[-200:]}")
