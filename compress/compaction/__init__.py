"""Exact compaction: channel ids on the exported graph, constants forward, liveness backward, a proof."""

from compress.compaction.compact import Compaction, Exported, LayerChange, compact, exported
from compress.compaction.groups import ChannelGroup, Slice, Survey, channel_groups, survey
from compress.compaction.inputs import ExampleInputs
from compress.compaction.remove import Removal, remove
from compress.compaction.restore import restore

__all__ = [
    "ChannelGroup",
    "Compaction",
    "ExampleInputs",
    "Exported",
    "LayerChange",
    "Removal",
    "Slice",
    "Survey",
    "channel_groups",
    "compact",
    "exported",
    "remove",
    "restore",
    "survey",
]
