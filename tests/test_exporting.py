"""`compress export`: a network, a finished run or an ONNX file in any format, compared with what it was made from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from compress import conversion
from compress.exporting import Written
from compress.onnx_file import open_onnx
from compress.validate import Parity
from compress_exporters import Artifact, Request, find
from compress_exporters.artifact import describe
from tests.conftest import Project, invoke
from tests.onnx_import.build import array, file_of


@pytest.fixture(scope="module")
def spec(user: Project) -> str:
    return f"{user.folder / 'net.py'}:Net"


@pytest.fixture(scope="module")
def run(user: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, narrower than its network."""
    out = tmp_path_factory.mktemp("runs") / "run"
    channels = ("--method", "pfec", "--units", "channel", "--macs", 0.6, "--finetune-epochs", 0)
    ended = invoke(*user.words(*channels, "--out", out))
    assert ended.exit_code == 0, ended.output
    return out


def test_a_network_in_two_formats(spec: str, tmp_path: Path) -> None:
    words = ("--input-shape", "1,8,8", "--batch", "dynamic", "--format", "onnx", "--format", "sparse")
    ended = invoke("export", spec, *words, "--out", tmp_path / "out")
    assert 0 == ended.exit_code, ended.output
    assert 2 == len(ended.stdout.splitlines())
    assert all("parity passed" in line for line in ended.stdout.splitlines())
    assert ["model.onnx", "model.sparse.onnx"] == sorted(file.name for file in (tmp_path / "out").iterdir())
    assert ("batch", 1, 8, 8) == open_onnx(tmp_path / "out" / "model.onnx").inputs[0].shape


def test_pixels_are_normalised_by_the_datas_numbers(spec: str, user: Project, tmp_path: Path) -> None:
    data = f"{user.folder / 'data.py'}:factory"
    ended = invoke("export", spec, "--data", data, "--uint8-input", "--out", tmp_path, "--opset", 20, "--quiet")
    assert (0, "") == (ended.exit_code, ended.output)
    written = open_onnx(tmp_path / "model.onnx")
    assert ("uint8", (1, 8, 8, 1), 20) == (written.inputs[0].dtype, written.inputs[0].shape, written.opset)


def test_a_finished_run_gives_the_file_that_it_delivered(run: Path, tmp_path: Path) -> None:
    ended = invoke("export", run, "--out", tmp_path)
    assert 0 == ended.exit_code, ended.output
    assert "on 40 inputs" in ended.stdout
    ours, theirs = (onnx.load(folder / "model.onnx") for folder in (tmp_path, run))
    weights = [{tensor.name: tensor.raw_data for tensor in model.graph.initializer} for model in (ours, theirs)]
    assert weights[0] == weights[1]
    # sparsity, labels, preprocessing, the recipe's hash
    assert list(theirs.metadata_props) == list(ours.metadata_props)


def test_a_finished_run_in_another_form(run: Path, tmp_path: Path) -> None:
    ended = invoke("export", run, "--out", tmp_path, "--batch", 4, "--format", "sparse")
    assert 0 == ended.exit_code, ended.output
    assert (4, 1, 8, 8) == open_onnx(tmp_path / "model.sparse.onnx").inputs[0].shape


def test_an_onnx_file_is_coded(run: Path, tmp_path: Path) -> None:
    ended = invoke("export", run / "model.onnx", "--out", tmp_path)
    assert 0 == ended.exit_code, ended.output
    assert "parity passed: max error 0, " in ended.stdout
    assert ["model.sparse.onnx"] == [file.name for file in tmp_path.iterdir()]


class Liar:
    """The format onnx, with one weight of the model changed."""

    suffix = ".onnx"

    def export(self, request: Request, path: Path) -> Artifact:
        with torch.no_grad():
            largest = request.model.fc2.weight.abs().argmax()
            before = request.model.fc2.weight.view(-1)[largest].clone()
            request.model.fc2.weight.view(-1)[largest] *= 1.05
            artifact = find("onnx").export(request, path)
            request.model.fc2.weight.view(-1)[largest] = before
        return artifact


def test_a_file_that_computes_something_else_is_named(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "find", lambda name: Liar())
    ended = invoke("export", spec, "--input-shape", "1,8,8", "--out", tmp_path)
    assert 3 == ended.exit_code, ended.output
    assert "model.onnx" in ended.stderr
    assert "parity failed" in ended.stderr


def test_a_format_that_calibrates_asks_for_images(spec: str, run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    fake = SimpleNamespace(suffix=".x", calibrates=True, convert=None)
    monkeypatch.setattr(conversion, "find", lambda name: fake)
    for words in ((spec, "--input-shape", "1,8,8"), (run / "model.onnx",)):
        ended = invoke("export", *words, "--format", "fake", "--out", tmp_path)
        assert 2 == ended.exit_code, ended.output
        assert "format fake chooses its ranges of numbers by images; give them with --data" in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("SPEC",), "does not say what input it takes"),
        (("SPEC", "--input-shape", "1,8,8", "--uint8-input"), "give the data with --data"),
        (("SPEC", "--input-shape", "1,8,8", "--format", "onyx"), "no export format 'onyx'; did you mean onnx?"),
        (("SPEC", "--input-shape", "1,8,8", "--opset", "3"), "recipe key export.opset = 3"),
        (("SPEC", "--input-shape", "1,8,8", "--batch", "many"), "recipe key export.batch = 'many'"),
        (("lenet6",), "did you mean lenet5"),
        (("RUN", "--weights", "w.pt"), "is a run, which knows its weights"),
        (("EMPTY",), "holds no finished run of a PyTorch model"),
        (("ONNX", "--format", "onnx"), "is an ONNX file already; name other formats"),
        (("ONNX", "--opset", "18"), "weights, options, opset, batch and input type are the model's to say"),
        (("gone.onnx",), "gone.onnx: no such file"),
        (("NET.py",), "for your own write path/to/file.py:Name"),
        (("ONNX", "--data", "mnist"), "cannot run on images of shape [1, 1, 28, 28]"),
        (("NAN", "--format", "ort"), "an output is infinite or no number on random inputs"),
    ],
)
def test_bad_words_are_answered_in_one_line(
    spec: str, run: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    nan = file_of(tmp_path, [helper.make_node("Log", ["x"], ["y"])], {"x": ("float32", ["n", 6])})
    named = {
        "SPEC": spec,
        "RUN": run,
        "ONNX": run / "model.onnx",
        "EMPTY": tmp_path / "empty",
        "NAN": nan,
        "NET.py": spec.removesuffix(":Net"),
    }
    ended = invoke("export", *(named.get(word, word) for word in words), "--out", tmp_path / "out")
    assert 2 == ended.exit_code, ended.output
    assert said in ended.stderr
    assert 1 == len(ended.stderr.splitlines())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("RUN",), ("ONNX", "--format", "sparse")])
def test_the_files_of_a_run_are_not_written_over(run: Path, words: tuple[str, ...]) -> None:
    """Its report has their hashes, sizes and figures."""
    named = {"RUN": run, "ONNX": run / "model.onnx"}
    before = {file: file.read_bytes() for file in run.glob("*.onnx")}
    ended = invoke("export", *(named.get(word, word) for word in words), "--out", run)
    assert 2 == ended.exit_code, ended.output
    assert "belongs to a run, whose report tells of it; choose another --out" in ended.stderr
    assert before == {file: file.read_bytes() for file in run.glob("*.onnx")}


@pytest.mark.parametrize("words", [("SPEC", "--input-shape", "1,8,8"), ("ONNX", "--format", "ort")])
def test_a_folder_that_cannot_be_made_is_bad_input(spec: str, run: Path, tmp_path: Path, words: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    named = {"SPEC": spec, "ONNX": run / "model.onnx"}
    ended = invoke("export", *(named.get(word, word) for word in words), "--out", tmp_path / "file" / "out")
    assert 2 == ended.exit_code, ended.output
    assert "cannot be written: Not a directory; choose another place" in ended.stderr


class LiesInTheLast(SimpleNamespace):
    """A format that writes the file with another bias of the second output."""

    def convert(self, onnx_path: Path, path: Path, calibration: Any = None) -> Artifact:
        model = onnx.load(onnx_path)
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32(1.001), "b"))
        path.parent.mkdir()
        onnx.save(model, path)
        return describe(path, "fake", opset=18, min_ort="1.14")


@pytest.mark.parametrize("images", [True, False])
def test_every_output_is_compared_on_images_too(
    user: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: bool
) -> None:
    """The first output is the best class, the last a number beside it."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
        helper.make_node("Mul", ["y", "b"], ["z"]),
    ]
    constants = {"w": array(64, 4), "b": np.float32(1)}
    path = file_of(tmp_path, nodes, {"x": ("float32", ["n", 1, 8, 8])}, ["best", "y", "z"], constants)
    monkeypatch.setattr(conversion, "find", lambda name: LiesInTheLast(suffix=".fake.onnx"))
    data = ("--data", f"{user.folder / 'data.py'}:factory") if images else ()
    ended = invoke("export", path, "--format", "fake", *data, "--out", tmp_path / "out")
    assert 3 == ended.exit_code, ended.output
    assert "parity failed: max error" in ended.stderr


def test_random_images_have_the_sizes_that_are_asked_for(tmp_path: Path) -> None:
    """Half precision looks at values on images; the file leaves height and width open."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = file_of(tmp_path, nodes, {"x": ("float32", ["n", 3, "h", "w"])}, constants={"w": array(4, 3, 3, 3)})
    words = ("export", path, "--format", "onnx-fp16", "--out", tmp_path / "out")
    ended = invoke(*words, "--input-shape", "x=N,3,8,8")
    assert 0 == ended.exit_code, ended.output
    assert "On 50 images" in ended.stdout
    assert 2 == invoke(*words).exit_code


def test_of_fewer_bits_the_share_of_equal_classes_is_told() -> None:
    found = Parity(max_abs=0.5, tolerance=4.0, top1_agreement=0.985, samples=1000, passed=True)
    coarse, fine = (Artifact(Path("m"), "f", 1, 1, "", dtype=dtype) for dtype in ("int8", "float32"))
    assert Written(coarse, found).line.endswith("max error 0.5, tolerance 4, same class for 98.50% on 1,000 inputs")
    assert Written(fine, found).line.endswith("max error 0.5, tolerance 4 on 1,000 inputs")
