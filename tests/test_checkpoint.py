"""Weights of a narrowed network, taken wherever weights are given; `compact` and `validate` on checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from compress.checkpoint import attributes_of, load_weights, save_weights
from compress.compaction import compact
from compress.errors import UsageError
from compress.onnx_file import open_onnx
from compress_models import WeightsError
from tests.conftest import Project, invoke, report_of
from tests.support import TinyNet


def with_dead_channels() -> TinyNet:
    torch.manual_seed(0)
    model = TinyNet().eval()
    with torch.no_grad():
        for tensor in (model.conv1.weight, model.conv1.bias, model.conv2.weight, model.conv2.bias):
            tensor[::2] = 0
    return model


@pytest.fixture(scope="module")
def narrowed() -> nn.Module:
    return compact(with_dead_channels(), torch.randn(2, 1, 8, 8)).model


@pytest.fixture
def file(narrowed: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "narrow.safetensors"
    save_weights(narrowed.state_dict(), attributes_of(narrowed), path)
    return path


def test_a_fresh_network_becomes_as_narrow_as_its_weights(file: Path, narrowed: nn.Module) -> None:
    loaded = load_weights(TinyNet(), file).eval()
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(narrowed(images), loaded(images))
    assert (2, 3) == (loaded.conv1.out_channels, loaded.conv2.out_channels)
    assert attributes_of(narrowed) == attributes_of(loaded)


def test_a_narrowed_network_can_be_compacted_and_saved_again(file: Path, tmp_path: Path) -> None:
    loaded = load_weights(TinyNet(), file).eval()
    with torch.no_grad():
        loaded.conv2.weight[0] = 0
        loaded.conv2.bias[0] = 0
    again = compact(loaded, torch.randn(2, 1, 8, 8)).model
    save_weights(again.state_dict(), attributes_of(again), tmp_path / "again.safetensors")
    images = torch.randn(3, 1, 8, 8)
    found = load_weights(TinyNet(), tmp_path / "again.safetensors").eval()(images)
    torch.testing.assert_close(loaded(images), found)


def test_full_size_weights_load_as_before(tmp_path: Path) -> None:
    model, other = with_dead_channels(), TinyNet()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert load_weights(other, tmp_path / "w.safetensors") is other
    assert torch.equal(model.conv1.weight, other.conv1.weight)
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(other, tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"conv1": {"__class__": 1}}, "is not what compaction writes"),
        ({"conv1": {"_parameters": 1}}, "is not what compaction writes"),
        ({"conv1": {"out_channels": "os.system"}}, "is not what compaction writes"),
        ({"conv1": {"forward": {"nodes": []}}}, "is not what compaction writes"),
        ([1, 2], "is not what compaction writes"),
        ({"conv1": 3}, "is not what compaction writes"),
        ({"conv9": {"out_channels": 2}}, "conv9.out_channels does not belong to this model"),
        (
            {"": {"forward": {"nodes": [["call_function", "aten.from_file.default", [], {"map": {}}]]}}},
            "only ATen operators",
        ),
        ({"": {"forward": {"nodes": 3}}}, "what they say of widths is damaged"),
    ],
)
def test_a_file_cannot_set_what_is_no_width(file: Path, attributes: Any, said: str) -> None:
    save_file(load_file(file), file, metadata={"attributes": json.dumps(attributes)})
    with pytest.raises(UsageError, match=said) as error:
        load_weights(TinyNet(), file)
    assert str(file) in str(error.value)


def test_narrow_weights_of_another_network_are_refused(file: Path) -> None:
    with pytest.raises(UsageError, match=r"narrow\.safetensors: the state's conv1"):
        load_weights(nn.Sequential(nn.Linear(3, 3)), file)


@pytest.fixture(scope="module")
def spec(user: Project) -> str:
    return f"{user.folder / 'net.py'}:Net"


@pytest.fixture(scope="module")
def data(user: Project) -> str:
    return f"{user.folder / 'data.py'}:factory"


@pytest.fixture(scope="module")
def zeros(user: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the user's network; half of its filters are dead."""
    scope: dict[str, Any] = {}
    exec((user.folder / "net.py").read_text(), scope)
    torch.manual_seed(0)
    model = scope["Net"]()
    with torch.no_grad():
        model.conv.weight[::2] = 0
        model.conv.bias[::2] = 0
    path = tmp_path_factory.mktemp("weights") / "zeros.pt"
    torch.save(model.state_dict(), path)
    return path


def test_a_checkpoint_is_compacted_to_weights(spec: str, data: str, zeros: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    ended = invoke("compact", spec, "--weights", zeros, "--input-shape", "1,8,8", "-o", small)
    assert 0 == ended.exit_code, ended.output
    assert "2 channels removed" in ended.stdout
    with safe_open(small, "pt") as opened:
        assert [2, 1, 3, 3] == opened.get_slice("conv.weight").get_shape()
    before, after = (invoke("validate", spec, "--weights", w, "--data", data) for w in (zeros, small))
    assert 0 == before.exit_code == after.exit_code, after.output
    assert before.stdout.splitlines()[0].partition(": ")[2] == after.stdout.splitlines()[0].partition(": ")[2]


def test_a_checkpoint_is_compacted_to_onnx(spec: str, zeros: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    ended = invoke("compact", spec, "--weights", zeros, "--input-shape", "1,8,8", "-o", small)
    assert 0 == ended.exit_code, ended.output
    assert "parity passed" in ended.stdout
    assert [2, 1, 3, 3] in [list(tensor.dims) for tensor in open_onnx(small).model.graph.initializer]
    again = invoke("compact", spec, "--weights", zeros, "--input-shape", "1,8,8", "-o", small, "--quiet")
    assert (0, "") == (again.exit_code, again.output)


def test_a_checkpoint_is_validated(spec: str, data: str, zeros: Path) -> None:
    ended = invoke("validate", spec, "--weights", zeros, "--data", data, "--max-size-kb", 1000)
    assert 0 == ended.exit_code, ended.output
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"{spec} with {zeros}: ")
    assert lines[0].endswith("% of 40 test images of " + data + " in PyTorch")
    assert "parity passed: max error" in lines[1]
    assert lines[3].startswith("accuracy: " + lines[0].partition(": ")[2].partition("%")[0])
    assert any("latency: p50" in line for line in lines)
    missed = invoke("validate", spec, "--weights", zeros, "--data", data, "--max-size-kb", 0.001)
    assert 3 == missed.exit_code
    assert "failed: max_size_kb" in missed.stderr
    assert "in PyTorch" in missed.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compact", "SPEC", "-o", "x.pt"), "a checkpoint is written as .onnx or .safetensors"),
        (("compact", "SPEC", "-o", "x.onnx"), "does not say what input it takes"),
        (("compact", "SPEC", "-o", "x.onnx", "--input-shape", "image=1,1,8,8"), "the sizes alone, without the batch"),
        (("compact", "SPEC", "-o", "x.onnx", "--input-shape", "8,8"), "images are C,H,W"),
        (("compact", "lenet6", "-o", "x.onnx"), "did you mean lenet5"),
        (("compact", "gone.onnx", "--weights", "w.pt", "-o", "x.onnx"), "--weights and --set are for a PyTorch model"),
        (("validate", "gone.onnx", "--set", "model.options.a=1", "--data", "mnist"), "are for a PyTorch model"),
        (("validate", "SPEC", "--weights", "gone.pt", "--data", "DATA"), "gone.pt: no such file"),
    ],
)
def test_bad_words_are_answered_in_one_line(spec: str, data: str, words: tuple[str, ...], said: str) -> None:
    ended = invoke(*({"SPEC": spec, "DATA": data}.get(word, word) for word in words))
    assert 2 == ended.exit_code, ended.output
    assert said in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


def test_a_run_starts_from_another_runs_narrow_weights(user: Project, tmp_path: Path) -> None:
    channels = ("--method", "pfec", "--units", "channel", "--macs", 0.6, "--finetune-epochs", 0)
    first = invoke(*user.words(*channels, "--out", tmp_path / "a"))
    assert 0 == first.exit_code, first.output
    weights = tmp_path / "a" / "checkpoints" / "model.safetensors"
    sparse = ("--method", "magnitude", "--sparsity", 0.5, "--train-epochs", 0, "--weights", weights)
    second = invoke(*user.words(*sparse, "--out", tmp_path / "b"))
    assert 0 == second.exit_code, second.output
    a, b = report_of(tmp_path / "a"), report_of(tmp_path / "b")
    assert a["pruned"]["weights"] == b["dense"]["weights"] < a["dense"]["weights"]
    assert a["pruned"]["accuracy"] == b["dense"]["accuracy"]
    # and what that run delivers is narrow in the same way
    loaded = invoke("inspect", user.words()[2], "--weights", tmp_path / "b" / "checkpoints" / "model.safetensors",
                    "--input-shape", "1,8,8", "--json")  # fmt: skip
    assert 0 == loaded.exit_code, loaded.output
    assert b["pruned"]["weights"] == json.loads(loaded.stdout)["weights"]


def test_a_full_disk_is_an_error_of_the_system() -> None:
    """Which every writer knows; the library has one of its own."""
    with pytest.raises(OSError, match="No space left"):
        save_weights({"w": torch.zeros(10_000)}, {}, Path("/dev/full"))
