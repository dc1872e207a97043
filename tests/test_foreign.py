"""`compress validate`: ONNX files from anyone."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.data import Reading, load
from compress_exporters import Request, find
from tests.conftest import Project, invoke

MEAN, STD = 0.5, 0.25


@pytest.fixture(scope="module")
def data(user: Project) -> str:
    return f"{user.folder / 'data.py'}:factory"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()


@pytest.fixture(scope="module")
def file(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that says nothing of how its input is normalised."""
    path = tmp_path_factory.mktemp("foreign") / "model.onnx"
    find("onnx").export(Request(model, (1, 8, 8), batch=4), path)
    return path


def perturbed(file: Path, path: Path, factor: float) -> Path:
    """A copy in which one weight, the largest, is multiplied."""
    proto = onnx.load(file)
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2)
    values = numpy_helper.to_array(weight).copy()
    values.flat[np.abs(values).argmax()] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, path)
    return path


def test_accuracy_is_that_of_the_model(file: Path, data: str, model: nn.Module, user: Project) -> None:
    ended = invoke("validate", file, "--data", data, "--mean", MEAN, "--std", STD)
    assert 0 == ended.exit_code, ended.output
    scope: dict[str, Any] = {}
    exec((user.folder / "data.py").read_text(), scope)
    images, labels = scope["factory"]()["test"]
    with torch.no_grad():
        answers = model(torch.tensor((images[:, None] / 255 - MEAN) / STD, dtype=torch.float32)).argmax(1)
    right = float((answers.numpy() == labels).mean())
    assert f"accuracy: {right:.2%} " in ended.stdout
    assert "on 40 test images" in ended.stdout
    assert re.search(r"latency: p50 \d+\.\d+ ms", ended.stdout)
    assert f"opset 18, {file.stat().st_size:,} bytes" in ended.stdout


def test_a_file_agrees_with_itself(file: Path, data: str) -> None:
    ended = invoke("validate", file, "--data", data, "--reference", file)
    assert 0 == ended.exit_code, ended.output
    assert "passed: parity" in ended.stdout
    assert "top-1 agreement 100.00% on 40 images" in ended.stdout


def test_one_perturbed_weight_fails_parity(file: Path, data: str, tmp_path: Path) -> None:
    liar = perturbed(file, tmp_path / "liar.onnx", 1.01)
    ended = invoke("validate", liar, "--data", data, "--reference", file)
    assert 3 == ended.exit_code, ended.output
    assert "failed: parity" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_output_that_is_not_a_number_fails_parity(file: Path, data: str, tmp_path: Path) -> None:
    liar = perturbed(file, tmp_path / "liar.onnx", float("nan"))
    ended = invoke("validate", liar, "--data", data, "--reference", file)
    assert 3 == ended.exit_code, ended.output
    assert "an output is not finite" in ended.stderr


def test_failed_gates_are_named(file: Path, data: str) -> None:
    limits = ("--min-accuracy", 1.0, "--max-size-kb", 0.001, "--max-latency-ms", 1000)
    ended = invoke("validate", file, "--data", data, *limits)
    assert 3 == ended.exit_code
    assert "failed: min_accuracy: accuracy is" in ended.stderr
    assert "failed: max_size_kb: size_kb is" in ended.stderr
    assert "passed: max_latency_ms" in ended.stderr


@pytest.mark.parametrize("keep", [0, 1, 100, 700])
def test_a_truncated_file_is_refused(file: Path, data: str, tmp_path: Path, keep: int) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:keep])
    ended = invoke("validate", cut, "--data", data)
    assert 2 == ended.exit_code, ended.output
    assert 1 == len(ended.stderr.splitlines())
    assert "cut.onnx" in ended.stderr


@pytest.mark.parametrize("where", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_tensors_outside_the_files_folder_are_not_read(data: str, tmp_path: Path, where: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1024))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=where)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    file = folder / "model.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    ended = invoke("validate", file, "--data", data)
    assert 2 == ended.exit_code, ended.output
    assert "data outside the model's folder" in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


def test_another_layout_is_fed_as_it_wants(model: nn.Module, file: Path, data: str, tmp_path: Path) -> None:
    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = model(x.permute(0, 3, 1, 2))
            return answer

    find("onnx").export(Request(Turned().eval(), (8, 8, 1), batch=1), tmp_path / "nhwc.onnx")
    plain, turned = (invoke("validate", path, "--data", data) for path in (file, tmp_path / "nhwc.onnx"))
    assert 0 == turned.exit_code, turned.output
    assert plain.stdout.splitlines()[1] == turned.stdout.splitlines()[1]  # the same accuracy
    assert 2 == invoke("validate", tmp_path / "nhwc.onnx", "--data", data, "--reference", file).exit_code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mean", "0.5"], "--mean and --std are given together"),
        (["--mean", "half", "--std", "1"], "--mean wants numbers separated by commas, got 'half'"),
        (["--mean", "0,0", "--std", "1,1"], "one value for each of 1 channels"),
        (["--std", "0", "--mean", "0"], "std above 0"),
        (["--threads", "100000"], "100000 is not in the range 1<=x<=1024"),
        (["--data", "synthetic"], "[4, 1, 28, 28]"),
        (["--reference", "gone.onnx"], "gone.onnx: no such file"),
        (["--min-accuracy", "nan"], "needs a number as its limit"),
        (["--threads", "0"], "0 is not in the range"),
    ],
)
def test_bad_words_are_answered_in_one_line(file: Path, data: str, words: list[str], said: str) -> None:
    ended = invoke("validate", file, "--data", data, *words)
    assert 2 == ended.exit_code, ended.output
    assert said in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


def test_pixels_need_to_be_told_how_they_are_normalised(model: nn.Module, data: str, tmp_path: Path) -> None:
    """A file that takes raw pixels gets those of the data, whatever the command line says of floats."""
    path = tmp_path / "pixels.onnx"
    find("onnx").export(Request(model, (1, 8, 8), normalisation=((MEAN,), (STD,))), path)
    ended = invoke("validate", path, "--data", data)
    assert 0 == ended.exit_code, ended.output
    bare = onnx.load(path)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    other = invoke("validate", tmp_path / "bare.onnx", "--data", data)
    assert ended.stdout.splitlines()[1] == other.stdout.splitlines()[1]


def test_it_works_beside_a_folder_of_its_own_name(file: Path, data: str, tmp_path: Path) -> None:
    (tmp_path / "with space and ü").mkdir()
    copy = shutil.copy(file, tmp_path / "with space and ü" / "model.onnx")
    assert 0 == invoke("validate", copy, "--data", data).exit_code


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ('{"mean": [0.5], "std": [0]}', "its metadata 'preprocessing' says mean (0.5,) and std (0.0,)"),
        ('{"mean": [NaN], "std": [1]}', "by which nothing can be normalised; say what is right with --mean and --std"),
        ('{"mean": [0.5, 0.5], "std": [1]}', "by which nothing can be normalised"),
        ("[" * 200_000, None),
        ('{"mean": "as usual"}', None),
    ],
    ids=["zero", "nan", "lengths", "deep", "words"],
)
def test_metadata_that_is_no_normalisation(
    file: Path, data: str, tmp_path: Path, said: str, answer: str | None
) -> None:
    """Other tools may write anything under the name; only what looks like a normalisation must be one."""
    model = onnx.load(file)
    helper.set_model_props(model, {"preprocessing": said})
    onnx.save(model, tmp_path / "m.onnx")
    ended = invoke("validate", tmp_path / "m.onnx", "--data", data)
    assert (2 if answer else 0) == ended.exit_code, ended.output
    assert (answer or "") in ended.output


def test_one_number_normalises_every_channel(tmp_path: Path) -> None:
    """As the advice says: for pixels in 0..1 use --mean 0 --std 1."""
    source = """
import torch

def factory():
    x = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    return {"train": (x, torch.zeros(4, dtype=torch.int64)), "test": (x, torch.zeros(4, dtype=torch.int64))}
"""
    (tmp_path / "colours.py").write_text(source)
    found = load(f"{tmp_path / 'colours.py'}:factory", reading=Reading(mean=(0.0,), std=(1.0,)))
    assert ((0.0,) * 3, (1.0,) * 3) == (found.mean, found.std)
