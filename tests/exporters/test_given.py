"""Files that nobody here wrote, as float16 and int8: written right, or refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.onnx_file import session
from compress_exporters import ExportError, onnx_fp16, onnx_int8, sparse
from compress_exporters._calibration import relative_error
from tests.onnx_import.build import array, file_of

CONVERTERS = (onnx_fp16, onnx_int8)
IMAGES = array(20, 3, 8, 8, seed=9)
WEIGHTS = {"w": array(4, 3, 3, 3), "b": array(4), "v": array(64, 5)}
LAYERS = (
    helper.make_node("Conv", ["x", "w", "b"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["a"], ["r"]),
    helper.make_node("Flatten", ["r"], ["f"]),
    helper.make_node("MatMul", ["f", "v"], ["y"]),
)
TAKES: dict[str, Any] = {"x": ("float32", ["n", 3, 8, 8])}


def theirs(folder: Path, nodes: Any = LAYERS, outputs: Any = ("y",), **more: Any) -> Path:
    return file_of(folder, nodes, TAKES, outputs, {**WEIGHTS, **more})


def changed(path: Path, change: Any) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def list_weights_first(model: onnx.ModelProto) -> None:
    entries = [*model.graph.input]
    del model.graph.input[:]
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.graph.input.extend(entries)


def root_mean_square(given: Path, written: Path) -> float:
    pairs = zip(*(session(file).run(None, {"x": IMAGES}) for file in (given, written)), strict=True)
    floats = [(want, got) for want, got in pairs if want.dtype.kind == "f"]
    return max(float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean())) for want, got in floats)


@pytest.mark.parametrize("converter", CONVERTERS)
def test_weights_listed_as_inputs_get_smaller_as_well(tmp_path: Path, converter: Any) -> None:
    plain = converter.convert(theirs(tmp_path), tmp_path / "plain.onnx", IMAGES)
    listed = converter.convert(changed(theirs(tmp_path), list_weights_first), tmp_path / "listed.onnx", IMAGES)
    assert plain.size_bytes == listed.size_bytes
    assert "can no longer be fed: w, b, v" in listed.notes[-1]
    assert not any("fed" in note for note in plain.notes)
    assert root_mean_square(tmp_path / "model.onnx", listed.path) < 0.05


def test_weights_that_had_to_be_listed_are_coded_sparsely(tmp_path: Path) -> None:
    """Before version 4 of the format; from then on a listed weight may be fed, and stays."""
    zeros = np.where(np.arange(640).reshape(64, 10) % 16, 0, 1).astype(np.float32)
    sizes = []
    for version in (3, 8):

        def old(model: onnx.ModelProto, version: int = version) -> None:
            list_weights_first(model)
            model.ir_version = version

        path = changed(theirs(tmp_path, v=zeros), old)
        sizes.append(sparse.convert(path, tmp_path / "s.onnx").size_bytes)
        assert np.array_equal(*(session(p).run(None, {"x": IMAGES})[0] for p in (path, tmp_path / "s.onnx")))
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("converter", CONVERTERS)
def test_sizes_computed_in_the_graph_are_no_values(tmp_path: Path, converter: Any) -> None:
    nodes = [
        *LAYERS[:2],
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Mul", ["batch", "one"], ["rows"]),
        helper.make_node("Concat", ["rows", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["r", "to"], ["f"]),
        LAYERS[3],
    ]
    path = theirs(tmp_path, nodes, zero=np.array([0]), one=np.array([1]), rest=np.array([-1]))
    assert root_mean_square(path, converter.convert(path, tmp_path / "c.onnx", IMAGES).path) < 0.05


def test_a_network_without_weights_has_a_float16_file_and_no_int8_file(tmp_path: Path) -> None:
    path = theirs(tmp_path, [helper.make_node("Relu", ["x"], ["y"])])
    assert root_mean_square(path, onnx_fp16.convert(path, tmp_path / "h.onnx").path) < 1e-3
    with pytest.raises(ExportError, match="no convolution and no linear layer"):
        onnx_int8.convert(path, tmp_path / "q.onnx", IMAGES)


def test_a_weight_of_a_constant_operator_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    """One of the 320, where no image shows it: the converter would write the largest float16 in its place."""
    large = WEIGHTS["v"].copy()
    large[0, 0] = 7e4
    constant = helper.make_node("Constant", [], ["big"], value=numpy_helper.from_array(large))
    nodes = [constant, *LAYERS[:3], helper.make_node("MatMul", ["f", "big"], ["y"])]
    with pytest.raises(ExportError, match=r"weights of big reach 7e\+04"):
        onnx_fp16.convert(theirs(tmp_path, nodes, b=np.full(4, -99, np.float32)), tmp_path / "h.onnx", IMAGES)


def with_small_differences(folder: Path) -> Path:
    """Its last output is small differences of large numbers, which fewer bits lose; the first is an index."""
    nodes = [
        *LAYERS,
        helper.make_node("ArgMax", ["y"], ["best"], axis=1),
        helper.make_node("Conv", ["x", "far", "base"], ["near"]),
        helper.make_node("Sub", ["near", "thousand"], ["small"]),
    ]
    constants = {"far": array(1, 3, 1, 1) * 0.1, "base": np.array([1000], np.float32), "thousand": np.float32(1000)}
    return theirs(folder, nodes, ["best", "y", "small"], **constants)


def test_float16_that_ruins_one_output_is_refused(tmp_path: Path) -> None:
    """Also on processors without float16 arithmetic, where ONNX Runtime computes the file in float32."""
    path = with_small_differences(tmp_path)
    with pytest.raises(ExportError, match=r"in float16 the outputs are .*% from float32's"):
        onnx_fp16.convert(path, tmp_path / "h.onnx", IMAGES)
    assert [path] == list(tmp_path.iterdir())


def test_int8_that_ruins_one_output_leaves_its_layer_in_float32(tmp_path: Path) -> None:
    path = with_small_differences(tmp_path)
    artifact = onnx_int8.convert(path, tmp_path / "q.onnx", IMAGES)
    assert "Kept in float32" in artifact.notes[1]
    assert artifact.notes[1].endswith(": far.")
    assert root_mean_square(path, artifact.path) <= onnx_int8.LIMIT


def with_branch(model: onnx.ModelProto) -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["f"], [name])], name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for name, operator in (("then", "Relu"), ("else", "Neg"))
    }
    model.graph.node[3].input[0] = "chosen"
    model.graph.node.insert(3, helper.make_node("If", ["always"], ["chosen"], **branches))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))


def with_codes(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "back"
    model.graph.node.insert(3, helper.make_node("QuantizeLinear", ["f", "scale"], ["codes"]))
    model.graph.node.insert(4, helper.make_node("DequantizeLinear", ["codes", "scale"], ["back"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))


def with_halves(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "x32"


def of_no_images(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_branch, r"control flow \(If\)"),
        (with_codes, r"quantised already \(QuantizeLinear\)"),
        (with_halves, "the input is float16"),
        (of_no_images, "cannot be written as"),
        (lambda model: model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("nothing")), "cannot "),
    ],
)
def test_what_cannot_be_converted_is_refused_in_a_sentence(
    tmp_path: Path, converter: Any, change: Any, says: str
) -> None:
    path = changed(theirs(tmp_path), change)
    with pytest.raises(ExportError, match=says) as refused:
        converter.convert(path, tmp_path / "c.onnx", IMAGES)
    assert "\n" not in str(refused.value)
    assert [path] == list(tmp_path.iterdir())


def test_an_error_that_is_no_number_is_infinite() -> None:
    one, none = np.ones((1, 2), np.float32), np.array([[1, np.nan]], np.float32)
    assert relative_error([[none]], [[one]]) == np.inf
    assert relative_error([[one]], [[none]]) == np.inf
    assert relative_error([[one]], [[one]]) == 0
    assert relative_error([[one, 2 * one]], [[one, one]]) == 1
