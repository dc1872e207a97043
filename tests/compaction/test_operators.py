"""Facts counted by hand, operator by operator: which channels go and what becomes of constants."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.compaction import channel_groups, compact, remove
from tests.compaction.nets import example, prepared
from tests.compaction.test_exactness import difference
from tests.compaction.test_traps import outs
from tests.compaction.zoo import Body
from tests.compaction.zoo_operators import OPERATORS, Sequence

X = example((3, 8, 8)).double()


def body(name: str, dead: list[int]) -> nn.Module:
    """A network whose first convolution has these filters and their biases zero."""
    model = prepared(OPERATORS[name]).double()
    with torch.no_grad():
        model.conv1.weight[dead] = model.conv1.bias[dead] = 0
    return model


def chain(
    middle: Callable[[], nn.Module], *, width: int, out: int | None = None, constants: dict[int, float]
) -> nn.Sequential:
    """1x1 convolution with constant filters -> middle -> 1x1 convolution -> tanh."""
    model = prepared(
        lambda: nn.Sequential(nn.Conv2d(3, width, 1), middle(), nn.Conv2d(out or width, 4, 1), nn.Tanh())
    ).double()
    with torch.no_grad():
        for channel, constant in constants.items():
            model[0].weight[channel], model[0].bias[channel] = 0, constant
    return model


@pytest.mark.parametrize(
    ("name", "dead", "left"),
    [
        ("group-norm-2", [0, 1, 2, 3, 5], 4),  # one whole group of four
        ("group-norm-4-plain", [0, 1, 4], 6),  # one whole group of two
        ("group-norm-8", [0, 3, 4], 5),
        ("instance-norm", [0, 3, 4], 5),
        ("instance-norm-affine", [0, 3, 4], 5),
        ("transposed", [0, 3, 4], 5),
        ("transposed-relu", [0, 3, 4], 6),  # sigmoid(0) does not fold where windows overlap: one stays for three
        ("transposed-pointwise", [0, 3, 4], 5),  # sigmoid(0) goes into the bias
        ("transposed-depthwise", [0, 3, 4], 6),  # its bias is left, and conv2 pads it with zeros
        ("transposed-wide-groups", [0, 4, 1], 6),  # the first of both groups of four
        ("glu", [0, 2, 6], 4),  # 0 takes 4 with it, 2 and 6 go together
        ("made-like", [0, 3, 4], 6),  # constants that conv2 pads with zeros
        ("written-into-zeros", [0, 3, 4], 6),
        ("other-names", [0, 3, 4], 6),
        ("masked", [0, 3, 4], 5),
        ("resized", [0, 3, 4], 5),
        ("unpool", [0, 3, 4], 5),
        ("windows", [0, 3, 4], 5),
        ("unfold-linear", [0, 3, 4], 5),
        ("pixel-shuffle", [0, 1, 2, 3, 5], 4),  # four filters make one channel
        ("pixel-unshuffle", [0, 3, 4], 5),
        ("channel-shuffle", [0, 3, 4], 5),
        ("repeat-interleave", [0, 3, 4], 5),
        ("sliding", [0, 3, 4], 5),
        ("largest", [0, 3, 4], 5),
        ("sampled", [0, 3, 4], 5),
        ("lstm", [0, 3, 4], 5),
        ("lstm-2-both-ways", [0, 3, 4], 5),
        ("gru", [0, 3, 4], 5),
        ("cells", [0, 3, 4], 5),
    ],
)
def test_filters_that_go(name: str, dead: list[int], left: int) -> None:
    result = compact(body(name, dead), X)
    assert (8, left) == outs(result)["conv1"]
    assert () == result.frozen_operators


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("rms-norm", "aten.rms_norm in middle.layer (mixes channels)"),
        ("local-response", "aten.avg_pool3d in middle (no rule)"),
        ("lstm-projected", "aten.lstm in middle.layer (projected outputs)"),
        ("order-of-channels", "aten.sort in the model's forward (the order of channels)"),
        ("order-of-channels", "aten.argmax in the model's forward (the order of channels)"),
        ("scattered", "aten.scatter in the model's forward (no rule)"),
    ],
)
def test_what_freezes_is_named(name: str, operator: str) -> None:
    result = compact(body(name, [0, 3, 4]), X)
    assert (8, 8) == outs(result)["conv1"]
    assert operator in result.frozen_operators


def test_group_normalisation_of_constants_of_a_whole_group() -> None:
    model = chain(lambda: nn.GroupNorm(2, 4, affine=False), width=4, constants={0: 1.0, 1: 3.0, 2: 7.0})
    weight = model[2].weight[:, :, 0, 0]
    expected = model[2].bias + (weight[:, 1] - weight[:, 0]) / (1 + 1e-5) ** 0.5  # mean 2, variance 1
    result = compact(model, X)
    assert (4, 2) == outs(result)["0"]  # filter 2 shares its group with an unknown one
    assert {"num_groups": 1, "num_channels": 2} == result.attributes["1"]
    torch.testing.assert_close(result.model[2].bias, expected, rtol=1e-12, atol=1e-12)  # float64 rounding


def test_group_normalisation_with_zero_weight_is_its_bias() -> None:
    model = chain(lambda: nn.GroupNorm(2, 4), width=4, constants={})
    with torch.no_grad():
        model[1].weight[:2], model[1].bias[:2] = 0, torch.tensor([0.5, -2.0])
    expected = model[2].bias + model[2].weight[:, :2, 0, 0] @ model[1].bias[:2]
    result = compact(model, X)
    assert (4, 2) == outs(result)["0"]
    torch.testing.assert_close(result.model[2].bias, expected)


def test_instance_normalisation_makes_its_bias_of_a_constant() -> None:
    for affine in (True, False):
        model = chain(lambda affine=affine: nn.InstanceNorm2d(4, affine=affine), width=4, constants={1: 5.0})
        if affine:
            nn.init.constant_(model[1].bias, 0.25)
        expected = model[2].bias + (0.25 * model[2].weight[:, 1, 0, 0] if affine else 0)
        result = compact(model, X)
        assert {"num_features": 3} == result.attributes["1"]
        torch.testing.assert_close(result.model[2].bias, expected)


def test_instance_normalisation_with_stored_statistics() -> None:
    model = chain(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), width=4, constants={1: 5.0})
    with torch.no_grad():
        model[1].running_mean[1], model[1].running_var[1] = 2.0, 9.0 - 1e-5
    expected = model[2].bias + model[2].weight[:, 1, 0, 0]  # (5 - 2) / 3
    result = compact(model, X)
    assert (3,) == tuple(result.model[1].running_mean.shape)
    torch.testing.assert_close(result.model[2].bias, expected)


def test_constants_before_a_transposed_convolution_keep_one_representative() -> None:
    model = chain(lambda: nn.ConvTranspose2d(6, 4, 3, 2), width=6, out=4, constants={0: 1.0, 1: 4.0, 2: 2.0})
    weight = model[1].weight
    result = compact(model, X)
    assert (6, 4) == outs(result)["0"]
    assert {"in_channels": 4} == result.attributes["1"]
    torch.testing.assert_close(result.model[1].weight[0], weight[1] + weight[0] / 4 + weight[2] / 2)


def test_row_of_a_transposed_convolution_that_is_constant() -> None:
    model = chain(lambda: nn.ConvTranspose2d(3, 4, 2, 2), width=3, out=4, constants={0: 2.0})
    with torch.no_grad():
        model[1].weight[1:, 2] = 0  # row 2 reads only the constant, once per position
        model[1].weight[0, 2] = 0.5
    expected = model[2].bias + model[2].weight[:, 2, 0, 0] * (2.0 * 0.5 + model[1].bias[2])
    result = compact(model, X)
    assert {"out_channels": 3} == result.attributes["1"]
    torch.testing.assert_close(result.model[2].bias, expected)


def test_groups_of_a_transposed_convolution() -> None:
    model = body("transposed-depthwise", [])
    with torch.no_grad():
        model.middle.weight[2] = model.middle.bias[2] = 0
    result = compact(model, X)
    assert {"in_channels": 7, "out_channels": 7, "groups": 7} == result.attributes["middle"]
    model = body("transposed-wide-groups", [])  # 2 groups, 4 in and 3 out each
    with torch.no_grad():
        model.middle.weight[:, 1] = model.middle.bias[[1, 4]] = 0
    result = compact(model, X)
    assert (6, 4) == outs(result)["middle"]
    assert (8, 2, 3, 3) == tuple(result.model.middle.weight.shape)


def test_costs_of_a_transposed_convolution() -> None:
    model = prepared(lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.ConvTranspose2d(5, 4, 2, 2), nn.Conv2d(4, 2, 1)))
    model = model.double()
    unit, *_, last = channel_groups(model, X)
    assert 3 + 4 * 4 == unit.weights  # a filter, and a row of 2 x 2 kernels
    assert 64 * (3 + 4 * 4) == unit.macs  # the weights of a transposed convolution meet each input position once
    assert 5 * 4 * 64 + 2 * 16 * 16 == last.macs  # what it makes has 16 x 16 positions


def test_equal_numbers_in_an_embedding_are_a_constant() -> None:
    model = prepared(lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.Tanh())).double()
    with torch.no_grad():
        model[0].weight[:, 2] = 0.5
    expected = model[1].bias + 0.5 * model[1].weight[:, 2]
    result = compact(model, torch.tensor([[0, 3, 4], [1, 1, 2]]))
    assert {"0": {"embedding_dim": 3}, "1": {"in_features": 3}} == result.attributes
    torch.testing.assert_close(result.model[1].bias, expected)


class Written(nn.Module):
    """A layer, and sizes written in the code after it: the forward pass has to be rewritten."""

    def __init__(self, layer: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.layer, self.size = nn.Conv2d(3, 8, 3), layer, width * 36
        self.out = nn.Linear(self.size, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.conv1(x)).view(-1, self.size))


@pytest.mark.parametrize(
    ("layer", "width", "dead", "left"),
    [
        (lambda: nn.GroupNorm(4, 8), 8, [0, 1, 4], 6),
        (lambda: nn.GroupNorm(4, 8, affine=False), 8, [0, 1, 4], 6),
        (lambda: nn.InstanceNorm2d(8), 8, [0, 3, 4], 5),
        (lambda: nn.InstanceNorm2d(8, track_running_stats=True), 8, [0, 3, 4], 5),
        (lambda: nn.GLU(1), 4, [0, 3, 4], 4),
        (lambda: nn.ConvTranspose2d(8, 8, 1, groups=8, bias=False), 8, [0, 3, 4], 5),
        (lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2)), 8, [0, 3, 4], 5),
    ],
)
def test_operators_in_a_rewritten_forward_pass(layer, width: int, dead: list[int], left: int) -> None:
    model = prepared(lambda: Written(layer(), width)).double()
    with torch.no_grad():
        model.conv1.weight[dead] = model.conv1.bias[dead] = 0
    result = compact(model, X)
    assert result.rewritten
    assert (8, left) == outs(result)["conv1"]
    assert difference(model, result.model, example((3, 8, 8), 5).double()) < 1e-12


def test_structural_removal_of_a_normalised_shape() -> None:
    for layer in (nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8)):
        model = prepared(lambda layer=layer: Body(Sequence(layer))).double()
        groups = channel_groups(model, X)
        first = [g for g in groups if any(p.name == "conv1.weight" for p in g.slices)]
        result = remove(model, X, first[:3])
        assert (5,) == tuple(result.attributes["middle.layer"]["normalized_shape"])
        assert not result.rewritten


def test_any_of_what_is_not_known_is_not_known() -> None:
    model = body("any-within-border", [])
    assert (8, 8) == outs(compact(model, X))["conv1"]


def test_activations_without_a_tag_are_element_wise() -> None:
    model = chain(lambda: nn.LogSigmoid(), width=4, constants={1: 0.0})
    expected = model[2].bias + model[2].weight[:, 1, 0, 0] * F.logsigmoid(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(compact(model, X).model[2].bias, expected)
