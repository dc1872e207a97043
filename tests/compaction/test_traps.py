"""Facts counted by hand: which channels go, where constants go, what is refused and how it is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.compaction import Compaction, compact
from compress.errors import CompactionError, UsageError
from tests.compaction.nets import MLP, LeNet5, build, example, prepared, zero_rows, zero_weights
from tests.compaction.zoo import ZOO, Body


def outs(result: Compaction) -> dict[str, tuple[int, int]]:
    return {layer.name: (layer.out_before, layer.out_after) for layer in result.layers}


def body(name: str, dead: list[int], *, bias: bool = True) -> tuple[nn.Module, Tensor]:
    """A network of the zoo whose first convolution has these filters zero."""
    model = prepared(ZOO[name])
    with torch.no_grad():
        model.conv1.weight[dead] = 0
        if bias:
            model.conv1.bias[dead] = 0
    return model, example((3, 8, 8))


def test_dead_sigmoid_unit_is_folded_into_the_next_bias() -> None:
    model = prepared(lambda: MLP(torch.sigmoid)).double()
    with torch.no_grad():
        model.fc1.weight[3] = 0
    expected = model.fc2.bias + model.fc2.weight[:, 3] * torch.sigmoid(model.fc1.bias[3])
    result = compact(model, example((1, 4, 4)).double())
    assert (12, 11) == outs(result)["fc1"]
    assert 1 == result.channels_removed
    torch.testing.assert_close(result.model.fc2.bias, expected, rtol=1e-14, atol=1e-14)  # float64 rounding


def test_unread_and_constant_units_both_go() -> None:
    model = prepared(MLP)
    with torch.no_grad():
        model.fc1.weight[:2] = 0  # two constants
        model.fc2.weight[:, 5:8] = 0  # three that nobody reads
        model.fc1.weight[9] = 0  # another constant
        model.fc2.weight[0, 1:] = 0  # a row that reads only the first constant: constant as well
    assert {"fc1": (12, 6), "fc2": (8, 7), "fc3": (4, 4)} == outs(compact(model, example((1, 4, 4))))


def test_death_travels_backward_through_layers() -> None:
    model = prepared(MLP)
    with torch.no_grad():
        model.fc3.weight[:, 1:] = 0  # of fc2 only unit 0 is read
        model.fc2.weight[0, 4:] = 0  # which reads four units of fc1
        model.fc2.weight[0, :4] = 1
    assert {"fc1": (12, 4), "fc2": (8, 1), "fc3": (4, 4)} == outs(compact(model, example((1, 4, 4))))


def test_constant_goes_into_running_mean_where_a_convolution_has_no_bias() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)
    ).double()  # fmt: skip
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 0.5
    expected = model[3].running_mean - 0.5 * model[2].weight[:, 1].sum((1, 2))
    result = compact(model.eval(), example((3, 8, 8)).double())
    assert model.state_dict().keys() == result.model.state_dict().keys()
    torch.testing.assert_close(result.model[3].running_mean, expected, rtol=1e-14, atol=1e-14)  # float64 rounding


def test_bias_is_created_where_there_is_none() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0
    result = compact(model, torch.randn(2, 4, dtype=torch.float64))
    torch.testing.assert_close(result.model[2].bias, model[2].weight[:, 0] * 0.5)  # sigmoid(0) = 1/2
    assert {"2": {"in_features": 2}, "0": {"out_features": 2}} == result.attributes


def test_padded_constants_keep_one_representative() -> None:
    model = prepared(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1), nn.ReLU())
    ).double()
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:3] = torch.tensor([1.0, 4.0, 2.0])
    weight = model[2].weight
    result = compact(model, example((3, 5, 5)).double())
    assert (6, 4) == outs(result)["0"]  # three constants become one, the largest
    merged = weight[:, 1] + weight[:, 0] / 4 + weight[:, 2] / 2
    torch.testing.assert_close(result.model[2].weight[:, 0], merged)


def test_padded_constants_of_wide_groups_keep_one_position() -> None:
    model = prepared(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, groups=2))
    ).double()
    with torch.no_grad():
        for position in (0, 1, 2):  # of both groups of 4
            model[0].weight[[position, 4 + position]] = 0
            model[0].bias[[position, 4 + position]] = torch.tensor([1.0 + position, 3.0 - position]).double()
    x = example((3, 5, 5)).double()
    result = compact(model, x)
    assert (8, 4) == outs(result)["0"]
    torch.testing.assert_close(result.model(x[:1]), model(x[:1]))


def test_constant_that_a_relu_turns_to_zero_needs_no_representative() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:3] = -1.0
    assert (6, 3) == outs(compact(model, example((3, 5, 5))))["0"]


def test_residual_channels_that_feed_only_themselves_die() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + F.relu(self.inner(x)))

    model = Residual()
    with torch.no_grad():
        model.head.weight[:, :4] = 0
        model.inner.weight[4:, :4] = 0  # the living read only the living; 0..3 still read everything
    assert {"stem": (6, 2), "inner": (6, 2), "head": (2, 2)} == outs(compact(model, example((3, 5, 5))))


def test_channels_padded_with_zeros_by_the_code_stay() -> None:
    model, x = build("resnet-a")
    block = model.layers[2]  # 8 channels come in, 4 + 8 + 4 go out
    with torch.no_grad():
        for layer, norm in ((block.conv2, block.bn2), (model.layers[3].conv2, model.layers[3].bn2)):
            for tensor in (layer.weight, norm.weight, norm.bias):
                tensor[:2] = 0
    assert (16, 16) == outs(compact(model, x))["layers.2.conv2"]


def test_wide_groups_lose_the_same_positions() -> None:
    model, x = build("alexnet")
    grouped = model.features[3]
    with torch.no_grad():
        for index in (0, 1, 6):  # 0 and 6 are position 0 of the two groups; 1 has no dead partner
            grouped.weight[index] = 0
            grouped.bias[index] = 0
    assert (12, 10) == outs(compact(model, x))["features.3"]


def test_narrow_groups_go_as_a_whole() -> None:
    model, x = body("grouped", [0, 1])
    with torch.no_grad():
        model.middle.conv.weight[:2] = 0
    result = compact(model, x)
    assert ((8, 6), (8, 6)) == (outs(result)["conv1"], outs(result)["middle.conv"])
    assert {"in_channels": 6, "out_channels": 6, "groups": 3} == result.attributes["middle.conv"]


def test_single_slope_and_slope_per_channel() -> None:
    for name, attributes in (("prelu", {"num_parameters": 5}), ("prelu-one", None)):
        result = compact(*body(name, [1, 2, 3]))
        assert (8, 5) == outs(result)["conv1"]
        assert attributes == result.attributes.get("middle")


def test_parameters_and_buffers_of_own_modules_are_cut() -> None:
    model, x = body("layer-scale", [1, 2])
    with torch.no_grad():
        model.middle.shift[:, [1, 2]] = -1  # relu makes it zero
    result = compact(model, x)
    assert (6, 1, 1) == tuple(result.model.middle.scale.shape)
    assert (1, 6, 1, 1) == tuple(result.model.middle.shift.shape)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("writes-into-view", "aten.mul_ in the model's forward (writes into a view of another tensor)"),
        ("writes-into-base", "aten.add_ in the model's forward (writes into a view of another tensor)"),
        ("cumsum", "aten.cumsum in the model's forward (mixes channels)"),
        ("weight-norm", "aten.conv2d in middle.conv (its weight is computed in the forward pass)"),
        ("x-softmax-x", "aten.softmax in the model's forward (mixes channels)"),
    ],
)
def test_what_has_no_rule_freezes_its_channels_and_is_named(name: str, operator: str) -> None:
    result = compact(*body(name, [0, 3, 4]))
    assert (8, 8) == outs(result)["conv1"]
    assert operator in result.frozen_operators


@pytest.mark.parametrize("name", ["unsaved-buffer", "constant-in-code", "layer-norm", "map-attention"])
def test_frozen_by_rule(name: str) -> None:
    result = compact(*body(name, [0, 3, 4], bias=name != "map-attention"))
    assert (8, 8) == outs(result)["conv1"]


@pytest.mark.parametrize(("name", "left"), [("shuffle", 5), ("slice", 4), ("attention", 5), ("roll", 5), ("flip", 5)])
def test_what_the_code_says_of_sizes_and_positions_is_rewritten(name: str, left: int) -> None:
    model, x = body(name, [0, 3, 4])  # the slice leaves out 0 and 1: unread
    result = compact(model, x)
    assert (8, left) == outs(result)["conv1"]
    assert () == result.frozen_operators


def test_a_size_written_in_the_code_follows() -> None:
    model = prepared(lambda: LeNet5(written_size=True))
    zero_rows(model, 0.5, 1, bias=True)
    result = compact(model, example((1, 16, 16)))
    plain = prepared(LeNet5)
    zero_rows(plain, 0.5, 1, bias=True)
    assert result.rewritten
    assert outs(compact(plain, example((1, 16, 16)))) == outs(result)


def test_no_piece_becomes_empty() -> None:
    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(torch.cat([x[:, :4] * 2, x[:, 4:]], 1))

    model = prepared(Pieces)
    with torch.no_grad():
        model.a.weight[:4] = model.a.bias[:4] = 0
    assert (8, 5) == outs(compact(model, example((3, 5, 5))))["a"]


def test_a_bias_that_folding_creates_is_read_by_a_rewritten_forward_pass() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.sigmoid(self.a(x)).view(-1, 6))

    model = prepared(Written).double()
    with torch.no_grad():
        model.a.weight[:2] = 0
    x = torch.randn(5, 4, dtype=torch.float64)
    result = compact(model, x)
    assert result.rewritten
    assert {"a": (6, 4), "b": (3, 3)} == outs(result)
    torch.testing.assert_close(result.model(x[:3]), model(x[:3]))


def test_scores_of_zero_are_not_weights_of_zero() -> None:
    model, x = body("attention", [])
    attention = model.middle.attention
    with torch.no_grad():
        attention.in_proj_weight[:4] = attention.in_proj_bias[:4] = 0  # the first head's queries: it averages
    assert outs(compact(model, x))["conv1"] == (8, 8)


def test_no_layer_becomes_empty() -> None:
    model = prepared(LeNet5)
    zero_weights(model, 0.99, 3)
    with torch.no_grad():
        model.fc2.weight[0, 0] = model.fc1.weight[0, 0] = 1
        model.conv2.weight[0, 0, 0, 0] = model.conv1.weight[0, 0, 0, 0] = 1
    result = compact(model, example((1, 16, 16)))
    assert all(layer.in_after > 0 and layer.out_after > 0 for layer in result.layers)


def test_branch_without_use_keeps_one_channel() -> None:
    model, x = build("densenet")
    with torch.no_grad():
        model.head.weight[:, 6:10] = 0
        model.convs[1].weight[:, 6:10] = 0
    assert (4, 1) == outs(compact(model, x))["convs.0"]


def test_rounding_keeps_multiples() -> None:
    model, x = build("vgg")
    zero_rows(model, 0.4, 1, bias=True)
    exact, rounded = compact(model, x), compact(model, x, round_to=4)
    hidden = [layer for layer in rounded.layers if layer.name != "classifier.3"]
    assert [0] * 4 == [layer.out_after % 4 for layer in hidden]
    assert any(layer.out_after % 4 for layer in exact.layers)
    for tight, loose in zip(exact.layers, rounded.layers, strict=True):
        assert tight.out_after <= loose.out_after < tight.out_after + 4


def test_shared_weight_folds_nothing_but_zeros() -> None:
    result = compact(*body("shared", [0, 1]))
    assert (8, 8) == outs(result)["middle.conv"]  # sigmoid(0) = 1/2 would need a bias for one of two calls


def test_tied_weights_stay_tied() -> None:
    model, x = body("tied", [])
    with torch.no_grad():
        model.middle.one.weight[:2] = 0
        model.middle.one.bias[:2] = model.middle.two.bias[:2] = 0
        model.conv1.weight[:2] = 0
        model.conv1.bias[:2] = 0
    result = compact(model, x)
    assert (8, 6) == outs(result)["middle.one"]
    assert result.model.middle.one.weight is result.model.middle.two.weight


class Auxiliary(nn.Module):
    """A second head that only training reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.extra = nn.Conv2d(3, 6, 1), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)).mean((2, 3))
        return self.head(x) + self.extra(x) if self.training else self.head(x)


def test_a_part_that_only_training_reaches_is_refused_if_it_would_break() -> None:
    model = Auxiliary()
    with torch.no_grad():
        model.stem.weight[0] = 0
    with pytest.raises(CompactionError, match=r"not in training mode.*auxiliary head"):
        compact(model, example((3, 4, 4)))
    whole = compact(Auxiliary(), example((3, 4, 4)))
    assert ("extra (evaluation never reaches it)",) == whole.frozen_operators


def test_last_layer_of_zeros_is_refused() -> None:
    model, x = build("vgg")
    nn.init.zeros_(model.classifier[3].weight)
    with pytest.raises(CompactionError, match="the network is dead or its last layer is zero"):
        compact(model, x)


def test_several_inputs_and_several_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            joined = self.a(x) * torch.sigmoid(self.b(y))
            return {"logits": self.head(joined), "features": y}

    model = Two()
    with torch.no_grad():
        model.a.weight[:2] = model.a.bias[:2] = 0
    result = compact(model, (torch.randn(2, 4), torch.randn(2, 3)))
    assert {"a": (6, 4), "b": (6, 4), "head": (2, 2)} == outs(result)


def test_bad_arguments() -> None:
    model, x = build("mlp")
    with pytest.raises(UsageError, match="round_to must be 1 or more, got 0"):
        compact(model, x, round_to=0)
    with pytest.raises(UsageError, match="got nothing"):
        compact(model, ())
    with pytest.raises(CompactionError, match=r"torch\.export cannot follow"):
        compact(model, torch.randn(2, 5))


def test_depends_on_data_is_refused_with_the_reason() -> None:
    model = Body(lambda x: x * 2 if x.sum() > 0 else x)
    with pytest.raises(CompactionError, match=r"torch\.export cannot follow the model"):
        compact(model, example((3, 8, 8)))
