"""Small networks with zeros in them, as the files that others' tools write."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class TinyNet(nn.Module):
    """Every third filter of each convolution, and every second neuron, is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.fc1 = nn.Linear(6 * 4, 8)
        self.fc2 = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = nn.functional.max_pool2d(nn.functional.hardswish(self.conv2(x)), 4)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def tiny_net() -> nn.Module:
    """In evaluation mode, 3x8x8 images to 5 classes; 4 of 6 channels and 4 of 8 neurons are alive."""
    torch.manual_seed(0)
    model = TinyNet().eval()
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.bias, model.conv2.weight, model.conv2.bias):
            tensor[::3] = 0
        model.fc1.weight[::2] = 0
        model.fc1.bias[::2] = 0.25  # not zero: what a dead neuron adds must move into the next bias
    return model


def export(model: nn.Module, path: Path, *, batch: str | None = "N") -> Path:
    """The file that PyTorch writes, with a free batch of this name or a batch of 2."""
    shapes = ({0: torch.export.Dim(batch)},) if batch else None
    torch.onnx.export(
        model, (torch.zeros(2, 3, 8, 8),), path, dynamo=True, external_data=False, verbose=False,
        dynamic_shapes=shapes, input_names=["image"], output_names=["scores"],
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_net` with a free batch."""
    return export(tiny_net(), tmp_path_factory.mktemp("tiny") / "tiny.onnx")
