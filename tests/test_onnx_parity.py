"""All outputs of two ONNX files on random inputs: equal ones pass, liars do not."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from compress.agreement import ENOUGH, SMALLEST, WIDEST, Output, nearness
from compress.errors import UsageError
from compress.onnx_file import open_onnx, session
from compress.onnx_import.inputs import inputs_of
from compress.onnx_parity import ROUNDING, answers, floors_of, random_parity
from compress.validate import Parity
from tests.onnx_import.build import array, file_of


def scores(folder: Path, weight: np.ndarray, bias: float = 0.0) -> Path:
    """Scores of four classes, and the best class."""
    folder.mkdir()
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
    ]
    constants = {"w": weight, "b": np.float32(bias)}
    return file_of(folder, nodes, {"x": ("float32", ["n", 6])}, ["best", "y"], constants)


def compared(given: Path, other: Path, **more: object) -> Parity:
    inputs = inputs_of(open_onnx(given), None)
    return random_parity(answers(session(given)), answers(session(other)), inputs, **more)  # type: ignore[arg-type]


def test_a_file_equals_itself(tmp_path: Path) -> None:
    path = scores(tmp_path / "a", array(6, 4))
    found = compared(path, path)
    assert (0.0, 1.0, 10, True) == (found.max_abs, found.top1_agreement, found.samples, found.passed)


def test_one_weight_a_thousandth_off_is_seen(tmp_path: Path) -> None:
    weight = array(6, 4)
    liar = weight.copy()
    liar[2, 1] *= 1.001
    found = compared(scores(tmp_path / "a", weight), scores(tmp_path / "b", liar))
    assert not found.passed
    assert found.max_abs is not None
    assert found.max_abs > found.tolerance


def test_a_number_that_is_none_is_seen(tmp_path: Path) -> None:
    found = compared(scores(tmp_path / "a", array(6, 4)), scores(tmp_path / "b", array(6, 4), bias=float("nan")))
    assert (None, False) == (found.max_abs, found.passed)


def test_whole_numbers_must_agree_as_well(tmp_path: Path) -> None:
    """Swapped columns: the scores are as large, the classes are others."""
    weight = array(6, 4)
    found = compared(scores(tmp_path / "a", weight), scores(tmp_path / "b", weight[:, ::-1].copy()), dtype="float16")
    assert not found.passed
    assert found.top1_agreement is not None
    assert found.top1_agreement < 0.5


def test_two_different_models_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="these are two different models"):
        compared(scores(tmp_path / "a", array(6, 4)), scores(tmp_path / "b", array(6, 5)))


def test_an_output_that_is_left_out_is_seen(tmp_path: Path) -> None:
    given = scores(tmp_path / "a", array(6, 4))
    (tmp_path / "b").mkdir()
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["best"], axis=1, keepdims=0),
    ]
    other = file_of(tmp_path / "b", nodes, {"x": ("float32", ["n", 6])}, ["best"], {"w": array(6, 4)})
    with pytest.raises(UsageError, match="one has 1 outputs, the other 2"):
        compared(given, other)


def test_the_floor_is_what_the_given_file_rounds_and_no_more(tmp_path: Path) -> None:
    """A Sigmoid far from its middle rounds to steps of 6e-8, however small the result is."""
    node = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Sigmoid", ["a"], ["y"])]
    path = file_of(tmp_path, node, {"x": ("float32", [4, 6])}, constants={"b": np.float32(-15)})
    feeds = {"x": array(4, 6)}
    runtime = session(path)
    (known,) = answers(runtime)(feeds)
    # the answer is told by the test: what optimisation changes is no business of a file of two operators
    (floor,) = floors_of(path.read_bytes(), [(feeds, [known + np.float32(1e-7)])])
    assert floor == pytest.approx(ROUNDING * 1e-7, rel=0.5)
    assert (0.0,) == floors_of(path.read_bytes(), [(feeds, [known])])


def test_a_floor_never_allows_more_than_the_widest(tmp_path: Path) -> None:
    weight = array(6, 4)
    liar = weight.copy()
    liar[2, 1] *= 1.1
    found = compared(scores(tmp_path / "a", weight), scores(tmp_path / "b", liar), floors=(0.0, 1e9))
    assert not found.passed
    assert found.tolerance < 100 * WIDEST


def detector(folder: Path, weight: np.ndarray) -> Path:
    """Boxes of hundreds and scores of ten-thousandths in one output, as detectors have them."""
    folder.mkdir()
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["scores"]),
        helper.make_node("Conv", ["x", "v"], ["boxes"]),
        helper.make_node("Concat", ["boxes", "scores"], ["y"], axis=1),
    ]
    constants = {"w": weight, "v": 100 * array(4, 3, 1, 1, seed=2)}
    return file_of(folder, nodes, {"x": ("float32", ["n", 3, 8, 8])}, ["y"], constants)


def test_two_small_channels_that_change_places_beside_large_ones_are_seen(tmp_path: Path) -> None:
    weight = 1e-4 * array(3, 3, 1, 1)
    given = detector(tmp_path / "a", weight)
    swapped = detector(tmp_path / "b", weight[[1, 0, 2]].copy())
    found = compared(given, swapped)
    scale = float(np.abs(session(given).run(None, {"x": array(5, 3, 8, 8)})[0]).max())
    assert not found.passed
    assert found.max_abs is not None
    assert SMALLEST < found.max_abs < 1e-5 * scale  # of the whole output it is nothing
    rounded = detector(tmp_path / "c", weight * np.float32(1 + 1e-5))
    assert compared(given, rounded).passed


@pytest.mark.parametrize(("numbers", "off"), [(ENOUGH, True), (ENOUGH - 1, False)])
def test_a_channel_of_few_numbers_says_nothing(numbers: int, off: bool) -> None:
    """A score near zero on three samples rounds by more than its size."""
    want = np.stack([np.full(numbers, 100), np.full(numbers, 1e-3)], 1).astype(np.float32)
    output = Output()
    output.add(want, want + np.array([0, 1e-4], np.float32))
    assert off == (nearness(output.result(1e-5)) > 1)
    assert nearness(output.result(5e-3)) < 1  # and in half precision nor does one of many


def test_a_channel_is_judged_over_all_feeds_and_sizes_may_vary() -> None:
    output, varying = Output(), Output()
    for rows in (10, 60):
        want = np.tile(np.array([[100, 1e-3]], np.float32), (rows, 1))
        output.add(want, want * np.array([1, 1.1], np.float32))
        varying.add(want[:, :, None].repeat(rows, 2), want[:, :, None].repeat(rows, 2))
    assert nearness(output.result(1e-5)) > 1
    assert nearness(varying.result(1e-5)) == 0
