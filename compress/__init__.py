"""Prune a PyTorch image model, compact it exactly, export it to ONNX and validate it.

The names below are loaded on first use, so that ``import compress`` stays cheap.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.compaction import ChannelGroup, Compaction, channel_groups, compact, remove

# ONNX Runtime's wheel writes telemetry files unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

_LAZY = {
    "compact": "compress.compaction",
    "channel_groups": "compress.compaction",
    "remove": "compress.compaction",
    "Compaction": "compress.compaction",
    "ChannelGroup": "compress.compaction",
}

__all__ = ["ChannelGroup", "Compaction", "__version__", "channel_groups", "compact", "remove"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'compress' has no attribute {name!r}")
