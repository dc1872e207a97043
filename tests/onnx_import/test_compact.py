"""`compress compact`: smaller files that compute the same, from files that others' tools write."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from compress import onnx_compaction
from compress.onnx_compaction import Outcome, compact_file
from compress.onnx_import.table import OPERATORS, Operator
from tests.conftest import invoke
from tests.onnx_import.build import array, file_of, runtime_says
from tests.onnx_import.conftest import export, tiny_net


def widths(outcome: Outcome) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every layer of the written file."""
    return {layer.name: (layer.in_after, layer.out_after) for layer in outcome.layers}


def one_line(text: str) -> str:
    """Without the line breaks and columns of a terminal."""
    return re.sub(r"\s+", " ", text)


def assert_equal_files(given: Path, written: Path, feeds: dict[str, Any], tolerance: float = 1e-5) -> None:
    for want, got in zip(runtime_says(given, feeds), runtime_says(written, feeds), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def test_dead_channels_and_neurons_go(tiny_file: Path, tmp_path: Path) -> None:
    outcome = compact_file(tiny_file, tmp_path / "small.onnx")
    assert outcome.removed
    assert {"conv1": (3, 4), "conv2": (4, 4), "fc1": (16, 4), "fc2": (4, 5)} == widths(outcome)
    assert (3 * 6 * 9 + 6 * 9 + 24 * 8 + 8 * 5, 3 * 4 * 9 + 4 * 9 + 16 * 4 + 4 * 5) == outcome.weights
    assert () == outcome.frozen
    assert (tmp_path / "small.onnx").stat().st_size == outcome.size_bytes[1] < outcome.size_bytes[0]
    assert outcome.max_error <= outcome.tolerance == 1e-5
    assert outcome.proved < 1e-9
    assert_equal_files(tiny_file, outcome.out, {"image": array(2, 3, 8, 8)})


def test_the_interface_stays(tiny_file: Path, tmp_path: Path) -> None:
    given = onnx.load(tiny_file)
    given.metadata_props.add(key="labels", value="a,b")
    onnx.save(given, tmp_path / "given.onnx")
    written = onnx.load(compact_file(tmp_path / "given.onnx", tmp_path / "small.onnx").out)
    onnx.checker.check_model(written, full_check=True)
    for ours, theirs in ((written.graph.input, given.graph.input), (written.graph.output, given.graph.output)):
        assert [(value.name, value.type) for value in theirs] == [(value.name, value.type) for value in ours]
    assert {"labels": "a,b"}.items() <= {p.key: p.value for p in written.metadata_props}.items()
    assert given.opset_import[0].version == written.opset_import[0].version


def test_a_free_batch_stays_free_and_a_fixed_one_fixed(tiny_file: Path, tmp_path: Path) -> None:
    small = compact_file(tiny_file, tmp_path / "free.onnx").out
    for batch in (1, 5):
        assert_equal_files(tiny_file, small, {"image": array(batch, 3, 8, 8)})
    fixed = export(tiny_net(), tmp_path / "fixed.onnx", batch=None)
    written = compact_file(fixed, tmp_path / "small.onnx")
    assert (4, 4) == widths(written)["conv2"]
    assert [2, 3, 8, 8] == [d.dim_value for d in onnx.load(written.out).graph.input[0].type.tensor_type.shape.dim]


def test_the_command(tiny_file: Path, tmp_path: Path) -> None:
    ended = invoke("compact", tiny_file, "-o", tmp_path / "small.onnx")
    assert 0 == ended.exit_code, ended.output
    said = one_line(ended.stdout)
    assert "4 of 4 layers are narrower, and the outputs are the same" in said
    assert "conv1 3 6 -> 4" in said
    assert "weights 448 228 49.1 % less" in said
    assert "" == ended.stderr
    again = invoke("compact", tiny_file, "-o", tmp_path / "again.onnx", "--quiet")
    assert (0, "") == (again.exit_code, again.output)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


def test_widths_stay_multiples_where_asked_for(tiny_file: Path, tmp_path: Path) -> None:
    """Of 6 and 8 channels, 4 each are alive: a multiple of 6 is 6, of which there are none less."""
    outcome = compact_file(tiny_file, tmp_path / "small.onnx", round_channels=6)
    assert {"conv1": (3, 6), "conv2": (6, 6), "fc1": (24, 6), "fc2": (6, 5)} == widths(outcome)


def test_a_file_without_zeros_is_copied(tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = export(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval(), tmp_path / "m.onnx"
    )
    ended = invoke("compact", path, "-o", tmp_path / "same.onnx")
    assert 0 == ended.exit_code, ended.output
    assert f"nothing in {path} is dead" in one_line(ended.stdout)
    assert onnx.load(path) == onnx.load(tmp_path / "same.onnx")


def channels_last(folder: Path) -> Path:
    """What tf2onnx writes of a Keras network: opset 11, NHWC at the border, SAME pads, a bias added behind."""
    kernel, dense = array(6, 3, 3, 3), array(6, 4, seed=1)
    kernel[[1, 4]] = 0
    added = array(1, 6, 1, 1, seed=2)
    added[:, [1, 4]] = 0.5
    nodes = [
        helper.make_node("Transpose", ["in:0"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "kernel"], ["c"], name="net/conv/Conv2D", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Add", ["c", "added"], ["a"]),
        helper.make_node("BatchNormalization", ["a", *"gbmv"], ["n"], epsilon=1e-3),
        helper.make_node("Clip", ["n", "zero", "six"], ["r"]),
        helper.make_node("Transpose", ["r"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["last"], ["p"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["p", "dense"], ["d"], name="net/dense/MatMul"),
        helper.make_node("Add", ["d", "bias"], ["l"]),
        helper.make_node("Softmax", ["l"], ["out:0"]),
    ]
    constants = {"kernel": kernel, "added": added, "dense": dense, "bias": array(4, seed=3)}
    constants |= {name: array(6, seed=4, positive=True) for name in "gbmv"}
    constants |= {"zero": np.float32(0), "six": np.float32(6)}
    return file_of(folder, nodes, {"in:0": ("float32", ["unk__1", 7, 7, 3])}, ["out:0"], constants, opset=11)


def test_a_channels_last_file_of_an_old_operator_set(tmp_path: Path) -> None:
    path = channels_last(tmp_path)
    outcome = compact_file(path, tmp_path / "small.onnx")
    assert {"net_conv_Conv2D": (3, 4), "net_dense_MatMul": (4, 4)} == widths(outcome)
    assert (11, 18) == outcome.opset
    assert "1.14" == outcome.min_ort
    assert_equal_files(path, outcome.out, {"in:0": array(3, 7, 7, 3)})


class Block(nn.Module):
    """A transformer block on an embedding of image patches; a third of its hidden neurons is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.block(x).mean(1))


def block() -> Block:
    torch.manual_seed(2)
    model = Block().eval()
    with torch.no_grad():
        model.block.linear1.weight[::3] = 0
        model.block.linear1.bias[::3] = 0
    return model


def test_a_transformer_block(tmp_path: Path) -> None:
    path = export(block(), tmp_path / "block.onnx")
    outcome = compact_file(path, tmp_path / "small.onnx")
    assert (8, 8) == widths(outcome)["block_linear1"] == widths(outcome)["block_linear2"]
    assert any("layer_norm" in said for said in outcome.frozen)
    assert_equal_files(path, outcome.out, {"image": array(2, 3, 8, 8)})


def test_inputs_and_outputs_of_several_kinds(tmp_path: Path) -> None:
    """Token numbers and a mask in, scores and the best class out; a name of the graph is one of the exporter's."""
    table, weight = array(7, 6), array(6, 4, seed=1)
    table[:, [0, 3]] = 0
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Unsqueeze", ["mask", "axes"], ["m"]),
        helper.make_node("Mul", ["e", "m"], ["linear"]),
        helper.make_node("ReduceSum", ["linear", "one"], ["s"], keepdims=0),
        helper.make_node("MatMul", ["s", "weight"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "last"], ["relu"]),
        helper.make_node("ArgMax", ["relu"], ["best"], axis=1, keepdims=0),
    ]
    weight[:, 1:3] = 0
    constants = {"table": table, "weight": weight, "last": array(4, 3), "axes": np.array([2]), "one": np.array([1])}
    inputs = {"ids": ("int64", ["b", 5]), "mask": ("float32", ["b", 5])}
    path = file_of(tmp_path, nodes, inputs, ["best", "relu"], constants)
    outcome = compact_file(path, tmp_path / "small.onnx")
    assert 2 == outcome.layers[0].out_after
    assert outcome.macs is None
    written = onnx.load(outcome.out)
    assert ["ids", "mask"] == [value.name for value in written.graph.input]
    assert ["best", "relu"] == [value.name for value in written.graph.output]
    feeds = {"ids": np.array([[0, 6, 1, 2, 3]] * 3), "mask": array(3, 5)}
    assert_equal_files(path, outcome.out, feeds)


def test_half_precision(tmp_path: Path) -> None:
    weight = array(6, 8, dtype="float16")
    weight[:, ::2] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {"w": weight, "v": array(8, 3, seed=1, dtype="float16")}
    path = file_of(tmp_path, nodes, {"x": ("float16", ["b", 6])}, ["y"], constants)
    outcome = compact_file(path, tmp_path / "small.onnx")
    assert [(6, 4), (4, 3)] == list(widths(outcome).values())
    assert 5e-3 == outcome.tolerance
    assert_equal_files(path, outcome.out, {"x": array(4, 6, dtype="float16")}, 5e-3)


def test_tensors_outside_the_file(tiny_file: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(tiny_file), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    outcome = compact_file(tmp_path / "m.onnx", tmp_path / "elsewhere" / "small.onnx")
    assert ["small.onnx"] == [file.name for file in (tmp_path / "elsewhere").iterdir()]
    assert_equal_files(tiny_file, outcome.out, {"image": array(2, 3, 8, 8)})


def two_sizes(folder: Path, shape: Any) -> Path:
    """A convolution with two dead filters, and the mean over whatever size the image has."""
    kernel, weight = array(4, 3, 3, 3), array(4, 2)
    kernel[:2] = 0
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    return file_of(folder, nodes, {"x": ("float32", shape)}, ["y"], {"k": kernel, "w": weight})


def test_sizes_that_a_file_leaves_open_are_asked_for(tmp_path: Path) -> None:
    path = two_sizes(tmp_path, ["n", 3, "height", "width"])
    refused = invoke("compact", path, "-o", tmp_path / "small.onnx")
    assert 2 == refused.exit_code
    assert "['n', 3, 'height', 'width']" in refused.stderr
    example = re.search(r"--input-shape (\S+)", refused.stderr)
    assert example
    for shape, batch in ((example[1], 1), ("x=N,3,9,6", None)):
        ended = invoke("compact", path, "-o", tmp_path / "small.onnx", "--input-shape", shape)
        assert 0 == ended.exit_code, ended.output
        first = onnx.load(tmp_path / "small.onnx").graph.input[0].type.tensor_type.shape.dim[0]
        assert (batch or 0, "" if batch else "n") == (first.dim_value, first.dim_param)
    assert_equal_files(path, tmp_path / "small.onnx", {"x": array(3, 3, 9, 6)})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("y=1,3,8,8", "no input 'y'; known: x"),
        ("x=1,3", "--input-shape: 'x' is ['n', 3, '?', '?'] in the file, [1, 3] was asked for"),
        ("x=1,4,8,8", "[1, 4, 8, 8] was asked for"),
        ("x=1,3,n,8", "--input-shape wants NAME=1,3,224,224, got 'x=1,3,n,8'"),
        ("x=", "--input-shape wants"),
        ("1,3,8,8", "--input-shape wants"),
        ("x=1,3,2,2", "ONNX Runtime cannot run the file on inputs of shape 'x' [1, 3, 2, 2]"),
    ],
)
def test_wrong_sizes_are_refused(asked: str, said: str, tmp_path: Path) -> None:
    path = two_sizes(tmp_path, ["n", 3, None, None])
    ended = invoke("compact", path, "-o", tmp_path / "small.onnx", "--input-shape", asked)
    assert 2 == ended.exit_code
    assert said in ended.stderr
    assert not (tmp_path / "small.onnx").exists()


def perturbed(model: onnx.ModelProto) -> onnx.ModelProto:
    """One weight, the largest of the first convolution, a hundredth larger."""
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return model


def test_a_new_file_that_lies_is_not_written(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnx_compaction.network_to_onnx
    monkeypatch.setattr(onnx_compaction, "network_to_onnx", lambda *a, **k: perturbed(honest(*a, **k)))
    ended = invoke("compact", tiny_file, "-o", tmp_path / "small.onnx")
    assert 3 == ended.exit_code, ended.output
    assert "parity failed: the new file differs from the given file" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_an_import_that_lies_is_refused(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "Relu", Operator(lambda call, x: torch.relu(x) * 1.001))
    ended = invoke("compact", tiny_file, "-o", tmp_path / "small.onnx")
    assert 3 == ended.exit_code, ended.output
    assert "read as a PyTorch network, differs from the given file" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_dead_network_is_not_proved(tmp_path: Path) -> None:
    model = tiny_net()
    with torch.no_grad():
        for tensor in model.get_submodule("fc2").parameters():
            tensor.zero_()
    path = export(model, tmp_path / "dead.onnx")
    ended = invoke("compact", path, "-o", tmp_path / "small.onnx")
    assert 4 == ended.exit_code, ended.output
    assert not (tmp_path / "small.onnx").exists()


def test_the_given_file_is_never_overwritten(tiny_file: Path, tmp_path: Path) -> None:
    before = tiny_file.read_bytes()
    (tmp_path / "link.onnx").symlink_to(tiny_file)
    for out in (tiny_file, tiny_file.parent / "." / tiny_file.name, tmp_path / "link.onnx"):
        ended = invoke("compact", tiny_file, "-o", out)
        assert 2 == ended.exit_code
        assert "is the given file itself" in ended.stderr
    assert before == tiny_file.read_bytes()


def test_an_output_that_cannot_be_written(tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, reason in ((tmp_path / "file" / "small.onnx", "Not a directory"), (tmp_path, "Is a directory")):
        ended = invoke("compact", tiny_file, "-o", out)
        assert 2 == ended.exit_code, ended.output
        assert f"{out} cannot be written: {reason}" in ended.stderr
    assert ["file"] == [found.name for found in tmp_path.iterdir()]


def test_a_file_whose_own_answers_are_no_numbers_is_not_called_unequal(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Log", ["a"], ["y"])]
    path = file_of(tmp_path, nodes, {"x": ("float32", ["n", 6])}, constants={"w": array(6, 3)})
    ended = invoke("compact", path, "-o", tmp_path / "small.onnx")
    assert 2 == ended.exit_code, ended.output
    assert "an output is infinite or no number on random inputs, so nothing can be compared" in ended.stderr


def test_an_output_of_zeros_may_round_to_zero(tmp_path: Path) -> None:
    """PyTorch's Sigmoid far from its middle is not ONNX Runtime's 0."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Sub", ["a", "c"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    constants = {"w": 1e-3 * array(6, 3), "c": np.float32(25)}
    path = file_of(tmp_path, nodes, {"x": ("float32", ["n", 6])}, constants=constants)
    assert 0 == runtime_says(path, {"x": array(2, 6)})[0].max()
    ended = invoke("compact", path, "-o", tmp_path / "small.onnx")
    assert 0 == ended.exit_code, ended.output
    assert "Output 'y' is 0.0 on all random inputs, so that its equality says little." in one_line(ended.stdout)


def test_inputs_with_a_default_that_become_constants_are_named(tiny_file: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_file)
    tensors = list(model.graph.initializer)
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors)
    onnx.save(model, tmp_path / "listed.onnx")
    ended = invoke("compact", tmp_path / "listed.onnx", "-o", tmp_path / "small.onnx")
    assert 0 == ended.exit_code, ended.output
    assert f"can no longer be fed: {tensors[0].name}" in one_line(ended.stdout)
    assert "no longer be fed" not in invoke("compact", tiny_file, "-o", tmp_path / "small.onnx").stdout


def dead_head() -> nn.Module:
    """A transformer block of which one of two heads is dead: its values and what reads them are zero."""
    model = block()
    with torch.no_grad():
        attention = model.block.self_attn
        attention.in_proj_weight[16:20] = 0
        attention.in_proj_bias[16:20] = 0
        attention.out_proj.weight[:, :4] = 0
    return model


def test_needs_rewritten_sizes_a_dead_head_goes(tmp_path: Path) -> None:
    """Needs compaction to rewrite sizes in the code: the file says how many heads there are, and how wide."""
    path = export(dead_head(), tmp_path / "block.onnx")
    outcome = compact_file(path, tmp_path / "small.onnx")
    assert 4 == widths(outcome)["block_self_attn_out_proj"][0]
    assert_equal_files(path, outcome.out, {"image": array(2, 3, 8, 8)})
