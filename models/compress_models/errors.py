"""The errors of this package: one line each, with what was asked, what was found and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class SpecError(ValueError):
    """A spec names nothing usable, or what it names failed."""


class WeightsError(ValueError):
    """A weights file cannot be read, or does not fit the model."""


def nearest(asked: str, known: Iterable[str]) -> str:
    """Say which known names are nearest to a wrong one, or list them all.

    >>> nearest("lenet", ["lenet5", "vgg16"])
    'did you mean lenet5?'
    >>> nearest("zzz", ["lenet5", "vgg16"])
    'known: lenet5, vgg16'
    >>> nearest("zzz", [])
    'there is none'
    """
    names = sorted(known)
    if not names:
        return "there is none"
    close = get_close_matches(asked, names, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names)}"
