"""Files are brought into a form that can be followed, or refused in one clear line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import UsageError
from compress.onnx_file import open_onnx
from compress.onnx_import import read_graph
from tests.conftest import invoke
from tests.onnx_import.build import array, assert_same, file_of, network_of


def raw(folder: Path, nodes: list[onnx.NodeProto], *, opset: int = 18, **more: Any) -> Path:
    """A file from x (2, 4) to y (2, 4) that nothing has looked at."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy"]
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in more.pop("constants", {}).items()]
    domains = more.pop("domains", ())
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], constants)
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    path = folder / "raw.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=8, **more).SerializeToString())
    return path


def refused(path: Path) -> str:
    """The one line in which the command refuses a file."""
    ended = invoke("compact", path, "-o", path.parent / "small.onnx")
    assert 2 == ended.exit_code, ended.output
    assert not (path.parent / "small.onnx").exists()
    lines = ended.stderr.splitlines()
    assert 1 == len(lines)
    return lines[0]


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    for name, data in (("text.onnx", b"weights"), ("empty.onnx", b"")):
        (tmp_path / name).write_bytes(data)
        assert "not an ONNX" in refused(tmp_path / name)
    assert "no such file" in refused(tmp_path / "gone.onnx")


def test_quantised_files_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    path = raw(tmp_path, nodes, constants={"s": np.float32(0.1), "z": np.uint8(0)})
    assert "the file is quantised (QuantizeLinear" in refused(path)


def test_control_flow_is_refused(tmp_path: Path) -> None:
    made = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])]
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], made)
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert "control flow ('If'" in refused(raw(tmp_path, [node], constants={"c": np.array(True)}))


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    lstm = helper.make_node("Det", ["x"], ["y"], name="where")
    assert "operator 'Det' at 'where' is not supported" in refused(
        file_of(tmp_path, [lstm], {"x": ("float32", [2, 2])}, ["y"])
    )
    gelu = helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")
    assert "operator 'com.microsoft::FastGelu'" in refused(raw(tmp_path, [gelu], domains=["com.microsoft"]))
    sequence = [helper.make_node("SequenceConstruct", ["x"], ["s"]), helper.make_node("SequenceAt", ["s", "i"], ["y"])]
    assert "operator 'SequenceConstruct' at 'SequenceConstruct_0'" in refused(
        raw(tmp_path, sequence, constants={"i": np.int64(0)})
    )


def test_operator_sets_out_of_range_are_refused(tmp_path: Path) -> None:
    path = raw(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], opset=6)
    assert "the file has opset 6; ONNX Runtime runs 7 and later" in refused(path)
    opened = open_onnx(path)
    opened.model.opset_import[0].version = 99
    with pytest.raises(UsageError, match="the file has opset 99; at most 28"):
        read_graph(opened)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Dropout", ["x", "r", "t"], ["y"]), "it drops at random"),
        (helper.make_node("BatchNormalization", ["x", *"gbmv"], ["y", "n", "w"], training_mode=1), "as in training"),
        (helper.make_node("Dropout", ["x"], ["y", "mask"]), "its mask is read"),
        (helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], reduction="add"), "reduction 'add'"),
    ],
)  # fmt: skip
def test_what_an_operator_does_not_cover_is_said(node: onnx.NodeProto, said: str, tmp_path: Path) -> None:
    constants = {name: array(4, positive=True) for name in "gbmv"}
    constants |= {"r": np.float32(0.5), "t": np.array(True), "i": np.zeros((2, 4), np.int64)}
    path = file_of(tmp_path, [node], {"x": ("float32", [2, 4])}, node.output, constants)
    text = refused(path)
    assert said in text
    assert f"operator {node.op_type} at" in text


def test_a_mask_that_nobody_reads_is_no_matter(tmp_path: Path) -> None:
    nodes = [helper.make_node("Dropout", ["x"], ["d", "mask"]), helper.make_node("Relu", ["d"], ["y"])]
    assert_same(file_of(tmp_path, nodes, {"x": ("float32", [2, 4])}, opset=11), {"x": array(2, 4)})


def test_sizes_computed_from_the_data_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["i"], ["m"], keepdims=0),
        helper.make_node("Abs", ["m"], ["a"]),
        helper.make_node("Unsqueeze", ["a", "zero"], ["u"]),
        helper.make_node("Sub", ["u", "u"], ["d"]),
        helper.make_node("Sub", ["d", "one"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    constants = {"one": np.array([1]), "zero": np.array([0])}
    path = file_of(tmp_path, nodes, {"x": ("float32", [2, 4])}, ["y"], constants)
    assert "operator Reshape at 'Reshape_6': its input 1 ('s') is computed from the data" in refused(path)


def test_constants_are_computed_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["w", "two"], ["v"]),
        helper.make_node("Concat", ["v", "v"], ["c"], axis=1),
        helper.make_node("MatMul", ["x", "c"], ["y"]),
    ]
    path = file_of(tmp_path, nodes, {"x": ("float32", [2, 3])}, ["y"], {"w": array(3, 2)})
    graph = read_graph(open_onnx(path))
    assert ["MatMul"] == [node.operator for node in graph.nodes]
    assert_same(path, {"x": array(2, 3)})


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    double = helper.make_function(
        "mine", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    nodes = [helper.make_node("Double", ["x"], ["d"], domain="mine"), helper.make_node("Relu", ["d"], ["y"])]
    path = raw(tmp_path, nodes, domains=["mine"], functions=[double])
    graph = read_graph(open_onnx(path))
    assert ["Add", "Relu"] == [node.operator for node in graph.nodes]
    assert_same(path, {"x": array(2, 4)})


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    """An embedding that is also the last matrix, turned over."""
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "turned"], ["y"]),
    ]
    path = file_of(tmp_path, nodes, {"i": ("int64", [2, 3])}, ["y"], {"table": array(5, 4)})
    network = assert_same(path, {"i": np.array([[0, 1, 4], [2, 2, 3]])})
    assert [(5, 4)] == [tuple(parameter.shape) for parameter in network.parameters()]


def test_equal_vectors_of_different_layers_are_not_tied(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "zeros"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "zeros"], ["y"]),
    ]
    constants = {"w": array(4, 4), "v": array(4, 4, seed=1), "zeros": np.zeros(4, np.float32)}
    network = network_of(file_of(tmp_path, nodes, {"x": ("float32", [2, 4])}, ["y"], constants))
    assert 4 == len(list(network.parameters()))


def test_names_from_a_file_cannot_harm(tmp_path: Path) -> None:
    names = ["forward", "../../x", "keys", "\x1b[31m", "conv.weight", "__class__", "", "training"]
    nodes, last = [], "x"
    for index, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"h{index}"], name=name))
        last = f"h{index}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    constants = {f"w{index}": array(4, 4, seed=index) for index in range(len(names))}
    path = file_of(tmp_path, nodes, {"x": ("float32", [2, 4])}, ["y"], constants)
    network = assert_same(path, {"x": array(2, 4)}, 1e-4)
    assert len(names) == len(network.layers)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", key) for key in network.layers)
