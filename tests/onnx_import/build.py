"""Small ONNX files made by hand, and what ONNX Runtime says of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from compress.onnx_file import open_onnx, session
from compress.onnx_import import OnnxNetwork, read_graph

TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8,
}  # fmt: skip


def array(*shape: int, seed: int = 0, dtype: str = "float32", positive: bool = False) -> Any:
    """Numbers with a sign, or positive ones."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.1, 0.9, shape) if positive else generator.normal(size=shape)
    return values.astype(dtype)


def file_of(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[Any]]],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    **more: Any,
) -> Path:
    """Write a graph; inputs are name -> (type, shape), the outputs' types are found by ONNX Runtime."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)
    runtime = session(model.SerializeToString())
    kinds = {f"tensor({'float' if k == 'float32' else 'double' if k == 'float64' else k})": v for k, v in TYPES.items()}
    for value, found in zip(model.graph.output, runtime.get_outputs(), strict=True):
        value.CopyFrom(helper.make_tensor_value_info(found.name, kinds[found.type], found.shape))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def network_of(path: Path) -> OnnxNetwork:
    """The file as a network in evaluation mode."""
    return OnnxNetwork(read_graph(open_onnx(path))).eval()


def runtime_says(path: Path | bytes, feeds: Mapping[str, Any]) -> list[Any]:
    """All outputs of a file in ONNX Runtime."""
    return list(session(path).run(None, dict(feeds)))


def tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_close(expected: Sequence[Any], found: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Same types, shapes and, up to rounding, numbers."""
    assert len(expected) == len(found)
    for want, got in zip(expected, found, strict=True):
        assert want.shape == tuple(got.shape)
        assert str(want.dtype) == str(got.dtype).removeprefix("torch.")
        np.testing.assert_allclose(
            got.numpy(), want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max(initial=0))
        )


def assert_same(path: Path, feeds: Mapping[str, Any], tolerance: float = 1e-5) -> OnnxNetwork:
    """The network computes what ONNX Runtime computes, as it is, widened to float64, and through torch.export."""
    expected = runtime_says(path, feeds)
    network = network_of(path)
    inputs = tuple(torch.tensor(feeds[name]) for name in network.input_names)
    with torch.no_grad():
        assert_close(expected, tensors(network(*inputs)), tolerance)
        network.say_sizes_by_input(inputs)
        assert_close(expected, tensors(network(*inputs)), tolerance)
        exported = torch.export.export(network, inputs, strict=False).module()
        assert_close(expected, tensors(exported(*inputs)), tolerance)
        wide = tuple(t.double() if t.dtype.is_floating_point else t for t in inputs)
        for want, got in zip(expected, tensors(network_of(path).double()(*wide)), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(want).max(initial=0)))
    return network
