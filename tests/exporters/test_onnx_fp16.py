"""The float16 file is half the size, computes in float16, and values that float16 cannot hold are refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from compress_exporters import Artifact, ExportError, Request, onnx_fp16

SHAPE = (3, 12, 10)


def test_every_weight_is_float16_and_the_weights_take_half(written: Callable[..., Artifact]) -> None:
    half, full = (onnx.load(written(format).path).graph.initializer for format in ("onnx-fp16", "onnx"))
    floats = {t.name: t for t in full if t.data_type == TensorProto.FLOAT}
    assert 6 == len(floats)  # the normalisation went into the first convolution
    halves = {t.name: t for t in half if t.data_type == TensorProto.FLOAT16}
    assert floats.keys() == halves.keys()
    assert all(2 * len(halves[name].raw_data) == len(tensor.raw_data) for name, tensor in floats.items())
    assert not any(t.data_type == TensorProto.FLOAT for t in half)


@pytest.mark.parametrize("pixels", [False, True])
def test_the_checker_accepts_it(written: Callable[..., Artifact], pixels: bool) -> None:
    onnx.checker.check_model(written("onnx-fp16", "dynamic", pixels).path, full_check=True)


class Large(nn.Module):
    """A linear layer whose outputs, or weights, are as large as asked."""

    def __init__(self, weight: float, scale: float) -> None:
        super().__init__()
        self.layer = nn.Linear(360, 2)
        nn.init.constant_(self.layer.weight, weight)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) * self.scale


@pytest.mark.parametrize(
    ("weight", "scale", "says"),
    [
        (1.0, 1.0, None),
        (50.0, 1e-3, r"values of .* reach 1\.8e\+04, and float16 ends at 65504"),  # 360 * 50
        (7e4, 1e-9, r"weights of layer\.weight reach 7e\+04"),
    ],
)
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, weight: float, scale: float, says: str | None) -> None:
    request = Request(Large(weight, scale).eval(), SHAPE, calibration=torch.ones(4, *SHAPE))
    if says is None:
        assert onnx_fp16.export(request, tmp_path / "m.fp16.onnx").size_bytes > 0
        return
    with pytest.raises(ExportError, match=says):
        onnx_fp16.export(request, tmp_path / "m.fp16.onnx")
    assert [] == list(tmp_path.iterdir())


def test_without_calibration_images_random_ones_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="values of"):
        onnx_fp16.export(Request(Large(5e3, 1e-3).eval(), SHAPE), tmp_path / "m.fp16.onnx")


def test_a_far_off_result_is_refused(tmp_path: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_fp16, "TOLERANCE", 1e-7)
    with pytest.raises(ExportError, match=r"in float16 the outputs are .*% from float32's"):
        onnx_fp16.export(Request(net, SHAPE), tmp_path / "m.fp16.onnx")


def test_the_converter_leaves_no_folder_on_the_import_path(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from torch import nn; before = list(sys.path)\n"
        "from compress_exporters import Request, onnx_fp16\n"
        "onnx_fp16.export(Request(nn.Linear(3, 2).eval(), (1, 2, 3)), Path(sys.argv[1], 'm.fp16.onnx'))\n"
        "assert sys.path == before, sys.path"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
