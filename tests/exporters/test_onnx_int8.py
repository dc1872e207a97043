"""The int8 file runs on int8 kernels, its means are right, and what int8 would ruin stays in float32."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from compress.onnx_file import predict, session
from compress_exporters import Artifact, ExportError, Request, onnx_int8
from compress_exporters import onnx as dense
from compress_exporters._calibration import feeds, run, upto

SHAPE = (3, 12, 10)
Array = npt.NDArray[np.float32]


def kernels(path: Path, folder: Path) -> collections.Counter[str]:
    """Operators that ONNX Runtime runs once it has optimised a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def weights(path: Path) -> list[npt.NDArray[np.int8]]:
    tensors = onnx.load(path).graph.initializer
    return [numpy_helper.to_array(t) for t in tensors if t.data_type == TensorProto.INT8 and len(t.dims) > 1]


def test_onnx_runtime_runs_it_on_int8_kernels(written: Callable[..., Artifact], tmp_path: Path) -> None:
    found = kernels(written("onnx-int8").path, tmp_path)
    assert (2, 1, 0) == (found["QLinearConv"], found["QGemm"], found["Conv"] + found["FusedConv"] + found["Gemm"])
    floats = kernels(written("onnx").path, tmp_path)
    assert (0, 0) == (floats["QLinearConv"], floats["QGemm"])


def test_two_products_of_weights_and_activations_fit_16_bits(written: Callable[..., Artifact]) -> None:
    found = weights(written("onnx-int8").path)
    assert 3 == len(found)
    largest = max(int(abs(weight.astype(int)).max()) for weight in found)
    assert 64 == largest
    assert 2 * 255 * largest <= 2**15 - 1


def test_bias_correction_makes_the_mean_outputs_those_of_the_model(
    net: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(net, SHAPE, "dynamic", calibration=images)

    def mean_error() -> Array:
        artifact = onnx_int8.export(request, tmp_path / "m.int8.onnx")
        outputs = predict(session(artifact.path), images.numpy())
        return abs((outputs - net(images).detach().numpy()).mean(0))

    corrected = mean_error()
    monkeypatch.setattr(onnx_int8, "correct", lambda *given: None)
    uncorrected = mean_error()
    # What is left is the rounding of the outputs themselves, half a step of 8 bits, averaged over ten images.
    answers = net(images).detach()
    step = float(answers.max() - answers.min()) / 255
    assert corrected.max() < 0.5 * step
    assert uncorrected.max() > 2 * corrected.max()


def test_every_layer_gets_the_means_of_the_model_to_half_a_step_of_its_bias(
    net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    request = Request(net, SHAPE, "dynamic", calibration=images)
    int8 = onnx.load(onnx_int8.export(request, tmp_path / "m.int8.onnx").path)
    floats = onnx.load(dense.export(request, tmp_path / "m.onnx").path)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    made_by = {name: node for node in int8.graph.node for name in node.output}

    def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
        return [node for node in model.graph.node if node.op_type in onnx_int8.LAYERS]

    def mean(model: onnx.ModelProto, layer: onnx.NodeProto) -> Array:
        (outputs,) = run(upto(model, layer.output), [images.numpy()], optimise=False)
        return np.asarray(outputs[0].mean(tuple(i for i in range(outputs[0].ndim) if i != 1), dtype=np.float64))

    assert 3 == len(layers(int8))
    for quantized, layer in zip(layers(int8), layers(floats), strict=True):
        step = held[made_by[quantized.input[2]].input[1]]
        assert (abs(mean(int8, quantized) - mean(floats, layer)) <= 0.51 * step + 1e-5).all()


class Uneven(nn.Module):
    """A channel a thousand times as large as what matters beside it; the layers before and after are ordinary."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.uneven = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            self.uneven.weight[:, 0] *= 1000
            self.first.weight[0] /= 1000
            self.first.bias[0] /= 1000

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.uneven(self.first(x).sigmoid() - 0.5).relu().amax((2, 3)))


def test_the_layer_that_int8_ruins_stays_in_float32_and_is_named(images: Tensor, tmp_path: Path) -> None:
    model = Uneven().eval()
    artifact = onnx_int8.export(Request(model, SHAPE, calibration=images), tmp_path / "m.int8.onnx")
    assert len(artifact.notes) == 3
    assert artifact.notes[1].startswith("Kept in float32, because with all layers in int8 it would be ")
    assert artifact.notes[1].endswith("%: uneven.")
    assert [(8, 3, 3, 3), (4, 8)] == [weight.shape for weight in weights(artifact.path)]
    expected = model(images).detach().numpy()
    error = predict(session(artifact.path), images.numpy()) - expected
    assert np.sqrt((error**2).mean()) <= onnx_int8.LIMIT * np.sqrt((expected**2).mean())


def test_a_model_that_no_choice_of_layers_saves_is_refused(
    net: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_int8, "LIMIT", 1e-9)
    with pytest.raises(ExportError, match=r"int8 puts the outputs \d+% off .* use the format onnx-fp16"):
        onnx_int8.export(Request(net, SHAPE, calibration=images), tmp_path / "m.int8.onnx")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "batch"), [(99, "dynamic"), (60, 50), (3, 4), (7, 1)])
def test_every_calibration_image_is_used(count: int, batch: Any, net: nn.Module) -> None:
    images = torch.arange(count).reshape(-1, 1, 1, 1).expand(count, *SHAPE).float()
    found = feeds(Request(net, SHAPE, batch, calibration=images), 500)
    assert set(range(count)) == {int(image) for feed in found for image in feed[:, 0, 0, 0]}
    assert 1 == len({feed.shape for feed in found})
    assert "dynamic" == batch or {batch} == {len(feed) for feed in found}


def test_few_images_are_told_and_enough_are_not(net: nn.Module, tmp_path: Path) -> None:
    """The error on the images that the ranges come from says little of others where they are few."""
    images = torch.randn(100, *SHAPE, generator=torch.Generator().manual_seed(0))
    for count, more in ((60, 1), (100, 0)):
        request = Request(net, SHAPE, "dynamic", calibration=images[:count])
        first, *others = onnx_int8.export(request, tmp_path / "m.int8.onnx").notes
        assert f"On the {count} calibration images" in first
        assert ["Other images are clipped to the ranges of these 60; give at least 100."][:more] == others


def test_weights_that_are_no_numbers_are_refused_in_a_sentence(tmp_path: Path, images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(360, 4)).eval()
    nn.init.constant_(model[1].weight, torch.nan)
    with pytest.raises(ExportError, match="cannot be written as onnx-int8"):
        onnx_int8.export(Request(model, SHAPE, calibration=images), tmp_path / "m.int8.onnx")


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (None, "none were given; pass Request"),
        (torch.zeros(0, *SHAPE), "none were given"),
        (torch.zeros(2, 1, 12, 10), r"of shape \(n, 3, 12, 10\); got \(2, 1, 12, 10\)"),
        (torch.full((2, *SHAPE), torch.nan), "must be finite"),
    ],
)
def test_wrong_calibration_images_are_refused(
    net: nn.Module, tmp_path: Path, calibration: Tensor | None, says: str
) -> None:
    with pytest.raises(ExportError, match=says):
        onnx_int8.export(Request(net, SHAPE, calibration=calibration), tmp_path / "m.int8.onnx")
    assert [] == list(tmp_path.iterdir())
