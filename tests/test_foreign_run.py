"""`compress prune-and-export --model MODEL.onnx`: files from anyone through all that needs no training."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from onnx import helper, numpy_helper
from torch import nn

from compress import conversion
from compress_exporters import Request, find
from compress_exporters.artifact import describe
from tests.conftest import Project, invoke, report_of
from tests.onnx_import.build import array, file_of
from tests.support import scored

QUICK = ("--set", "validate.seconds=0.02", "--set", "validate.repeats=3", "--set", "validate.warm_up=1")


def run(file: Path, out: Path, *words: object) -> Result:
    return invoke("prune-and-export", "--model", file, "--out", out, *QUICK, *words)


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def network(*, dead: bool) -> nn.Module:
    """On 1x8x8 images, 4 classes; of 6 channels the first and the fourth are dead, if any."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    ).eval()
    if dead:
        with torch.no_grad():
            for tensor in (model[0].weight, model[0].bias):
                tensor[::3] = 0
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "theirs.onnx"
    find("onnx").export(Request(network(dead=True), (1, 8, 8), batch="dynamic"), path)
    return path


@pytest.fixture(scope="module")
def data(user: Project) -> str:
    return f"{user.folder / 'data.py'}:factory"


@pytest.fixture(scope="module")
def done(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("run") / "run"
    return run(file, out), out


def test_it_is_compacted_coded_compared_and_measured(done: tuple[Result, Path], file: Path) -> None:
    ended, out = done
    assert 0 == ended.exit_code, ended.output
    assert file.read_bytes() == (out / "dense.onnx").read_bytes()
    report = report_of(out)
    assert ("passed", 0) == (report["status"], report["exit_code"])
    assert 2 == report["pruned"]["channels_removed"]
    assert (6 * 9 + 4 * 54 + 256, 4 * 9 + 4 * 36 + 256) == (report["dense"]["weights"], report["pruned"]["weights"])
    assert {"passed": True, "samples": 10, "reference": "the given file"}.items() <= report["parity"].items()
    assert 0 < report["parity"]["tolerance"] < 1e-3
    assert ["dense.onnx", "model.onnx", "model.sparse.onnx"] == [a["path"] for a in report["artifacts"]]
    assert ["measured"] * 3 == [m["status"] for m in report["measurements"]]
    assert report["speedup_low"] <= report["speedup"] <= report["speedup_high"]
    assert {"compact", "export", "validate"} == {stage["name"] for stage in report["stages"]}


def test_what_a_file_cannot_tell_is_null(done: tuple[Result, Path]) -> None:
    report = report_of(done[1])
    for part in ("dense", "pruned"):
        assert {None} == {report[part][key] for key in ("accuracy", "accuracy_torch", "held_out_accuracy")}
    assert (None, None, None) == (report["seed"], report["data"], report["metric"]["name"])


def test_the_report_has_the_keys_of_every_run(done: tuple[Result, Path], user: Project, tmp_path: Path) -> None:
    other = tmp_path / "run"
    assert 0 == invoke(*user.words("--method", "magnitude", "--sparsity", 0.5, "--out", other)).exit_code
    ours, theirs = report_of(done[1]), report_of(other)
    assert set(theirs) == set(ours)
    for part in ("dense", "pruned", "compaction"):
        assert set(theirs[part]) == set(ours[part]), part
    assert set(theirs["parity"]) <= set(ours["parity"])


def test_a_person_is_told_what_was_compared(done: tuple[Result, Path]) -> None:
    ended, out = done
    assert "ONNX Runtime agrees with the given file" in one_line(ended.stdout)
    page = (out / "report.html").read_text()
    assert "Parity with the given file" in page
    assert "PyTorch" not in page.partition("Data, machine and versions")[0].replace("Accuracy, PyTorch", "")


def test_where_nothing_is_dead_the_graph_stays_and_the_report_says_so(tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    find("onnx").export(Request(network(dead=False), (1, 8, 8), metadata={"labels": "[]"}), path)
    model = onnx.load(path)
    model.graph.doc_string = "written by /somebody/somewhere"
    onnx.save(model, path)
    ended = run(path, tmp_path / "run")
    assert 0 == ended.exit_code, ended.output
    notes = " ".join(report_of(tmp_path / "run")["notes"])
    assert "Nothing was removed: no channel of whole.onnx is dead." in notes
    assert "of descriptions, which no runtime reads, were taken out" in notes
    model.graph.doc_string = ""
    assert model.graph.node == (written := onnx.load(tmp_path / "run" / "model.onnx")).graph.node
    assert (model.graph.initializer, model.metadata_props) == (written.graph.initializer, written.metadata_props)
    assert path.read_bytes() == (tmp_path / "run" / "dense.onnx").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "admm", "--sparsity", 0.9), "--method, --sparsity: training, pruning and tracing need the"),
        (("--train-epochs", 3), "--train-epochs: training"),
        (("--weights", "w.pt", "--opset", 18, "--batch", 1), "--weights, --opset, --batch: training"),
        (("lenet5-mnist",), "the recipe lenet5-mnist: training"),
        (("--set", "train.lr=1"), "--set train.lr: training"),
        (("--set", "validate.second=1"), "recipe has no key 'validate.second'; did you mean seconds?"),
        (("--set", "data.image_size=9"), "none is given; add --data"),
        (("--format", "onyx"), "no export format 'onyx'; did you mean onnx?"),
        (("--target", "here"), "no target 'here'"),
        (("--max-accuracy-drop-points", 1), "needs images; give them with --data"),
        (("--input-shape", "x=1,2"), "--input-shape: no input 'x'"),
    ],
)
def test_bad_words_are_answered_in_one_line(file: Path, tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    ended = run(file, tmp_path / "run", *words)
    assert 2 == ended.exit_code, ended.output
    assert said in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_sizes_of_a_pytorch_model_are_its_datas(user: Project, tmp_path: Path) -> None:
    ended = invoke(*user.words("--input-shape", "x=1,3", "--method", "admm", "--sparsity", 0.5, "--out", tmp_path))
    assert 2 == ended.exit_code
    assert "--input-shape is for --model MODEL.onnx" in ended.stderr


@pytest.mark.parametrize("keep", [0, 100, 700])
def test_a_damaged_file_makes_no_directory(file: Path, tmp_path: Path, keep: int) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:keep])
    ended = run(cut, tmp_path / "run")
    assert 2 == ended.exit_code, ended.output
    assert 1 == len(ended.stderr.splitlines())
    assert not (tmp_path / "run").exists()


def test_tensors_outside_the_files_folder_are_not_read(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(6 * 9 * 4))
    model = onnx.load(file)
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [6, 1, 3, 3])
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    (folder / "hostile.onnx").write_bytes(model.SerializeToString())
    ended = run(folder / "hostile.onnx", tmp_path / "run")
    assert 2 == ended.exit_code
    assert "outside the model's folder" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_tensors_beside_the_file_are_taken_in(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "scattered.onnx"
    onnx.save(onnx.load(file), path, save_as_external_data=True, location="beside.bin", size_threshold=0)
    ended = run(path, tmp_path / "run")
    assert 0 == ended.exit_code, ended.output
    (tmp_path / "beside.bin").unlink()
    onnx.checker.check_model(onnx.load(tmp_path / "run" / "dense.onnx"))
    assert (
        "dense.onnx holds the tensors that scattered.onnx keeps in other files." in report_of(tmp_path / "run")["notes"]
    )


def test_what_cannot_be_followed_is_refused_and_leaves_no_other_model(file: Path, tmp_path: Path) -> None:
    """The reason is in the report, and an earlier file's results are gone."""
    out = tmp_path / "run"
    assert 0 == run(file, out).exit_code
    node = helper.make_node("Det", ["x"], ["y"])
    path = file_of(tmp_path, [node], {"x": ("float32", [1, 4, 4])})
    ended = run(path, out)
    assert 2 == ended.exit_code
    assert "operator 'Det'" in ended.stderr
    report = report_of(out)
    assert ("failed", 2) == (report["status"], report["exit_code"])
    assert any("operator 'Det'" in note for note in report["notes"])
    assert [] == list(out.glob("*.onnx"))


def test_a_run_of_a_pytorch_model_is_not_overwritten(file: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "dense.pt").write_bytes(b"")
    ended = run(file, tmp_path)
    assert 2 == ended.exit_code
    assert "holds the run of a PyTorch model; choose another --out" in ended.stderr


def test_a_missed_gate_is_named(file: Path, tmp_path: Path) -> None:
    ended = run(file, tmp_path / "run", "--max-size-kb", 0.001)
    assert 3 == ended.exit_code
    assert "max_size_kb" in ended.stderr
    assert (tmp_path / "run" / "model.onnx").exists()
    assert "gate_failed" == report_of(tmp_path / "run")["status"]


def test_accuracy_is_that_of_validate(file: Path, data: str, tmp_path: Path) -> None:
    ended = run(file, tmp_path / "run", "--data", data, "--max-accuracy-drop-points", 0)
    assert 0 == ended.exit_code, ended.output
    report = report_of(tmp_path / "run")
    said = invoke("validate", file, "--data", data).stdout
    for part in ("dense", "pruned"):
        assert f"accuracy: {report[part]['accuracy']:.2%} " in said
    assert (40, 1.0) == (report["parity"]["samples"], report["parity"]["top1_agreement"])
    assert 40 == report["data"]["test"]


def test_the_gate_on_accuracy_holds_every_file(
    file: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of dense.onnx, model.onnx, model.sparse.onnx
    monkeypatch.setattr("compress.foreign_run.accuracy", scored(0.9, 0.9, 0.6))
    ended = run(file, tmp_path / "run", "--data", data, "--max-accuracy-drop-points", 5)
    assert 3 == ended.exit_code
    assert "max_accuracy_drop_points of model.sparse.onnx = 30" in ended.stderr


def test_inputs_of_several_kinds_are_fed_and_measured(tmp_path: Path) -> None:
    table, weight = array(7, 6), array(6, 4, seed=1)
    table[:, [0, 3]] = 0
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Unsqueeze", ["mask", "axes"], ["m"]),
        helper.make_node("Mul", ["e", "m"], ["p"]),
        helper.make_node("ReduceSum", ["p", "one"], ["s"], keepdims=0),
        helper.make_node("MatMul", ["s", "weight"], ["y"]),
    ]
    constants = {"table": table, "weight": weight, "axes": np.array([2]), "one": np.array([1])}
    path = file_of(tmp_path, nodes, {"ids": ("int64", ["b", "n"]), "mask": ("float32", ["b", "n"])}, ["y"], constants)
    ended = run(path, tmp_path / "run", "--input-shape", "ids=b,5", "--input-shape", "mask=b,5")
    assert 0 == ended.exit_code, ended.output
    assert {"measured"} == {m["status"] for m in report_of(tmp_path / "run")["measurements"]}


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A format that needs images, and writes the file with one weight changed as `factor` says."""

    def convert(onnx_path: Path, path: Path, calibration: Any = None) -> Any:
        fake.seen = calibration
        model = onnx.load(onnx_path)
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
        values = numpy_helper.to_array(weight).copy()
        values.flat[np.abs(values).argmax()] *= fake.factor
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, path)
        return describe(path, "fake", opset=18, min_ort="1.14", notes=("A note.",))

    fake = SimpleNamespace(
        suffix=".fake.onnx", companions=(".fake.h",), calibrates=True, convert=convert, factor=1.0, seen=None
    )
    monkeypatch.setattr(conversion, "find", lambda name: fake if name == "fake" else find(name))
    return fake


def test_a_format_that_calibrates_asks_for_images(file: Path, tmp_path: Path, calibrated: SimpleNamespace) -> None:
    ended = run(file, tmp_path / "run", "--format", "fake")
    assert 2 == ended.exit_code
    assert "format fake chooses its ranges of numbers by images; give them with --data" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_format_that_calibrates_is_given_training_images(
    file: Path, data: str, tmp_path: Path, calibrated: SimpleNamespace
) -> None:
    ended = run(file, tmp_path / "run", "--format", "fake", "--data", data)
    assert 0 == ended.exit_code, ended.output
    assert (96, 1, 8, 8) == tuple(calibrated.seen.shape)
    report = report_of(tmp_path / "run")
    assert "model.fake.onnx: A note." in report["notes"]
    assert ["model.fake.onnx", "model.fake.h"] == report["artifacts"][-1]["files"]


@pytest.mark.parametrize("images", [True, False])
def test_a_format_that_changes_a_weight_fails_parity(
    file: Path, data: str, tmp_path: Path, calibrated: SimpleNamespace, images: bool
) -> None:
    calibrated.factor, calibrated.calibrates = 1.01, images
    ended = run(file, tmp_path / "run", "--format", "fake", *(("--data", data) if images else ()))
    assert 3 == ended.exit_code, ended.output
    assert "parity of model.fake.onnx: max error" in ended.stderr
    found = {a["path"]: a.get("parity", {}).get("passed") for a in report_of(tmp_path / "run")["artifacts"]}
    assert {"dense.onnx": None, "model.onnx": True, "model.fake.onnx": False} == found


def test_a_format_that_needs_the_model_itself_says_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "find", lambda name: SimpleNamespace(suffix=".x"))
    ended = run(file, tmp_path / "run", "--format", "x")
    assert 2 == ended.exit_code
    assert "format x is made from a PyTorch model" in ended.stderr


def test_the_same_command_again_gives_the_same_files(done: tuple[Result, Path], file: Path, tmp_path: Path) -> None:
    shutil.copytree(done[1], tmp_path / "run")
    assert 0 == run(file, tmp_path / "run").exit_code
    for name in ("dense.onnx", "model.onnx", "model.sparse.onnx"):
        assert (done[1] / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["notes"] == report_of(done[1])["notes"]


@pytest.mark.parametrize(
    ("target", "said"),
    [("web:nowhere", r"no Chromium on the PATH|no onnxruntime-web in nowhere"), ("ssh://", "is no address; write ssh")],
)
def test_a_target_that_is_not_there_is_told_before_any_work(file: Path, tmp_path: Path, target: str, said: str) -> None:
    ended = run(file, tmp_path / "run", "--target", target)
    assert 2 == ended.exit_code, ended.output
    assert re.search(said, ended.stderr)
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_are_told_before_any_work(file: Path, tmp_path: Path) -> None:
    ended = run(file, tmp_path / "run", "--data", "mnist")
    assert 2 == ended.exit_code, ended.output
    assert "cannot run on images of shape [1, 1, 28, 28]" in ended.stderr
    assert not (tmp_path / "run").exists()
