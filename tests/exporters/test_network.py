"""Networks with any inputs and outputs, written under given names."""

import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.onnx_file import session
from compress_exporters import ExportError
from compress_exporters._network import Interface, network_to_onnx


class Two(nn.Module):
    """Two inputs of which one has no batch, an input that is not read, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, shift, _ = inputs
        return torch.relu(self.linear(x)) + shift, x.argmax(-1)


EXAMPLE = (torch.randn(2, 3), torch.randn(4), torch.randn(2, 5))


def interface(**changes: object) -> Interface:
    """With names that the exporter gives to inner values, and one that is no identifier."""
    values = {
        "inputs": ("linear.weight", "in:0", "idle"),
        "outputs": ("linear", "relu"),
        "batch": "rows",
        "batched": (True, False, True),
    }
    return Interface(**{**values, **changes})  # type: ignore[arg-type]


def test_names_order_and_free_sizes_are_those_asked_for() -> None:
    model = Two().eval()
    proto = network_to_onnx(model, EXAMPLE, interface(metadata={"b": "2", "a": "1"}), opset=18)
    onnx.checker.check_model(proto, full_check=True)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    assert {"linear.weight": ["rows", 3], "in:0": [4], "idle": ["rows", 5]} == shapes
    assert ["linear", "relu"] == [value.name for value in proto.graph.output]
    assert [("a", "1"), ("b", "2")] == [(entry.key, entry.value) for entry in proto.metadata_props]
    inputs = (torch.randn(7, 3), torch.randn(4), torch.randn(7, 5))
    feeds = {name: tensor.numpy() for name, tensor in zip(interface().inputs, inputs, strict=True)}
    found = session(proto.SerializeToString()).run(None, feeds)
    with torch.no_grad():
        for want, got in zip(model(*inputs), found, strict=True):
            torch.testing.assert_close(torch.tensor(got), want)


def test_fixed_sizes_stay_fixed() -> None:
    proto = network_to_onnx(Two().eval(), EXAMPLE, interface(batch=None), opset=18)
    assert [2, 3] == [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("changes", "opset", "said"),
    [
        ({"outputs": ("a",)}, 18, "1 were expected"),
        ({"outputs": ("a", "a")}, 18, "an output twice"),
        ({"outputs": ("in:0", "a")}, 18, "an input and an output"),
        ({}, 99, "PyTorch cannot export the network|could only write"),
    ],
)
def test_what_cannot_be_written_is_said(changes: dict[str, object], opset: int, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        network_to_onnx(Two().eval(), EXAMPLE, interface(**changes), opset=opset)
