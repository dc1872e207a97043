"""What only the ONNX exporter does: refusals, opsets, and the version table."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from compress_exporters import ExportError, Request
from compress_exporters._versions import RELEASES, min_ort
from compress_exporters.onnx import export


class FixedBatch(nn.Module):
    """Tells two images from any other number."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 60)


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x + 2


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def refuse(model: nn.Module, path: Path, says: str, **form: object) -> None:
    request = Request(model.eval(), (3, 4, 5), **form)
    with pytest.raises(ExportError, match=says) as error:
        export(request, path / "m.onnx")
    assert "\n" not in str(error.value)
    assert [] == list(path.iterdir())


def test_a_model_that_fixes_its_batch_is_not_called_dynamic(tmp_path: Path) -> None:
    refuse(FixedBatch(), tmp_path, "fixes its batch at 2; ask for a fixed batch", batch="dynamic")


def test_a_model_with_two_outputs_is_refused(tmp_path: Path) -> None:
    refuse(TwoOutputs(), tmp_path, "1 inputs and 2 outputs")


def test_a_model_that_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    refuse(DataDependent(), tmp_path, "PyTorch cannot export the model: GuardOnDataDependent")


def test_weights_beyond_one_file_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    huge = nn.Linear(2**16, 2**14, device="meta")  # 4 GiB, none of it allocated
    refuse(huge, tmp_path, "weights take 4.00 GiB, and one ONNX file holds less than 2 GiB")


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"batch": 0}, 'batch must be 1 or more, or "dynamic"; got 0'),
        ({"normalisation": ((0.5, 0.5), (0.5,))}, "mean has 2 values for 3 channels"),
        ({"normalisation": ((0.5,), (0.5, 0.5))}, "std has 2 values for 3 channels"),
        ({"normalisation": ((0.5,), (0.0,))}, "std must be positive"),
        ({"opset": 99}, "opset 99 was asked for, the exporter could only write"),
    ],
)
def test_a_wrong_request_is_refused(tmp_path: Path, form: dict[str, object], says: str) -> None:
    refuse(nn.Flatten(), tmp_path, says, **form)


@pytest.mark.parametrize("opset", [17, 21])
def test_the_opset_asked_for_is_written_and_runs(tmp_path: Path, opset: int) -> None:
    artifact = export(Request(nn.Flatten().eval(), (3, 4, 5), opset=opset), tmp_path / "m.onnx")
    assert opset == artifact.opset
    assert {17: "1.12", 21: "1.18"}[opset] == artifact.min_ort


def test_a_failed_export_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"older")
    with pytest.raises(ExportError):
        export(Request(TwoOutputs().eval(), (3, 4, 5)), path)
    assert b"older" == path.read_bytes()


def test_the_release_table_grows_and_ends_where_this_runtime_begins() -> None:
    releases, support = list(RELEASES), list(RELEASES.values())
    assert sorted(releases) == releases
    assert sorted(support) == support
    installed = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    assert releases[-1] <= installed
    assert ".".join(map(str, installed)) == min_ort(999, 8)


def test_the_table_agrees_with_onnx_on_the_ir_version_of_an_opset() -> None:
    for opset in range(18, 23):
        ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        release = min_ort(opset, ir_version)
        newest = RELEASES[tuple(map(int, release.split(".")))]
        assert newest >= (opset, ir_version)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_another_device_is_exported_and_stays_there(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).cuda().eval()
    assert export(Request(model, (3, 4, 5)), tmp_path / "m.onnx").size_bytes > 0
    assert "cuda" == model[1].weight.device.type
