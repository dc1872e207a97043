"""Every error the tool raises on purpose, with the exit code it ends in.

CompressError
    UsageError          2   bad input: what was asked, what was found, what to do
    GateError           3   a gate or parity failed; all files are written
    RunError            4   could not finish; the same command resumes
        CompactionError 4   the narrower network could not be proved equal
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class CompressError(Exception):
    """Base class; the message is one line a user can act on."""

    exit_code: ClassVar[int] = 1


class UsageError(CompressError):
    """Bad input: says what was asked, what was found and what to do."""

    exit_code = 2


class GateError(CompressError):
    """A gate or the parity check failed; every file of the run is written."""

    exit_code = 3


class RunError(CompressError):
    """The run could not finish (disk, memory, NaN loss, lost target); the same command resumes it."""

    exit_code = 4


class CompactionError(RunError):
    """Compaction could not be proved exact; carries the reason and the layer, the model is untouched."""


def nearest(asked: str, known: Iterable[str]) -> str:
    """Say which known names are nearest to a wrong one, or list them all.

    >>> nearest("adm", ["admm", "magnitude"])
    'did you mean admm?'
    >>> nearest("zzz", ["admm", "magnitude"])
    'known: admm, magnitude'
    """
    names = sorted(known)
    close = get_close_matches(asked, names, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names)}"


def first_line(cause: BaseException) -> str:
    """An error's message, without what follows its first line.

    >>> first_line(ValueError("no such axis; see below"))
    'no such axis; see below'
    """
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
