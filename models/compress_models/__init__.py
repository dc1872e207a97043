"""Reference networks, and ``load(spec)`` for any other.

The names below are loaded on first use: listing the networks needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from compress_models.catalog import names

if TYPE_CHECKING:
    from compress_models.errors import SpecError, WeightsError
    from compress_models.loading import input_shape, load
    from compress_models.spec import resolve
    from compress_models.weights import load_weights

_LAZY = {
    "SpecError": "compress_models.errors",
    "WeightsError": "compress_models.errors",
    "input_shape": "compress_models.loading",
    "load": "compress_models.loading",
    "load_weights": "compress_models.weights",
    "resolve": "compress_models.spec",
}

__all__ = ["SpecError", "WeightsError", "input_shape", "load", "load_weights", "names", "resolve"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'compress_models' has no attribute {name!r}")
