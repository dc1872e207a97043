"""What only the OpenVINO exporter does: a missing package is named, nothing is sent, bad files are refused."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from compress.validate import parity
from compress_exporters import Artifact, ExportError, Request, openvino

SHAPE = (3, 12, 10)

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
@pytest.mark.parametrize("form", [(4, False), ("dynamic", False), ("dynamic", True), (1, True)])
def test_every_form_agrees_with_pytorch(
    written: Callable[..., Artifact], net: nn.Module, images: Tensor, form: tuple[int | str, bool]
) -> None:
    predict = openvino.load(written("openvino", *form).path)
    assert parity(predict, net, [(images, None)]).passed
    assert not parity(lambda x: predict(x * np.float32(1.5)), net, [(images, None)]).passed


@needs_openvino
def test_a_cut_file_is_refused(written: Callable[..., Artifact], tmp_path: Path) -> None:
    source = written("openvino", 4).path
    (tmp_path / "m.xml").write_bytes(source.read_bytes()[:-200])
    (tmp_path / "m.bin").write_bytes(source.with_suffix(".bin").read_bytes())
    with pytest.raises(ExportError, match=r"OpenVINO refuses .*m\.xml"):
        openvino.load(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_bytes(source.read_bytes())
    (tmp_path / "m.bin").write_bytes(source.with_suffix(".bin").read_bytes()[:100])
    with pytest.raises(ExportError, match=r"OpenVINO refuses .*m\.xml"):
        openvino.load(tmp_path / "m.xml")


@needs_openvino
def test_nothing_is_written_to_the_home_folder_and_telemetry_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from torch import nn\n"
        "from compress_exporters import Request, openvino\n"
        "openvino.export(Request(nn.Linear(3, 2).eval(), (1, 2, 3)), Path(sys.argv[1], 'm.xml'))\n"
        "openvino.load(Path(sys.argv[1], 'm.xml'))\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, env=environment)
    assert [] == list(home.iterdir())


def test_a_missing_package_is_answered_with_the_command(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"needs the package openvino.* run: pip install 'compress-edge\[openvino\]'"):
        openvino.export(Request(net, SHAPE), tmp_path / "m.xml")
    with pytest.raises(ExportError, match="needs the package openvino"):
        openvino.load(tmp_path / "m.xml")
    assert [] == list(tmp_path.iterdir())
