"""The arithmetic of sizes, and what it means for other batches and for fewer channels."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from compress.onnx_import.reshape import from_input, in_terms_of_input
from compress.onnx_import.shape_arithmetic import tidy
from tests.onnx_import.build import array, assert_close, assert_same, file_of, network_of, runtime_says, tensors


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def flattened(folder: Path) -> Path:
    """What older exporters write for `x.view(x.size(0), -1)`, and for a broadcast to the batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n"], ["u"], axes=[0]),
        helper.make_node("Concat", ["u", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["f"]),
        helper.make_node("Concat", ["u", "width"], ["e"], axis=0),
        helper.make_node("ConstantOfShape", ["e"], ["ones"], value=helper.make_tensor("v", 1, [1], [1.0])),
        helper.make_node("Add", ["f", "ones"], ["a"]),
        helper.make_node("Expand", ["token", "e"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    constants = {"first": np.int64(0), "rest": ints(-1), "width": ints(12), "token": array(1, 12)}
    return file_of(folder, nodes, {"x": ("float32", ["n", 3, 4])}, ["y"], constants, opset=11)


def test_a_free_batch_stays_free(tmp_path: Path) -> None:
    path = flattened(tmp_path)
    network = assert_same(path, {"x": array(2, 3, 4)})
    free = torch.export.Dim("n", min=1)
    example = (torch.zeros(2, 3, 4),)
    exported = torch.export.export(network, example, dynamic_shapes=(({0: free},),), strict=False).module()
    for batch in (1, 5):
        x = array(batch, 3, 4, seed=batch)
        assert_close(runtime_says(path, {"x": x}), tensors(exported(torch.tensor(x))))


def test_sizes_by_arithmetic(tmp_path: Path) -> None:
    """Doubling an image by its own size, as Keras exports do it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Cast", ["hw"], ["real"], to=1),
        helper.make_node("Mul", ["real", "factor"], ["m"]),
        helper.make_node("Floor", ["m"], ["fl"]),
        helper.make_node("Cast", ["fl"], ["new"], to=7),
        helper.make_node("Slice", ["s", "zero", "two"], ["nc"]),
        helper.make_node("Concat", ["nc", "new"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], mode="linear"),
    ]
    constants = {"zero": ints(0), "two": ints(2), "four": ints(4)}
    constants |= {"factor": np.array([2, 1.5], np.float32), "none": np.zeros(0, np.float32)}
    path = file_of(tmp_path, nodes, {"x": ("float32", ["n", 3, 4, 6])}, ["y"], constants, opset=11)
    assert_same(path, {"x": array(2, 3, 4, 6)})


def test_whole_numbers_stay_whole() -> None:
    assert np.int64 == tidy(np.array([1, 2], dtype=object)).dtype
    assert np.float32 == tidy(np.array([1.5, 2], dtype=object)).dtype
    assert () == tidy(np.int64(3)).shape


SIZES = st.integers(1, 4)


@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_joined_axes_are_said_by_the_input(shape: list[int], data: st.DataObject) -> None:
    """Joining neighbours: the sizes that are said fit the shape they come from, and any other."""
    cuts = data.draw(st.lists(st.integers(1, len(shape)), max_size=3).map(lambda c: sorted({*c, 0, len(shape)})))
    runs = [shape[a:b] for a, b in itertools.pairwise(cuts)]
    new = [int(np.prod(run)) for run in runs]
    sizes = in_terms_of_input(shape, new)
    assert new == from_input(sizes, shape, new)
    larger = [5 * n if n > 1 else n for n in shape]
    wanted = [int(np.prod([5 * n if n > 1 else n for n in run])) for run in runs]
    assert wanted == from_input(sizes, larger, new)


@pytest.mark.parametrize(
    ("old", "new", "other", "expected"),
    [
        ((2, 16, 5, 5), (2, 400), (3, 10, 5, 5), [3, 250]),
        ((2, 7, 12), (2, 7, 3, 4), (5, 7, 12), [5, 7, 3, 4]),
        ((2, 8, 1, 1), (2, 8), (2, 6, 1, 1), [2, 6]),
        ((2, 8), (2, 8, 1, 1), (2, 6), [2, 6, 1, 1]),
        ((2, 6, 4, 4), (2, 1, 6, 16), (2, 5, 4, 4), [2, 1, 5, 16]),
        ((6,), (1, 6), (4,), [1, 4]),
    ],
)
def test_sizes_for_another_input(old: Any, new: Any, other: Any, expected: list[int]) -> None:
    assert expected == from_input(in_terms_of_input(old, new), other, list(new))


def test_hard_coded_sizes_follow_the_input(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    path = file_of(tmp_path, [node], {"x": ("float32", [2, 3, 4])}, ["y"], {"s": ints(2, 12)})
    network = network_of(path)
    network.say_sizes_by_input((torch.zeros(2, 3, 4),))
    assert (7, 8) == tuple(network(torch.zeros(7, 2, 4)).shape)


def test_values_are_dropped_when_nothing_reads_them_any_more(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x" if n == 0 else f"h{n - 1}"], [f"h{n}"]) for n in range(3)]
    network = network_of(file_of(tmp_path, nodes, {"x": ("float32", [2])}, ["h2"]))
    assert [("x",), ("h0",), ("h1",)] == [step.frees for step in network.steps]
