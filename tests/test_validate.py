"""Validation: equal files agree, liars are caught, and no gate passes unmeasured."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from torch import Tensor, nn

from compress.errors import UsageError
from compress.onnx_file import session
from compress.validate import GATES, TOLERANCES, accuracy, check_files, check_gates, file_parity, parity, wilson


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 50), nn.ReLU(), nn.Linear(50, 5)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(10, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def as_onnx(net: nn.Module, batch: int | str = "batch", constant: float | None = None) -> InferenceSession:
    """The network written by hand; the last bias replaced by a constant where one is given."""
    bias = net[3].bias.detach() if constant is None else torch.full((5,), constant)
    tensors = {"w1": net[1].weight, "b1": net[1].bias, "w2": net[3].weight, "b2": bias}
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["output"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 2, 2])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return session(made.SerializeToString())


@pytest.mark.parametrize("batch", ["batch", 1, 4, 16])
def test_the_same_network_agrees_in_two_runtimes(net: nn.Module, images: Tensor, batch: int | str) -> None:
    result = parity(as_onnx(net, batch), net, [(images[:7], None), (images[7:].numpy(), None)])
    assert result.passed
    assert (10, 1.0) == (result.samples, result.top1_agreement)
    scale = net(images).abs().max().item()
    assert TOLERANCES["float32"] * scale == pytest.approx(result.tolerance, rel=1e-6)


@settings(deadline=None)
@given(layer=st.sampled_from([1, 3]), place=st.integers(0, 10**6), change=st.sampled_from([-0.02, 0.02]))
def test_any_one_weight_changed_by_a_fiftieth_is_caught(layer: int, place: int, change: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 50), nn.ReLU(), nn.Linear(50, 5)).eval()
    images = torch.randn(200, 3, 2, 2)
    other = copy.deepcopy(net)
    weights = other[layer].weight.data.view(-1)
    place %= len(weights)
    # A weight next to zero changes nothing: the step is a fiftieth of the layer's largest.
    weights[place] += change * weights.abs().max()
    assert not parity(as_onnx(net), other, [(images, None)]).passed


def test_rounding_to_8_bits_passes_and_another_network_does_not(net: nn.Module, images: Tensor) -> None:
    rounded = copy.deepcopy(net)
    for weights in rounded.parameters():
        step = weights.abs().max() / 127
        weights.data = (weights / step).round() * step
    assert parity(as_onnx(rounded), net, [(images, None)], dtype="int8").passed
    rounded[3].weight.data *= -1
    assert not parity(as_onnx(rounded), net, [(images, None)], dtype="int8").passed
    assert all(map(math.isfinite, TOLERANCES.values()))  # the report holds no infinity


def test_an_output_that_is_not_finite_fails_and_gives_no_number(net: nn.Module, images: Tensor) -> None:
    for constant in (math.nan, math.inf):
        broken = as_onnx(net, constant=constant)
        result = parity(broken, net, [(images, None)])
        assert (None, False) == (result.max_abs, result.passed)
        # Equal but infinite is not agreement either.
        assert not file_parity(broken, broken, [(images, None)]).passed


def test_a_model_on_its_way_through_training_is_compared_in_evaluation_mode(images: Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 50), nn.ReLU(), nn.Linear(50, 5), nn.Dropout(0.5)).train()
    assert parity(as_onnx(net), net, [(images, None)]).passed
    assert net.training


def test_files_are_compared_with_each_other(net: nn.Module, images: Tensor) -> None:
    same = file_parity(as_onnx(net, 4), as_onnx(net), [(images, None)])
    assert same.passed
    assert not file_parity(as_onnx(net, constant=0.0), as_onnx(net), [(images, None)]).passed


def test_the_difference_and_the_agreement_are_what_they_are_by_hand(net: nn.Module, images: Tensor) -> None:
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[3].bias[0] += 100
    result = parity(as_onnx(net), other, [(images, None)])
    assert pytest.approx(100, abs=1e-3) == result.max_abs
    first = (net(images).argmax(1) == 0).float().mean().item()
    assert first == pytest.approx(result.top1_agreement)


def test_two_different_models_are_named_so(net: nn.Module, images: Tensor) -> None:
    with pytest.raises(UsageError, match=r"shapes \(10, 5\) and \(10, 50\)"):
        parity(as_onnx(net), net[:2], [(images, None)])


def test_no_image_is_no_answer(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        parity(as_onnx(net), net, [])
    with pytest.raises(UsageError, match="at least one image"):
        accuracy(as_onnx(net), [])


@pytest.mark.parametrize("batch", ["batch", 1, 4, 16])
def test_accuracy_counts_every_image_once(net: nn.Module, images: Tensor, batch: int | str) -> None:
    labels = net(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    result = accuracy(as_onnx(net, batch), [(images[:7], labels[:7]), (images[7:], labels[7:].numpy())])
    assert (0.7, 7, 10) == (result.value, result.correct, result.total)
    assert wilson(7, 10) == (result.low, result.high)


def test_outputs_that_are_not_numbers_are_wrong(net: nn.Module, images: Tensor) -> None:
    # argmax of five NaN is 0
    assert 0 == accuracy(as_onnx(net, constant=math.nan), [(images, torch.zeros(10))]).correct


def test_another_metric_is_averaged_over_the_images(net: nn.Module, images: Tensor) -> None:
    def sizes(outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.full((len(outputs),), float(len(outputs)))

    result = accuracy(as_onnx(net, 4), [(images[:7], images[:7]), (images[7:], images[7:])], metric=sizes)
    assert (7 * 7 + 3 * 3) / 10 == result.value
    assert (None, 10, None, None) == (result.correct, result.total, result.low, result.high)


def test_the_interval_is_wilsons() -> None:
    # Newcombe, Stat. Med. 17, 1998, table I, method 3
    assert (0.2553, 0.3662) == pytest.approx(wilson(81, 263), abs=5e-5)
    assert (0.0, 0.2775) == pytest.approx(wilson(0, 10), abs=5e-5)
    assert 1.0 == wilson(10, 10)[1]


@settings(deadline=None)
@given(correct=st.integers(0, 1000), wrong=st.integers(0, 1000))
def test_the_interval_holds_the_fraction(correct: int, wrong: int) -> None:
    total = max(1, correct + wrong)
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1


@pytest.mark.parametrize(
    ("name", "quantity", "good", "bad"),
    [
        ("max_accuracy_drop_points", "accuracy_drop_points", 1.0, 1.01),
        ("max_latency_ms", "latency_ms", 1.0, 1.01),
        ("max_size_kb", "size_kb", 1.0, 1.01),
        ("min_speedup", "speedup_low", 1.0, 0.99),
        ("min_accuracy", "accuracy", 1.0, 0.99),
    ],
)
def test_a_gate_passes_at_its_limit_and_fails_beyond(name: str, quantity: str, good: float, bad: float) -> None:
    assert {quantity} == {GATES[name][0]}
    for value, passed in ((good, True), (bad, False)):
        (gate,) = check_gates({name: 1.0}, {quantity: value})
        assert (name, 1.0, value, passed) == (gate.name, gate.limit, gate.value, gate.passed)
        assert gate.message.startswith("passed: " if passed else "failed: ")


@pytest.mark.parametrize("unknown", [{}, {"latency_ms": None}, {"latency_ms": math.nan}])
def test_what_was_not_measured_fails_and_says_so(unknown: dict[str, float | None]) -> None:
    (gate,) = check_gates({"max_latency_ms": 1000}, unknown)
    assert (None, False) == (gate.value, gate.passed)
    assert "failed: max_latency_ms: latency_ms was not measured, limit at most 1000" == gate.message


def test_the_drop_of_further_files_is_held_and_no_other_gate() -> None:
    limits = {"max_accuracy_drop_points": 0.5, "max_size_kb": 1.0}
    gates = check_files(limits, 0.75, {"a.c": 0.75, "b.c": 0.5, "c.c": None})
    assert [("a.c", 0.0, True), ("b.c", 25.0, False), ("c.c", None, False)] == [
        (g.file, g.value, g.passed) for g in gates
    ]
    said = "failed: max_accuracy_drop_points: accuracy_drop_points of b.c is 25, limit at most 0.5"
    assert said == gates[1].message
    assert [] == check_files({"max_size_kb": 1.0}, 0.75, {"a.c": 0.0})


def test_a_speed_up_gate_does_not_look_at_the_median() -> None:
    (gate,) = check_gates({"min_speedup": 2.0}, {"speedup": 2.5, "speedup_low": 1.8})
    assert not gate.passed


def test_a_wrong_gate_or_limit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no gate 'max_latency'; did you mean max_latency_ms"):
        check_gates({"max_latency": 1}, {})
    with pytest.raises(UsageError, match="needs a number as its limit; got nan"):
        check_gates({"max_latency_ms": math.nan}, {})
    assert [] == check_gates({}, {})


def test_every_tolerance_is_far_below_a_wrong_answer() -> None:
    assert ["float32", "float16", "bfloat16", "int8"] == sorted(TOLERANCES, key=TOLERANCES.__getitem__)
    assert max(limit for dtype, limit in TOLERANCES.items() if dtype != "int8") < 0.1
