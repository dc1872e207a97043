"""What only the ExecuTorch exporter does: XNNPACK has the work, any number of images, bad files are refused."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from compress.validate import parity
from compress_exporters import Artifact, ExportError, Request, executorch

SHAPE = (3, 12, 10)

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)


@needs_executorch
@pytest.mark.parametrize("batch", [1, 4, "dynamic"])
def test_any_number_of_images_is_answered(
    written: Callable[..., Artifact], net: nn.Module, images: Tensor, batch: int | str
) -> None:
    artifact = written("executorch", batch)
    predict = executorch.load(artifact.path)
    assert parity(predict, net, [(images, None)]).passed
    assert not parity(lambda x: predict(x * np.float32(1.5)), net, [(images, None)]).passed
    assert (7, 10) == predict(images[:7].numpy()).shape
    assert f"{4 if batch == 4 else 1} x 3 x 12 x 10" in artifact.notes[0]


@needs_executorch
def test_xnnpack_has_the_work(written: Callable[..., Artifact]) -> None:
    assert b"XnnpackBackend" in written("executorch").path.read_bytes()


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@needs_executorch
def test_a_model_that_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="ExecuTorch cannot export the model: GuardOnDataDependent") as error:
        executorch.export(Request(DataDependent().eval(), SHAPE), tmp_path / "m.pte")
    assert "\n" not in str(error.value)
    assert [] == list(tmp_path.iterdir())


@needs_executorch
@pytest.mark.parametrize("data", [b"", b"not a program at all"])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.pte").write_bytes(data)
    with pytest.raises(ExportError, match=r"ExecuTorch refuses .*m\.pte"):
        executorch.load(tmp_path / "m.pte")


def test_a_missing_package_is_answered_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("executorch", "executorch.exir", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    says = r"needs the package executorch.* run: pip install 'compress-edge\[executorch\]'"
    with pytest.raises(ExportError, match=says):
        executorch.export(Request(nn.Linear(10, 2).eval(), SHAPE), tmp_path / "m.pte")
    with pytest.raises(ExportError, match=says):
        executorch.load(tmp_path / "m.pte")
    assert [] == list(tmp_path.iterdir())
