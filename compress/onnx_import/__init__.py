"""ONNX files as PyTorch networks that torch.export follows and compaction narrows."""

from compress.onnx_import.graph import OnnxGraph, read_graph
from compress.onnx_import.network import OnnxNetwork

__all__ = ["OnnxGraph", "OnnxNetwork", "read_graph"]
