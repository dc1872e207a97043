"""The ORT file is what a reduced ONNX Runtime needs: optimised already, its operators listed, no paths in it."""

import re
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from torch import nn

from compress_exporters import Artifact, ExportError, Request, ort
from compress_exporters.ort import _newer

SHAPE = (3, 12, 10)


def test_the_operators_of_the_optimised_graph_are_listed(written: Callable[..., Artifact]) -> None:
    artifact = written("ort")
    listed = artifact.path.with_name(artifact.path.name.replace(".ort", ".required_operators.config")).read_text()
    # Convolution and ReLU are one operator after optimisation, and the normalisation is in the weights.
    assert {"FusedConv", "MaxPool", "Gemm"} <= {
        op for line in listed.splitlines() for op in line.split(";")[2].split(",")
    }
    assert not {"Relu", "BatchNormalization"} & set(re.split("[;,\n]", listed))
    assert "#" not in listed


def test_a_reduced_build_can_be_told_exactly_these(written: Callable[..., Artifact], tmp_path: Path) -> None:
    """ONNX Runtime's own reader of such files understands it."""
    parser = pytest.importorskip("onnxruntime.tools.reduced_build_config_parser")
    artifact = written("ort")
    config = artifact.path.with_name(artifact.path.name.replace(".ort", ".required_operators.config"))
    operators, types = parser.parse_config(str(config))
    assert types is None
    assert {"com.microsoft", "ai.onnx"} == set(operators)
    assert {"FusedConv"} == operators["com.microsoft"][1]


def test_it_is_the_ort_format_and_not_renamed_onnx(written: Callable[..., Artifact]) -> None:
    assert b"ORTM" == written("ort").path.read_bytes()[4:8]
    assert b"ORTM" != written("onnx").path.read_bytes()[4:8]


def test_it_says_which_release_loads_it(written: Callable[..., Artifact]) -> None:
    assert "1.16" == written("ort").min_ort
    installed = ".".join(onnxruntime.__version__.split(".")[:2])
    assert installed == _newer("1.14", 99)


def test_a_failed_export_leaves_both_files_as_they_were(tmp_path: Path) -> None:
    for name in ("m.ort", "m.required_operators.config"):
        (tmp_path / name).write_text("older")
    with pytest.raises(ExportError):
        ort.export(Request(nn.Flatten().train(), SHAPE), tmp_path / "m.ort")
    assert ["older", "older"] == [file.read_text() for file in sorted(tmp_path.iterdir())]
