"""What only the ncnn exporter does: what ncnn cannot run, or runs otherwise, is refused before it has a name."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.validate import parity
from compress_exporters import Artifact, ExportError, Request, ncnn
from compress_exporters.runtimes import ncnn as runtime

SHAPE = (3, 12, 10)

needs_ncnn = pytest.mark.skipif(
    None in (importlib.util.find_spec("ncnn"), importlib.util.find_spec("pnnx")), reason="ncnn or pnnx not installed"
)


class Stride(nn.Module):
    """Every other pixel, from a given one."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, :, self.first :: 2, self.first :: 2]).mean((2, 3))


@needs_ncnn
def test_every_other_pixel_is_taken_by_pooling(tmp_path: Path, images: Tensor) -> None:
    model = Stride(0).eval()
    artifact = ncnn.export(Request(model, SHAPE), tmp_path / "m.ncnn.param")
    assert "Tensor.slice" not in artifact.path.read_text()
    assert parity(ncnn.load(artifact.path), model, [(images, None)]).passed


@needs_ncnn
def test_what_ncnn_has_no_operator_for_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ncnn .*slice with step 2 is not supported.*use the format onnx"):
        ncnn.export(Request(Stride(1).eval(), SHAPE), tmp_path / "m.ncnn.param")
    assert [] == list(tmp_path.iterdir())


@needs_ncnn
def test_another_answer_than_the_model_s_is_refused(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ncnn.load
    monkeypatch.setattr(ncnn, "load", lambda path: lambda images: load(path)(images) * np.float32(1.001))
    with pytest.raises(ExportError, match=r"ncnn's answers are 0\.001 of their size from the model's"):
        ncnn.export(Request(net, SHAPE), tmp_path / "m.ncnn.param")
    assert [] == list(tmp_path.iterdir())


@needs_ncnn
def test_an_image_may_be_a_temporary(written: Callable[..., Artifact], net: nn.Module, images: Tensor) -> None:
    predict = ncnn.load(written("ncnn").path)
    expected = net(images).detach().numpy()
    found = np.concatenate([predict(image[None].numpy().astype(np.float64)) for image in images for _ in range(20)])
    np.testing.assert_allclose(found, expected.repeat(20, 0), rtol=0, atol=1e-5 * abs(expected).max())


@needs_ncnn
def test_a_note_says_how_to_feed_pixels(written: Callable[..., Artifact], images: Tensor) -> None:
    assert written("ncnn").notes[0].endswith("output out0.")
    note = written("ncnn", 4, True).notes[0]
    mean, norm = ([float(v) for v in part.split("}")[0].split(",")] for part in note.split("{")[1:])
    pixels = (images * torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1) + torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) * 255
    fed = (pixels - torch.tensor(mean).view(3, 1, 1)) * torch.tensor(norm).view(3, 1, 1)
    torch.testing.assert_close(fed, images, rtol=0, atol=1e-5)


@needs_ncnn
def test_a_damaged_or_half_file_is_refused(written: Callable[..., Artifact], tmp_path: Path) -> None:
    source = written("ncnn").path
    (tmp_path / "m.ncnn.param").write_bytes(source.read_bytes())
    with pytest.raises(ExportError, match=r"and m\.ncnn\.bin are not both there"):
        ncnn.load(tmp_path / "m.ncnn.param")
    (tmp_path / "m.ncnn.bin").write_bytes(runtime.weights_of(source).read_bytes()[:50])
    with pytest.raises(ExportError, match="ncnn refuses"):
        ncnn.load(tmp_path / "m.ncnn.param")


def test_a_missing_package_is_answered_with_the_command(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ExportError, match=r"needs the package pnnx.* run: pip install 'compress-edge\[ncnn\]'"):
        ncnn.export(Request(net, SHAPE), tmp_path / "m.ncnn.param")
    with pytest.raises(ExportError, match="needs the package ncnn"):
        ncnn.load(tmp_path / "m.ncnn.param")
    assert [] == list(tmp_path.iterdir())
