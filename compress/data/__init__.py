"""Data sets: ``load(spec)`` gives training, held-out and test parts with one interface.

The names below are loaded on first use: listing the data sets needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.data.augment import Augment
    from compress.data.base import Data, Reading, Split
    from compress.data.loading import load
    from compress.data.streamed import DatasetSplit
    from compress.data.tensors import TensorSplit

_LAZY = {
    "Augment": "compress.data.augment",
    "Data": "compress.data.base",
    "Reading": "compress.data.base",
    "Split": "compress.data.base",
    "DatasetSplit": "compress.data.streamed",
    "TensorSplit": "compress.data.tensors",
    "load": "compress.data.loading",
}

__all__ = ["Augment", "Data", "DatasetSplit", "Reading", "Split", "TensorSplit", "load", "names"]


def names() -> dict[str, str]:
    """Give every built-in data set with one line about it.

    >>> names()["mnist"]
    'MNIST, 60,000 + 10,000 handwritten digits 1x28x28, embedded'
    """
    return {
        "mnist": "MNIST, 60,000 + 10,000 handwritten digits 1x28x28, embedded",
        "fashion-mnist": "Fashion-MNIST, 60,000 + 10,000 garments 1x28x28, from the data root or downloaded",
        "cifar10": "CIFAR-10, 50,000 + 10,000 images 3x32x32, from the data root or downloaded",
        "cifar100": "CIFAR-100, 50,000 + 10,000 images 3x32x32, from the data root or downloaded",
        "imagefolder:DIR": "DIR/train and DIR/val or DIR/test, one folder of image files per class",
        "synthetic": "2,000 + 500 drawn digits 1x28x28, only a fast test fixture",
    }


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'compress.data' has no attribute {name!r}")
