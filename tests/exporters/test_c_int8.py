"""C files in integer arithmetic: bit for bit what exact integers give, near to float, and small."""

import math
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.onnx_file import predict, session
from compress_exporters import ExportError, Request, find
from compress_exporters import onnx as dense
from compress_exporters._c import fixed_point
from compress_exporters._c.host import FLAGS, WARNINGS, compile_program
from compress_exporters._c.integer_weights import _stream, walk_of
from compress_exporters._c.net import Net
from compress_exporters._c.source import source_of
from compress_exporters.c_int8 import in_integers
from compress_exporters.onnx_int8 import Scheme
from tests.exporters.integer_reference import integer_answer
from tests.exporters.test_c import NETWORKS, answers, sparse

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SHAPE = (4, 11, 9)


class Narrow(nn.Module):
    """ResNet-20's operators, small: strided blocks with a shortcut that pads channels, mean over the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6))
        self.two = nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12))
        self.end = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = torch.relu(y + self.one(y))
        y = torch.relu(nn.functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3)) + self.two(y))
        return self.end(y.mean((2, 3)))


FLOAT = ("pools", "average with border", "normalisation first")
"""Networks that are not quantized, or begin with floats, whose rounding is the compiler's choice."""

CASES = {name: model for name, model in NETWORKS.items() if name not in FLOAT} | {
    "narrow": Narrow(),
    "pools behind": nn.Sequential(nn.Conv2d(4, 5, 3), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(100, 4)),
    "pool of sums": nn.Sequential(
        nn.Conv2d(4, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 3, 1), nn.MaxPool2d((3, 2))
    ),
    "averages behind": nn.Sequential(nn.Conv2d(4, 5, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.ReLU()),
    "clipped": nn.Sequential(
        nn.Conv2d(4, 5, 3), nn.ReLU6(), nn.Conv2d(5, 3, 3, groups=1), nn.Hardswish(), nn.Flatten()
    ),
}


def calibration(shape: tuple[int, ...], count: int = 24) -> list[np.ndarray]:
    images = np.random.default_rng(2).standard_normal((count, 1, *shape))
    return list(images.astype(np.float32))


def rounded(model: nn.Module, folder: Path, shape: tuple[int, int, int] = SHAPE) -> onnx.ModelProto:
    """A network in QDQ form."""
    dense.export(Request(model.eval(), shape), folder / "float.onnx")
    images = calibration(shape)
    return in_integers(onnx.load(folder / "float.onnx"), images, images[:8])[0]


def as_c(graph: onnx.ModelProto, path: Path) -> Path:
    source = source_of(graph, path)
    path.write_text(source.code)
    path.with_suffix(".h").write_text(source.header)
    return path


@needs_compiler
@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_c_gives_what_exact_integers_give(name: str, share: float, tmp_path: Path) -> None:
    graph = rounded(sparse(CASES[name], share), tmp_path)
    path = as_c(graph, tmp_path / "net.c")
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = np.stack([integer_answer(graph, image[None].numpy()).reshape(-1) for image in images])
    for flags in (FLAGS, ("-std=c99", "-O1", *WARNINGS)):
        found = answers(path, images, flags)
        if name == "linear":  # ends in a Softmax of floats
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        else:
            np.testing.assert_array_equal(found, expected)


@needs_compiler
@settings(max_examples=6, deadline=None)
@given(
    size=st.tuples(st.integers(8, 24), st.integers(8, 24)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    share=st.sampled_from([0.02, 0.2, 1.0]),
    pool=st.sampled_from([1, 2]),
)
def test_any_convolution_gives_what_exact_integers_give(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: int,
    groups: int,
    share: float,
    pool: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    padding = ((kernel[0] - 1) // 2, kernel[1] - 1)
    layers = nn.Sequential(nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups), nn.ReLU(), nn.MaxPool2d(pool))
    folder = tmp_path_factory.mktemp("c")
    graph = rounded(sparse(layers, share), folder, (4, *size))
    images = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))
    expected = np.stack([integer_answer(graph, image[None].numpy()).reshape(-1) for image in images])
    np.testing.assert_array_equal(answers(as_c(graph, folder / "net.c"), images), expected)


CHECKED = (
    "-std=c99", "-O1", "-pedantic", *WARNINGS, "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip
"""Stops at what C leaves undefined: sums that overflow, shifts out of range, floats that no integer holds."""

HARD_IMAGES = """
#include "net.h"
#include <math.h>
static float input[NET_INPUT], output[NET_OUTPUT], arena[NET_ARENA];
int main(void)
{
  const float sizes[] = {1.f, 1e6f, -1e30f, INFINITY, NAN};
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < NET_INPUT; ++i)
      input[i] = i % 3 ? sizes[t] : -sizes[t];
    net_run(input, output, arena);
  }
  return 0;
}
"""


@needs_compiler
@pytest.mark.parametrize("name", ["narrow", "residual", "pool of sums", "averages behind", "clipped"])
def test_nothing_undefined_happens_whatever_the_image(name: str, tmp_path: Path) -> None:
    path = as_c(rounded(sparse(CASES[name], 0.5), tmp_path), tmp_path / "net.c")
    true = compile_program(path, tmp_path, (HARD_IMAGES,), flags=CHECKED)
    assert 0 == subprocess.run([true]).returncode
    code = path.read_text()
    path.write_text(code.replace("int32_t high)\n{", "int32_t high)\n{\n  v += INT32_MAX;"))
    assert path.read_text() != code
    assert 0 != subprocess.run([compile_program(path, tmp_path, (HARD_IMAGES,), flags=CHECKED)]).returncode


@needs_compiler
def test_a_changed_multiplier_is_seen(tmp_path: Path) -> None:
    graph = rounded(sparse(Narrow(), 0.3), tmp_path)
    path = as_c(graph, tmp_path / "net.c")
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    true = answers(path, images)
    text = path.read_text()
    first = re.search(r"_m\[6\] = \{\s+(\d+)", text)
    assert first
    path.write_text(text[: first.start(1)] + str(int(first[1]) * 99 // 100) + text[first.end(1) :])
    assert (answers(path, images) != true).any()


@needs_compiler
@pytest.mark.parametrize("name", ["narrow", "residual", "depthwise", "normalisation first"])
def test_it_is_near_to_float_and_to_onnx_runtime(name: str, tmp_path: Path) -> None:
    model = sparse({**NETWORKS, **CASES}[name], 0.5)
    graph = rounded(model, tmp_path)
    onnx.save(graph, tmp_path / "int8.onnx")
    images = torch.from_numpy(np.concatenate(calibration(SHAPE)))
    found = answers(as_c(graph, tmp_path / "net.c"), images)
    real = model(images).detach().reshape(len(images), -1).numpy()
    simulated = predict(session(tmp_path / "int8.onnx"), images.numpy()).reshape(len(images), -1)
    largest = abs(real).max()
    # a step of 8 bits is 0.4 % of the range; rounded twice another way it makes two of them, once in a while
    assert abs(found - simulated).max() < 0.012 * largest
    assert 1e-5 * largest < abs(found - real).max() < 0.05 * largest


@needs_compiler
@pytest.mark.parametrize("limits", [nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.ReLU()])
def test_limits_hold_where_the_result_stays_a_float(limits: nn.Module, tmp_path: Path) -> None:
    model = sparse(nn.Sequential(nn.Conv2d(4, 9, 1), limits), 1.0)
    images = torch.from_numpy(np.concatenate(calibration(SHAPE)))
    expected = model(images).detach().reshape(len(images), -1).numpy()
    found = answers(as_c(rounded(model, tmp_path), tmp_path / "net.c"), images)
    assert abs(found - expected).max() < 0.05 * abs(expected).max()
    assert (found.min(), found.max()) == pytest.approx((expected.min(), expected.max()), rel=0.02)


def test_between_input_and_scores_all_is_integer(tmp_path: Path) -> None:
    code = source_of(rounded(sparse(Narrow(), 0.3), tmp_path), Path("net.c")).code
    steps = re.findall(r"static void net_\d+_(\w+)\((.*)\)\n", code)
    assert [("quantise", True), ("gemm", True)] == [(name, True) for name, words in steps if "float" in words]
    assert {"add", "conv", "convpad", "slice", "pad", "mean"} >= {name for name, _ in steps} - {"quantise", "gemm"}


@needs_compiler
def test_layers_may_stay_in_float_among_those_that_do_not(tmp_path: Path) -> None:
    model = sparse(nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3), nn.Flatten()), 0.5)
    model.append(nn.Linear(12, 4))
    dense.export(Request(model.eval(), SHAPE), tmp_path / "float.onnx")
    images = calibration(SHAPE)
    scheme = Scheme(("Conv",), seven_bits=False, signed=True)
    graph, _ = in_integers(onnx.load(tmp_path / "float.onnx"), images, images[:8], scheme)
    path = as_c(graph, tmp_path / "net.c")
    steps = re.findall(r"static void net_\d+_(\w+)\(const (\w+) .*, (\w+) \*", path.read_text())
    assert {("linear", "float", "float"), ("conv", "int8_t", "int8_t")} <= set(steps)
    given = torch.from_numpy(np.concatenate(images))
    expected = model(given).detach().numpy()
    assert abs(answers(path, given) - expected).max() < 0.03 * abs(expected).max()


def test_what_a_pool_chooses_from_is_not_stored(tmp_path: Path) -> None:
    graph = rounded(sparse(nn.Sequential(nn.Conv2d(4, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), 1.0), tmp_path)
    source = source_of(graph, Path("net.c"))
    assert "_pool(" not in source.code
    # the image, the maxima, and the same as floats, which are the scores; 32 x 9 x 7 sums would be 2,016 more
    assert 4 * source.arena <= 396 + 384 + 4 * (384 + 8)
    assert source.macs == 32 * 36 * 8 * 6


@pytest.mark.parametrize(("border", "counts"), [(0, False), (1, True)])
def test_an_average_without_a_border_counts_nothing(border: int, counts: bool, tmp_path: Path) -> None:
    model = sparse(nn.Sequential(nn.Conv2d(4, 5, 3), nn.AvgPool2d(3, 2, border, count_include_pad=False)), 1.0)
    assert counts == ("++n" in source_of(rounded(model, tmp_path), Path("net.c")).code)


def test_the_arena_is_that_of_bytes(tmp_path: Path) -> None:
    graph = rounded(sparse(Narrow(), 0.3), tmp_path)
    full = source_of(onnx.load(tmp_path / "float.onnx"), Path("net.c"))
    assert source_of(graph, Path("net.c")).arena < 0.35 * full.arena


@pytest.mark.parametrize(("share", "bytes_each"), [(0.1, 2), (0.9, 1)])
def test_a_weight_takes_two_bytes_where_few_are_left_and_one_where_most_are(share: float, bytes_each: int) -> None:
    weight = np.random.default_rng(0).integers(1, 127, (16, 200)).astype(np.int8)
    weight[np.random.default_rng(1).random(weight.shape) > share] = 0
    net = Net("net", {}, {})
    walk = walk_of(net, weight, np.arange(200), np.zeros(16, np.int64))
    stored = next(int(n) for n in re.findall(r"net_0_w\[(\d+)\]", net.arrays[0]))
    kept = int((weight != 0).sum())
    assert stored == (2 * kept if bytes_each == 2 else weight.size)
    assert walk.count == (kept if bytes_each == 2 else weight.size)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40, unique=True), st.sampled_from([255, 65535]))
def test_gaps_lead_to_every_place(places: list[int], most: int) -> None:
    where = np.sort(np.array(places))
    weight = np.arange(1, len(where) + 1).astype(np.int8)
    pairs = _stream(weight, where, most)
    assert ((pairs[:, 0] >= 0) & (pairs[:, 0] <= most)).all()
    reached = where[0] + pairs[:, 0].cumsum()
    np.testing.assert_array_equal(reached[pairs[:, 1] != 0], where)
    np.testing.assert_array_equal(pairs[:, 1][pairs[:, 1] != 0], weight)


@given(st.floats(1e-6, 100), st.integers(-(2**20), 2**20), st.integers(-128, 127))
def test_a_product_and_a_shift_are_the_nearest_integer(factor: float, sum: int, zero: int) -> None:
    (m,), shift = fixed_point.multipliers(np.array([factor]))
    exact = Fraction(int(m), 2**shift) * sum + zero
    assert math.floor(exact + Fraction(1, 2)) == (sum * int(m) + fixed_point.rounding(zero, shift)) >> shift
    assert abs(float(Fraction(int(m), 2**shift)) / factor - 1) < 2.0**-30 or shift == fixed_point.WIDEST_SHIFT


@given(st.lists(st.floats(-3, 3).filter(lambda f: abs(f) > 1e-3), min_size=1, max_size=2), st.data())
def test_scaled_values_add_up_within_32_bits(factors: list[float], data: st.DataObject) -> None:
    byte = st.integers(-128, 127)
    zeros, q = ([data.draw(byte) for _ in factors] for _ in range(2))
    zero = data.draw(byte)
    weighted = fixed_point.weighted(np.array(factors), zeros, zero)
    assert weighted
    m, start, shift = weighted
    assert abs(start) + 128 * sum(map(abs, m)) < 2**31
    exact = zero + sum(f * (a - z) for f, a, z in zip(factors, q, zeros, strict=True))
    assert abs(((start + sum(a * b for a, b in zip(m, q, strict=True))) >> shift) - exact) <= 0.51


@needs_compiler
@pytest.mark.parametrize(("inputs", "bias"), [(70_000, 0), (10, 2**31 - 1)])
def test_sums_beyond_32_bits_are_computed_in_float(inputs: int, bias: int, tmp_path: Path) -> None:
    graph = layer_of(np.full((2, inputs), 127, np.int8), np.array([bias, -bias], np.int32))
    path = as_c(graph, tmp_path / "net.c")
    largest = inputs * 127 * 255 * 1e-5  # (q - zero) is 255 everywhere, scales 0.01 and 0.001
    expected = [[largest + bias * 1e-5, largest - bias * 1e-5]]
    np.testing.assert_allclose(answers(path, torch.full((1, inputs), 2.55)), expected, rtol=1e-4)


def layer_of(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """A linear layer in QDQ form: scale 0.01 of the input, whose zero is -128, and 0.001 of the weights."""
    each = len(weight)
    held = {
        "scale": np.float32(0.01), "zero": np.int8(-128),
        "q": weight, "w_scale": np.full(each, 0.001, np.float32), "w_zero": np.zeros(each, np.int8),
        "b": bias, "b_scale": np.full(each, 1e-5, np.float32), "b_zero": np.zeros(each, np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "w_scale", "w_zero"], ["weight"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bias"], axis=0),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["given"]),
        helper.make_node("Gemm", ["given", "weight", "bias"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weight.shape[1]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, each])
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    return helper.make_model(helper.make_graph(nodes, "layer", [x], [y], tensors))


@needs_compiler
def test_a_rescaling_that_32_bits_do_not_hold_is_computed_in_float(tmp_path: Path) -> None:
    coarse, fine = [np.float32(1.0), np.int8(0)], [np.float32(1e-8), np.int8(0)]
    names = ["coarse", "coarse_zero", "fine", "fine_zero"]
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in zip(names, coarse + fine, strict=True)]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names[:2]], ["a"]),
        helper.make_node("DequantizeLinear", ["a", *names[:2]], ["b"]),
        helper.make_node("Add", ["b", "b"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", *names[2:]], ["d"]),
        helper.make_node("DequantizeLinear", ["d", *names[2:]], ["e"]),
        helper.make_node("Concat", ["e", "b"], ["f"], axis=1),
        helper.make_node("QuantizeLinear", ["f", *names[2:]], ["g"]),
        helper.make_node("DequantizeLinear", ["g", *names[2:]], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])
    path = as_c(helper.make_model(helper.make_graph(nodes, "g", [x], [y], held)), tmp_path / "net.c")
    found = answers(path, torch.tensor([[2.0, 0.0, -3.0]]))
    np.testing.assert_allclose(found, [[127e-8, 0, -128e-8] * 2], rtol=1e-5)


def test_weights_that_are_no_numbers_are_refused_in_a_sentence(tmp_path: Path) -> None:
    model = sparse(nn.Conv2d(4, 3, 3), 1.0)
    with torch.no_grad():
        model.weight[0] = torch.nan
    request = Request(model.eval(), SHAPE, calibration=torch.from_numpy(np.concatenate(calibration(SHAPE))))
    with pytest.raises(ExportError, match="cannot be written as c-int8: "):
        find("c-int8").export(request, tmp_path / "net.int8.c")


def test_a_layer_whose_sums_could_overflow_stays_in_float() -> None:
    assert fixed_point.fits(np.array([0.1]), np.array([2**30]))
    assert not fixed_point.fits(np.array([0.1]), np.array([2**31]))
    assert not fixed_point.fits(np.array([4.0]), np.array([2**30]))
