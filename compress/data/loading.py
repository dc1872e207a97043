"""``load(spec)``: one door to built-in data sets and the user's own."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from compress.data import names
from compress.data.augment import Augment
from compress.data.base import Data, Reading, Request
from compress.data.custom import custom
from compress.data.downloaded import downloaded
from compress.data.embedded import mnist, synthetic
from compress.data.imagefolder import imagefolder
from compress.errors import UsageError
from compress_models.errors import SpecError
from compress_models.spec import resolve

_BUILT_IN: dict[str, Callable[[Request], Data]] = {
    "mnist": mnist,
    "fashion-mnist": downloaded,
    "cifar10": downloaded,
    "cifar100": downloaded,
    "synthetic": synthetic,
}


def load(
    spec: str,
    *,
    root: Path | None = None,
    held_out: int | float = 0.1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    reading: Reading | None = None,
) -> Data:
    """Load the data set that a spec names.

    Args:
        spec: a built-in name (see ``names``), ``imagefolder:DIR``, ``path/to/file.py:factory`` or
            ``package.module:factory``; see ``compress.data.custom`` for what a factory returns.
        root: where built-in data sets are looked for and downloaded to; the user's cache folder by default.
            The embedded MNIST is never read from there.
        held_out: how many training images selection reads (int), or which fraction of them (float).
        seed: of the draw of the held-out part.
        device: that batches come on.
        augment: applied to training batches that are asked for augmented; none by default.
        reading: workers, image size and normalisation.

    Raises:
        UsageError: nothing of that name, files missing or damaged, or a factory's result not as documented.
    """
    request = Request(
        name=spec,
        root=(root or _cache()).expanduser(),
        held_out=held_out,
        seed=seed,
        device=torch.device(device),
        augment=augment or Augment(),
        reading=reading or Reading(),
    )
    if spec in _BUILT_IN:
        return _BUILT_IN[spec](request)
    if spec.startswith("imagefolder:"):
        return imagefolder(request)
    try:
        factory = resolve(spec, what="data", known=names())
    except SpecError as error:
        raise UsageError(str(error)) from error
    return custom(factory, request)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")  # an empty value means unset, by the XDG specification
    return (Path(base) if base else Path("~/.cache")) / "compress"
