"""The sparse file: nothing lost, decoded by ONNX Runtime at opening, and small."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress_exporters import ExportError, Request
from compress_exporters import onnx as dense
from compress_exporters.sparse import convert, split
from compress_models.lenet import LeNet5

LEVELS = ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]
DECODER = {"BitShift", "Mod", "CumSum", "Slice", "ScatterElements", "ConstantOfShape", "Gather", "MatMul", "Cast"}

Array = npt.NDArray[np.float32]


def save(path: Path, *weights: Array, opset: int = 18) -> Path:
    """A model that adds each weight tensor to its input: its outputs for 0 are the weights, to the bit."""
    nodes, outputs = [], []
    for i, weight in enumerate(weights):
        nodes.append(helper.make_node("Add", ["x", f"w{i}"], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, weight.shape))
    given_ = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", [given_], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def run(path: Path, feed: Array, level: str = "ORT_ENABLE_ALL", optimised: Path | None = None) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return opened.run(None, {opened.get_inputs()[0].name: feed})


def scattered(shape: tuple[int, ...], nonzero: int, generator: np.random.Generator) -> Array:
    weights = np.zeros(shape, np.float32)
    places = generator.choice(weights.size, nonzero, replace=False)
    weights.reshape(-1)[places] = generator.standard_normal(nonzero)
    return weights


def decoded_tensors(path: Path) -> set[str]:
    return {name for node in onnx.load(path).graph.node for name in node.output if name.startswith("w")}


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """LeNet-5 with 6,050 of 430,500 weights, as the pruning literature reports, dense and sparse."""
    folder = tmp_path_factory.mktemp("lenet")
    model, generator = LeNet5().eval(), np.random.default_rng(0)
    with torch.no_grad():
        for name, nonzero in {"conv1": 100, "conv2": 2000, "fc1": 3600, "fc2": 350}.items():
            weight = model.get_submodule(name).weight
            weight.copy_(torch.tensor(scattered(tuple(weight.shape), nonzero, generator)))
    dense.export(Request(model, (1, 28, 28)), folder / "model.onnx")
    convert(folder / "model.onnx", folder / "model.sparse.onnx")
    return folder / "model.onnx", folder / "model.sparse.onnx"


def test_lenet_5_with_its_published_sparsity_takes_40_000_bytes(lenet: tuple[Path, Path]) -> None:
    sizes = [path.stat().st_size for path in lenet]
    assert sizes[0] > 1_700_000
    assert sizes[1] <= 40_000
    # Values alone are 4 * 6,050 bytes and biases 4 * 580: nothing was thrown away.
    assert sizes[1] > 4 * (6_050 + 580)


@pytest.mark.parametrize("level", LEVELS)
def test_onnx_runtime_folds_the_decoders_away(lenet: tuple[Path, Path], tmp_path: Path, level: str) -> None:
    feed = np.random.default_rng(1).standard_normal((1, 1, 28, 28)).astype(np.float32)
    graphs = []
    for path in lenet:
        run(path, feed, level, tmp_path / path.name)
        graphs.append(onnx.load(tmp_path / path.name).graph)
    operators = [sorted(node.op_type for node in graph.node) for graph in graphs]
    assert operators[0] == operators[1]
    assert not DECODER & set(operators[1])
    assert sorted(tuple(t.dims) for t in graphs[0].initializer) == sorted(tuple(t.dims) for t in graphs[1].initializer)


def test_the_search_for_decoders_finds_them_when_nothing_is_folded(lenet: tuple[Path, Path], tmp_path: Path) -> None:
    run(lenet[1], np.zeros((1, 1, 28, 28), np.float32), "ORT_DISABLE_ALL", tmp_path / "kept.onnx")
    kept = {node.op_type for node in onnx.load(tmp_path / "kept.onnx").graph.node}
    assert {"BitShift", "Mod", "CumSum", "ScatterElements"} <= kept


@pytest.mark.parametrize("level", LEVELS)
def test_outputs_are_those_of_the_dense_file_to_the_bit(lenet: tuple[Path, Path], level: str) -> None:
    feed = np.random.default_rng(2).standard_normal((1, 1, 28, 28)).astype(np.float32)
    expected, found = (run(path, feed, level)[0] for path in lenet)
    assert expected.tobytes() == found.tobytes()
    assert expected.any()


def test_one_flipped_bit_of_a_gap_changes_the_outputs(lenet: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(lenet[1])
    gaps = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("0gaps"))
    gaps.raw_data = bytes([gaps.raw_data[0] ^ 1]) + gaps.raw_data[1:]
    onnx.save(model, tmp_path / "forged.onnx")
    feed = np.random.default_rng(2).standard_normal((1, 1, 28, 28)).astype(np.float32)
    assert run(lenet[1], feed)[0].tobytes() != run(tmp_path / "forged.onnx", feed)[0].tobytes()


def test_the_checker_accepts_it(lenet: tuple[Path, Path]) -> None:
    onnx.checker.check_model(lenet[1], full_check=True)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_weights_come_back_whatever_their_kind(tmp_path: Path, opset: int) -> None:
    generator = np.random.default_rng(3)
    shared = generator.choice(np.float32([-0.5, 0, 0, 0.25, 3]), (60, 50))
    lonely = np.zeros((7, 1000), np.float32)
    lonely[6, 999] = 5
    first = np.zeros(3000, np.float32)
    first[0] = np.float32(1e-45)
    weights = [
        scattered((40, 5, 5, 5), 600, generator),
        scattered((1, 3000), 1500, generator),
        shared,
        lonely,
        first,
        np.zeros((30, 40), np.float32),
        generator.standard_normal((30, 40)).astype(np.float32),
        np.float32([1, 0, 0, 0]),
    ]
    source = save(tmp_path / "m.onnx", *weights, opset=opset)
    artifact = convert(source, tmp_path / "s.onnx")
    found = run(artifact.path, np.zeros(1, np.float32))
    for expected, weight in zip(weights, found, strict=True):
        assert expected.tobytes() == weight.tobytes()
    # The seventh has no zeros and the eighth is too small to gain.
    assert {f"w{i}" for i in range(6)} == decoded_tensors(artifact.path)


def test_shared_values_are_kept_as_indices(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    book = generator.standard_normal(15).astype(np.float32)
    weights = np.where(generator.random(40_000) < 0.1, generator.choice(book, 40_000), np.float32(0))
    artifact = convert(save(tmp_path / "m.onnx", weights), tmp_path / "s.onnx")
    assert weights.tobytes() == run(artifact.path, np.zeros(1, np.float32))[0].tobytes()
    # About 4,000 nonzeros of 4 bits and 5 bits of gap, fillers included; as float32 the values are 16,000 bytes.
    assert artifact.size_bytes < 4_000 * (4 + 7) / 8 + 1_500


def test_negative_zero_becomes_zero_and_nan_stays(tmp_path: Path) -> None:
    weights = np.zeros(2000, np.float32)
    weights[:1000] = -0.0
    weights[1500] = np.nan
    artifact = convert(save(tmp_path / "m.onnx", weights), tmp_path / "s.onnx")
    assert artifact.size_bytes < 2000
    found = run(artifact.path, np.zeros(1, np.float32))[0]
    np.testing.assert_array_equal(weights, found)
    assert not np.signbit(found[:1000]).any()


def test_names_of_the_model_are_not_taken(tmp_path: Path) -> None:
    source = save(tmp_path / "m.onnx", scattered((50, 50), 100, np.random.default_rng(5)))
    model = onnx.load(source)
    model.graph.node[0].name = "~"
    model.graph.node[0].output[0] = model.graph.output[0].name = "~0.0"
    onnx.save(model, source)
    before = run(source, np.ones(1, np.float32))[0]
    after = run(convert(source, source).path, np.ones(1, np.float32))[0]
    assert before.tobytes() == after.tobytes()


def test_an_opset_without_the_operators_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "m.onnx", np.zeros(2000, np.float32), opset=10)
    with pytest.raises(ExportError, match="needs opset 11 or later, the model has 10; export it again"):
        convert(source, tmp_path / "s.onnx")
    assert ["m.onnx"] == [path.name for path in tmp_path.iterdir()]


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(st.integers(1, 300) | st.just(70_000), max_size=40),
    first=st.integers(0, 300),
    value_bits=st.sampled_from([1, 4, 32]),
)
def test_gaps_rebuild_the_positions_and_no_other_width_is_smaller(
    steps: list[int], first: int, value_bits: int
) -> None:
    positions = np.cumsum([first, *steps])
    weights = np.zeros(positions[-1] + 3, np.float32)
    weights[positions] = np.arange(1, len(positions) + 1)
    gaps, values, width = split(weights, value_bits)
    rebuilt = np.zeros_like(weights)
    rebuilt[np.cumsum(gaps)] = values
    np.testing.assert_array_equal(weights, rebuilt)
    assert len(gaps) == len(set(np.cumsum(gaps)))  # a place written twice would have no defined value
    assert 0 <= gaps.min()
    assert gaps.max() < 2**width
    for other in range(1, 18):
        entries = sum(max(1, -(-step // (2**other - 1))) for step in [first, *steps])
        assert len(gaps) * (width + value_bits) <= entries * (other + value_bits)
