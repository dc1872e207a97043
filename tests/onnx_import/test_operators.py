"""Every operator computes what ONNX Runtime computes, in the versions that differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from compress.onnx_import.table import OPERATORS, operator
from tests.onnx_import.build import array, assert_same, file_of

X = array(2, 4, 5, 6)
N: dict[str, Any] = {}


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def check(
    folder: Path, name: str, feeds: dict[str, Any], constants: dict[str, Any], attributes: dict[str, Any], opset: int,
    outputs: int = 1,
) -> None:  # fmt: skip
    """One operator that reads the feeds, then the constants; a constant of None is left out."""
    names = [*feeds, *("" if value is None else key for key, value in constants.items())]
    made = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(name, names, made, **attributes)
    inputs = {key: (str(value.dtype), value.shape) for key, value in feeds.items()}
    held = {key: value for key, value in constants.items() if value is not None}
    assert_same(file_of(folder, [node], inputs, made, held, opset=opset), feeds)


UNARY = [
    "Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Tanh",
    "Asinh", "Erf", "Sigmoid", "Relu", "Softplus", "Softsign", "HardSwish", "Mish", "IsNaN", "IsInf", "Reciprocal",
    "LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "ThresholdedRelu", "Gelu", "Identity", "Swish",
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_of_one_operand(name: str, tmp_path: Path) -> None:
    opset = {"Gelu": 20, "Swish": 24}.get(name, 18)
    check(tmp_path, name, {"x": array(2, 3, 4)}, {}, {}, opset)


@pytest.mark.parametrize("name", ["Log", "Sqrt", "Asin", "Acos", "Atanh"])
def test_of_one_positive_operand(name: str, tmp_path: Path) -> None:
    check(tmp_path, name, {"x": array(2, 3, positive=True)}, {}, {}, 18)


def test_acosh(tmp_path: Path) -> None:
    check(tmp_path, "Acosh", {"x": array(2, 3, positive=True) + 1}, {}, {}, 18)


@pytest.mark.parametrize(
    ("name", "attributes", "opset"),
    [
        ("LeakyRelu", {"alpha": 0.3}, 18),
        ("Elu", {"alpha": 0.5}, 18),
        ("Celu", {"alpha": 0.5}, 18),
        ("Selu", {"alpha": 1.1, "gamma": 2.0}, 18),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, 18),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, 18),
        ("Gelu", {"approximate": "tanh"}, 20),
        ("Swish", {"alpha": 1.7}, 24),
        ("IsInf", {"detect_negative": 0}, 18),
    ],
)
def test_activations_with_attributes(name: str, attributes: dict[str, Any], opset: int, tmp_path: Path) -> None:
    check(tmp_path, name, {"x": array(2, 3, 4)}, {}, attributes, opset)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum"])
@pytest.mark.parametrize("second", ["tensor", "vector", "number", "first"])
def test_of_two_operands(name: str, second: str, tmp_path: Path) -> None:
    x = array(2, 3, 4, positive=True)
    others = {"tensor": array(2, 3, 4, seed=1, positive=True), "vector": array(4, seed=1, positive=True)}
    other = others.get(second, np.float32(0.7))
    if second == "tensor":
        check(tmp_path, name, {"x": x, "z": other}, {}, {}, 18)
    elif second == "first":
        node = helper.make_node(name, ["c", "x"], ["y"])
        assert_same(file_of(tmp_path, [node], {"x": ("float32", x.shape)}, ["y"], {"c": other}), {"x": x})
    else:
        check(tmp_path, name, {"x": x}, {"c": other}, {}, 18)


@pytest.mark.parametrize("name", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("first", [False, True])
def test_comparisons(name: str, first: bool, tmp_path: Path) -> None:
    x = np.round(array(3, 4))
    node = helper.make_node(name, ["c", "x"] if first else ["x", "c"], ["y"])
    path = file_of(tmp_path, [node], {"x": ("float32", x.shape)}, ["y"], {"c": np.float32(1.0)})
    assert_same(path, {"x": x})


@pytest.mark.parametrize("name", ["And", "Or", "Xor"])
def test_logic(name: str, tmp_path: Path) -> None:
    check(tmp_path, name, {"x": array(3, 4) > 0}, {"c": np.array([True, False, True, False])}, {}, 18)
    check(tmp_path, name, {"x": array(3, 4) > 0}, {"c": np.array(True)}, {}, 18)


def test_not(tmp_path: Path) -> None:
    check(tmp_path, "Not", {"x": array(3, 4) > 0}, {}, {}, 18)


@pytest.mark.parametrize(("name", "attributes"), [("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1})])
def test_whole_numbers(name: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    x = np.arange(-6, 6, dtype=np.int64)
    check(tmp_path, name, {"x": x}, {"c": ints(4)}, attributes, 18)
    check(tmp_path, name, {"x": x}, {"c": np.array([4, -5, 3] * 4)}, attributes, 18)


def test_where(tmp_path: Path) -> None:
    chosen = array(3, 4) > 0
    check(tmp_path, "Where", {"b": chosen, "x": array(3, 4)}, {"c": np.float32(-1e4)}, {}, 18)
    check(tmp_path, "Where", {"b": chosen}, {"c": np.float32(2), "d": np.float32(3)}, {}, 18)
    check(tmp_path, "Where", {"b": chosen}, {"c": array(4), "d": np.float32(3)}, {}, 18)


def test_clip(tmp_path: Path) -> None:
    check(tmp_path, "Clip", {"x": X}, {"a": np.float32(-0.5), "b": np.float32(0.5)}, {}, 18)
    check(tmp_path, "Clip", {"x": X}, {"a": None, "b": np.float32(0.5)}, {}, 18)
    check(tmp_path, "Clip", {"x": X}, {"a": np.float32(0)}, {}, 18)
    check(tmp_path, "Clip", {"x": X}, {}, {"min": 0.0, "max": 0.5}, 9)


@pytest.mark.parametrize("to", [1, 7, 9, 10, 11])
def test_cast(to: int, tmp_path: Path) -> None:
    check(tmp_path, "Cast", {"x": array(3, 4) * 3}, {}, {"to": to}, 18)


CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 4, 7), (6, 4, 3), {"pads": [1, 1]}),
    ((2, 4, 7, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((2, 4, 7, 8), (6, 4, 3, 2), {"pads": [1, 0, 2, 1], "dilations": [2, 1]}),
    ((2, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER"}),
    ((2, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 4, 7, 8), (6, 4, 2, 4), {"auto_pad": "SAME_LOWER", "strides": [1, 3]}),
    ((2, 4, 7, 8), (6, 4, 3, 3), {"auto_pad": "VALID"}),
    ((2, 4, 7, 8), (6, 1, 3, 3), {"group": 4, "kernel_shape": [3, 3]}),
    ((1, 2, 4, 4, 4), (3, 2, 2, 2, 2), {}),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(case: Any, bias: bool, tmp_path: Path) -> None:
    shape, weight, attributes = case
    if attributes.get("group") == 4:
        weight = (8, *weight[1:])
    constants = {"w": array(*weight, seed=1)} | ({"b": array(weight[0], seed=2)} if bias else {})
    check(tmp_path, "Conv", {"x": array(*shape)}, constants, attributes, 11)


def test_convolution_with_a_computed_weight(tmp_path: Path) -> None:
    feeds = {"x": array(1, 2, 5, 5), "w": array(3, 2, 3, 3)}
    check(tmp_path, "Conv", feeds, {}, {"auto_pad": "SAME_UPPER"}, 11)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 3], "output_shape": [9, 11]},
        {"dilations": [2, 1], "group": 2},
    ],
    ids=str,
)
def test_transposed_convolution(attributes: dict[str, Any], tmp_path: Path) -> None:
    weight = array(4, 6 // attributes.get("group", 1), 3, 3, seed=1)
    check(tmp_path, "ConvTranspose", {"x": array(2, 4, 4, 5)}, {"w": weight, "b": array(6, seed=2)}, attributes, 11)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [5, 1], "pads": [2, 0, 2, 0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["MaxPool", "AveragePool", "counted"])
def test_pooling(name: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    counted = {"count_include_pad": 1} if name == "counted" else {}
    check(tmp_path, "MaxPool" if name == "MaxPool" else "AveragePool", {"x": X}, {}, {**attributes, **counted}, 11)


def test_dilated_max_pooling_of_one_axis(tmp_path: Path) -> None:
    check(tmp_path, "MaxPool", {"x": array(2, 3, 9)}, {}, {"kernel_shape": [2], "dilations": [3]}, 11)


@pytest.mark.parametrize("name", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling(name: str, tmp_path: Path) -> None:
    check(tmp_path, name, {"x": X}, {}, {}, 11)


def test_local_response_normalisation(tmp_path: Path) -> None:
    check(tmp_path, "LRN", {"x": X}, {}, {"size": 3, "alpha": 0.1, "bias": 2.0}, 11)


def vectors(count: int, size: int = 4) -> dict[str, Any]:
    return {f"p{index}": array(size, seed=index, positive=True) for index in range(count)}


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("opset", [8, 14])
def test_batch_normalisation(rank: int, opset: int, tmp_path: Path) -> None:
    check(tmp_path, "BatchNormalization", {"x": array(3, 4, 5, 2)[..., 0, 0][..., None][:, :, 0] if rank == 2 else
          array(*(3, 4, 5, 2)[:rank])}, vectors(4), {"epsilon": 1e-3}, opset)  # fmt: skip


def test_other_normalisations(tmp_path: Path) -> None:
    check(tmp_path, "InstanceNormalization", {"x": X}, vectors(2), {}, 11)
    check(tmp_path, "LayerNormalization", {"x": X}, vectors(2, 6), {}, 17)
    check(tmp_path, "LayerNormalization", {"x": X}, vectors(1, 6), {"epsilon": 1e-2}, 17)
    check(tmp_path, "LayerNormalization", {"x": X}, {"s": array(5, 6), "b": array(5, 6)}, {"axis": 2}, 17)
    check(tmp_path, "GroupNormalization", {"x": X}, vectors(2), {"num_groups": 2}, 21)
    check(tmp_path, "LpNormalization", {"x": X}, {}, {"axis": 1, "p": 2}, 11)


@pytest.mark.parametrize("shape", [(1,), (4, 1, 1), (1, 4, 1, 1), (6,), (4, 5, 6)], ids=str)
def test_prelu(shape: tuple[int, ...], tmp_path: Path) -> None:
    check(tmp_path, "PRelu", {"x": X}, {"s": array(*shape, positive=True)}, {}, 16)


@pytest.mark.parametrize(
    ("attributes", "bias"),
    [
        ({}, (5,)),
        ({"transB": 1}, (5,)),
        ({"transB": 1, "alpha": 0.5, "beta": 2.0}, (1, 5)),
        ({"transA": 1}, (5,)),
        ({}, (1,)),
        ({}, (3, 5)),
        ({}, None),
    ],
    ids=str,
)
def test_gemm(attributes: dict[str, Any], bias: tuple[int, ...] | None, tmp_path: Path) -> None:
    weight = array(5, 4, seed=1) if attributes.get("transB") else array(4, 5, seed=1)
    x = array(4, 3) if attributes.get("transA") else array(3, 4)
    constants = {"w": weight} | ({"b": array(*bias, seed=2)} if bias else {})
    check(tmp_path, "Gemm", {"x": x}, constants, attributes, 11)


def test_matmul(tmp_path: Path) -> None:
    check(tmp_path, "MatMul", {"x": array(2, 3, 4)}, {"w": array(4, 5, seed=1)}, {}, 13)
    check(tmp_path, "MatMul", {"x": array(2, 3, 4)}, {"w": array(2, 4, 5, seed=1)}, {}, 13)
    check(tmp_path, "MatMul", {"x": array(2, 3, 4), "z": array(2, 4, 3)}, {}, {}, 13)


def test_einsum(tmp_path: Path) -> None:
    check(tmp_path, "Einsum", {"x": array(2, 3, 4)}, {"w": array(4, 5)}, {"equation": "abc,cd->abd"}, 13)


REDUCTIONS = ["Max", "Min", "Mean", "Sum", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Prod"]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str, tmp_path: Path) -> None:
    x = array(2, 3, 4, positive=True)
    check(tmp_path, f"Reduce{name}", {"x": x}, {}, {"axes": [1, 2], "keepdims": 0}, 11)
    check(tmp_path, f"Reduce{name}", {"x": x}, {"axes": ints(-1)}, {}, 18)
    check(tmp_path, f"Reduce{name}", {"x": x}, {}, {}, 18)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax(name: str, tmp_path: Path) -> None:
    check(tmp_path, name, {"x": X}, {}, {}, 11)
    check(tmp_path, name, {"x": X}, {}, {"axis": 2}, 11)
    check(tmp_path, name, {"x": X}, {}, {}, 13)
    check(tmp_path, name, {"x": X}, {}, {"axis": 1}, 13)


def test_sorting_and_sums(tmp_path: Path) -> None:
    check(tmp_path, "ArgMax", {"x": X}, {}, {"axis": 1, "keepdims": 0}, 13)
    check(tmp_path, "ArgMin", {"x": X}, {}, {"axis": -1}, 13)
    check(tmp_path, "TopK", {"x": X}, {"k": ints(3)}, {"axis": 3}, 11, outputs=2)
    for attributes in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        check(tmp_path, "CumSum", {"x": X}, {"axis": np.int64(1)}, attributes, 14)


MOVES: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    ("Reshape", {"s": ints(2, -1)}, {}, 13),
    ("Reshape", {"s": ints(0, 0, 30)}, {}, 13),
    ("Reshape", {"s": ints(2, 2, 2, 5, 6)}, {}, 13),
    ("Reshape", {"s": ints(1, 2, 4, 30)}, {}, 13),
    ("Flatten", {}, {}, 13),
    ("Flatten", {}, {"axis": 0}, 13),
    ("Flatten", {}, {"axis": 3}, 13),
    ("Flatten", {}, {"axis": -1}, 13),
    ("Transpose", {}, {"perm": [0, 2, 3, 1]}, 13),
    ("Transpose", {}, {}, 13),
    ("Unsqueeze", {}, {"axes": [0, 3]}, 11),
    ("Unsqueeze", {"a": ints(-1, 1)}, {}, 13),
    ("Slice", {}, {"starts": [1, 0], "ends": [3, -1], "axes": [1, 2]}, 9),
    ("Slice", {"s": ints(1, 4), "e": ints(2**62, 0), "a": ints(1, 3), "t": ints(1, -2)}, {}, 13),
    ("Slice", {"s": ints(-1), "e": ints(-(2**63)), "a": ints(2), "t": ints(-1)}, {}, 13),
    ("Slice", {"s": ints(0), "e": ints(1)}, {}, 13),
    ("Gather", {"i": ints(2, 0)}, {"axis": 1}, 13),
    ("Gather", {"i": ints(1, 2)}, {"axis": 1}, 13),
    ("Gather", {"i": np.int64(-1)}, {"axis": 2}, 13),
    ("Gather", {"i": np.array([[0, -1], [1, 2]])}, {"axis": 3}, 13),
    ("GatherElements", {"i": np.zeros((2, 4, 5, 2), np.int64)}, {"axis": 3}, 13),
    ("GatherND", {"i": np.array([[0, 1], [1, 2]])}, {}, 13),
    ("Expand", {"s": ints(3, 1, 4, 1, 6)}, {}, 13),
    ("Tile", {"r": ints(1, 2, 1, 3)}, {}, 13),
    ("Tile", {"r": ints(1, 1, 1, 1)}, {}, 13),
    ("Pad", {}, {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, 10),
    ("Pad", {"p": ints(0, 1, 0, 0, 0, 2, 0, 1), "v": np.float32(2)}, {}, 13),
    ("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 3, 1)}, {"mode": "reflect"}, 13),
    ("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 3, 1)}, {"mode": "edge"}, 13),
    ("Pad", {"p": ints(1, -1), "v": None, "a": ints(-1)}, {}, 18),
    ("DepthToSpace", {}, {"blocksize": 2}, 13),
    ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}, 13),
    ("Trilu", {"k": np.int64(1)}, {}, 14),
    ("Trilu", {}, {"upper": 0}, 14),
    ("Dropout", {}, {}, 11),
    ("ScatterND", {"i": np.array([[0, 1], [1, 2]]), "u": array(2, 5, 6, seed=3)}, {}, 13),
    ("ScatterElements", {"i": np.ones((2, 4, 5, 2), np.int64), "u": array(2, 4, 5, 2)}, {"axis": 3}, 13),
]


@pytest.mark.parametrize(("name", "constants", "attributes", "opset"), MOVES, ids=str)
def test_movements(
    name: str, constants: dict[str, Any], attributes: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    check(tmp_path, name, {"x": X}, constants, attributes, opset)


def test_space_to_depth(tmp_path: Path) -> None:
    check(tmp_path, "SpaceToDepth", {"x": array(2, 3, 4, 6)}, {}, {"blocksize": 2}, 13)


def test_squeeze(tmp_path: Path) -> None:
    x = array(2, 1, 3, 1)
    check(tmp_path, "Squeeze", {"x": x}, {}, {"axes": [1]}, 11)
    check(tmp_path, "Squeeze", {"x": x}, {"a": ints(-1)}, {}, 13)
    check(tmp_path, "Squeeze", {"x": x}, {}, {}, 13)


def test_pieces(tmp_path: Path) -> None:
    check(tmp_path, "Split", {"x": X}, {}, {"axis": 1}, 11, outputs=2)
    check(tmp_path, "Split", {"x": X}, {}, {"axis": 1, "split": [1, 3]}, 11, outputs=2)
    check(tmp_path, "Split", {"x": X}, {"s": ints(2, 4)}, {"axis": -1}, 13, outputs=2)
    check(tmp_path, "Split", {"x": X}, {}, {"axis": 2, "num_outputs": 2}, 18, outputs=2)
    check(tmp_path, "Concat", {"x": X, "z": X}, {"c": array(2, 1, 5, 6)}, {"axis": 1}, 13)


def test_lookups(tmp_path: Path) -> None:
    numbers = np.array([[0, 2, 1]])
    for shape in ((5, 4), (5, 4, 2)):
        node = helper.make_node("Gather", ["t", "i"], ["y"])
        path = file_of(tmp_path, [node], {"i": ("int64", numbers.shape)}, ["y"], {"t": array(*shape)})
        assert_same(path, {"i": numbers})
    constants = {"d": np.int64(4), "v": np.array([0.0, 2.0], np.float32)}
    check(tmp_path, "OneHot", {"i": numbers}, constants, {}, 11)
    check(tmp_path, "OneHot", {"i": numbers}, constants, {"axis": 1}, 11)


def factors(height: float, width: float) -> Any:
    return np.array([1, 1, height, width], np.float32)


RESIZES: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"s": factors(2, 2)}, {"mode": "nearest"}, 10),
    ({"s": factors(2, 3)}, {"mode": "linear"}, 10),
    ({"r": np.zeros(0, np.float32), "s": factors(2, 2)}, {"mode": "nearest"}, 11),
    ({"r": None, "s": factors(2, 2)}, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 13),
    ({"r": None, "s": factors(1.5, 0.5)}, {"mode": "nearest", "nearest_mode": "ceil"}, 13),
    ({"r": None, "s": factors(1.5, 1)}, {"mode": "nearest", "nearest_mode": "round_prefer_ceil"}, 13),
    ({"r": None, "s": factors(2, 2)}, {"mode": "linear"}, 13),
    ({"r": None, "s": factors(0.7, 1.3)}, {"mode": "linear"}, 13),
    ({"r": None, "s": factors(2, 2)}, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 13),
    ({"r": None, "s": factors(2, 2)}, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, 13),
    ({"r": None, "t": None, "s": ints(2, 4, 8, 3)}, {"mode": "linear"}, 13),
    ({"r": None, "t": None, "s": ints(2, 4, 8, 3)}, {"mode": "nearest", "nearest_mode": "floor",
      "coordinate_transformation_mode": "asymmetric"}, 13),
    ({"r": None, "t": None, "s": ints(8, 3)}, {"mode": "linear", "axes": [2, 3]}, 18),
    ({"r": None, "t": None, "s": ints(2, 4, 10, 12)}, {"mode": "cubic"}, 13),
    ({"r": None, "s": factors(1, 1)}, {"mode": "linear"}, 13),
]  # fmt: skip


@pytest.mark.parametrize(("constants", "attributes", "opset"), RESIZES, ids=str)
def test_resizing(constants: dict[str, Any], attributes: dict[str, Any], opset: int, tmp_path: Path) -> None:
    check(tmp_path, "Resize", {"x": X}, constants, attributes, opset)


def test_upsampling_of_old_files(tmp_path: Path) -> None:
    check(tmp_path, "Upsample", {"x": X}, {}, {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}, 7)
    check(tmp_path, "Upsample", {"x": X}, {"s": factors(2, 2)}, {"mode": "nearest"}, 9)


def test_grid_sample(tmp_path: Path) -> None:
    grid = array(2, 3, 3, 2, seed=1, positive=True)
    check(tmp_path, "GridSample", {"x": X, "g": grid}, {}, {"align_corners": 1}, 16)


def test_defined_operators_are_replaced_by_their_definition(tmp_path: Path) -> None:
    assert "Shrink" not in OPERATORS
    check(tmp_path, "Shrink", {"x": X}, {}, {"bias": 0.1}, 18)
    assert "RMSNormalization" not in OPERATORS
    check(tmp_path, "RMSNormalization", {"x": X}, {"s": array(6)}, {}, 23)
    heads = {name: array(1, 2, 3, 4, seed=seed) for seed, name in enumerate("qkv")}
    check(tmp_path, "Attention", heads, {}, {}, 23)


def test_a_second_function_for_an_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="Conv already has a function"):
        operator("Conv")(lambda call: None)
