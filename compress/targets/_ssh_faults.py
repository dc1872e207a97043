"""What went wrong with a device, told from ssh's exit status and from what was printed on standard error.

ssh ends in 255 for every failure of its own, and else in the exit status of the other side.
"""

import re
from dataclasses import dataclass

from compress.errors import CompressError, RunError, UsageError

_SIGNALLED = 128
"""A shell adds it to the number of the signal that ended a program."""

OLDEST_RUNTIME = "1.14"
"""ONNX Runtime that runs opset 18, the lowest that is written."""

_COMPARE = "the device's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, typed there)"


class Lost(RunError):
    """The connection broke or could not be made; a moment later it may."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        codes: exit statuses it ends in; empty is any but ssh's own.
        said: pattern of what is printed.
        error: what it is to the user.
        sentence: after the device's name; may name {ssh} (command to log in), {python}, {said} (the last line),
            {known} (the device's name in known_hosts) and {signal}.
    """

    codes: tuple[int, ...]
    said: str
    error: type[CompressError]
    sentence: str


SSH = (255,)

FAULTS = (
    Fault(
        SSH,
        "REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        UsageError,
        "its host key is not the one in known_hosts, so the connection was refused: somebody may stand in between, or "
        f"the device was set up anew; compare the key with {_COMPARE}, and only where they agree remove the old one "
        "with: ssh-keygen -R {known}",
    ),
    Fault(
        SSH,
        "Host key verification failed|No .* host key is known",
        UsageError,
        f"its host key is not in known_hosts; log in once with `{{ssh}}` and accept the key if it is {_COMPARE}",
    ),
    Fault(
        SSH,
        "Permission denied|Too many authentication failures",
        UsageError,
        "it accepts none of your keys; install one with ssh-copy-id, name it in ~/.ssh/config (IdentityFile), and "
        "load it into ssh-agent where it has a passphrase",
    ),
    Fault(SSH, "Could not resolve hostname", UsageError, "no such host name; check the spelling, or give an address"),
    Fault(
        SSH,
        "Unable to negotiate|Bad configuration option|Bad owner or permissions|Can't open user config",
        UsageError,
        "ssh refuses: {said}; correct this until `{ssh}` logs in",
    ),
    Fault(SSH, "Connection refused", Lost, "nothing answers at its ssh port; start sshd there, or give the port"),
    Fault(SSH, "No route to host|unreachable", Lost, "it cannot be reached; switch it on and check the network"),
    Fault(SSH, "[Cc]onnection.*timed out|Operation timed out", Lost, "no answer in time; check address and network"),
    Fault(SSH, "", Lost, "the connection was lost ({said}); run the same command again once it is back"),
    Fault(
        (72, 126, 127),
        "",
        UsageError,
        "no program {python} there; install Python, or name it: ssh://HOST?python=/path/python",
    ),
    Fault(
        (),
        "SyntaxError|has no attribute 'buffer'|No module named '?pathlib",
        UsageError,
        "its {python} is too old; name one of 3.8 or newer: ssh://HOST?python=/path/python",
    ),
    Fault(
        (),
        "No module named '(numpy|onnxruntime)",
        UsageError,
        "its {python} lacks what measures; type there: "
        f"{{python}} -m pip install numpy 'onnxruntime>={OLDEST_RUNTIME}'",
    ),
    Fault(
        (),
        "ImportError",
        UsageError,
        "numpy and onnxruntime cannot be imported there ({said}); repair that until this works there: "
        "{python} -c 'import onnxruntime'",
    ),
    Fault(
        (),
        "No space left on device|Disk quota exceeded|File too large",
        RunError,
        "no space left in its temporary folder; free some, or set TMPDIR there",
    ),
    Fault((71,), "", RunError, "no temporary folder can be made there ({said})"),
    Fault(
        (_SIGNALLED + 9,),
        "",
        RunError,
        "the measuring was killed there, most likely for memory; close other programs there, or prune further",
    ),
    Fault((), "MemoryError|bad_alloc", RunError, "its memory is full; close other programs there, or prune further"),
    Fault(
        tuple(range(_SIGNALLED + 1, _SIGNALLED + 32)),
        "",
        RunError,
        "the measuring ended by signal {signal}; is its onnxruntime made for its processor?",
    ),
    Fault((), "", RunError, "the measuring failed there: {said}"),
)
"""In the order of asking; the first that fits is the answer."""


def fault(host: str, ssh: str, python: str, code: int, complaint: str) -> CompressError:
    """The error of a connection that ended in a failure.

    Args:
        host: name of the device.
        ssh: command that logs in there.
        python: program asked for.
        code: exit status of ssh.
        complaint: its standard error; anyone may have written it.
    """
    if code < 0:  # ssh itself was killed here
        code, complaint = SSH[0], "ssh was killed"
    lines = [line for line in map(_printable, complaint.splitlines()) if line.strip()]
    known = re.search(r"Host key for ([\w.:\[\]-]+) has changed", complaint, re.ASCII)
    found = next(f for f in FAULTS if (code in f.codes or (not f.codes and code not in SSH)) and _fits(f, complaint))
    sentence = found.sentence.format(
        ssh=ssh,
        python=python,
        said=lines[-1].strip()[:200] if lines else f"exit status {code}",
        known=f"'{known[1]}'" if known else host,
        signal=code - _SIGNALLED,
    )
    return found.error(f"{host}: {sentence}")


def _fits(found: Fault, complaint: str) -> bool:
    return re.search(found.said, complaint) is not None


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line)
