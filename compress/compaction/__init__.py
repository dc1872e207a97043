"""Exact compaction: channel ids on the exported graph, constants forward, liveness backward, a proof."""

from compress.compaction.compact import Compaction, LayerChange, compact
from compress.compaction.groups import ChannelGroup, Slice, channel_groups
from compress.compaction.restore import restore

__all__ = ["ChannelGroup", "Compaction", "LayerChange", "Slice", "channel_groups", "compact", "restore"]
