import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress import cost
from compress.budget import Budget, select
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups, compact
from compress.units import ElementUnits
from tests.support import TinyNet, element_units

SHAPE = (1, 8, 8)


class Residual(nn.Module):
    """Two convolutions whose outputs are added: their channels can only go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.a(x)))
        x = torch.relu(x + self.b(x))
        return self.fc(x.mean((2, 3)))


def channel_units(model: nn.Module) -> ChannelUnits:
    positions = cost.positions(model, SHAPE)
    values = dict(model.named_parameters())
    groups = channel_groups(model, torch.randn(2, *SHAPE))
    return ChannelUnits.of(groups, values, positions, cost.weight_count(model), cost.macs(model, SHAPE))


def test_blocks_are_named_after_the_layer_that_makes_the_channels() -> None:
    assert {"conv1": 4, "conv2": 6} == dict(channel_units(TinyNet()).blocks)


def test_coupled_layers_form_one_block() -> None:
    assert {"a": 4} == dict(channel_units(Residual()).blocks)


def test_score_is_the_norm_of_all_that_makes_the_channel() -> None:
    model = TinyNet()
    values = dict(model.named_parameters())
    rows = torch.cat([values["conv1.weight"].flatten(1), values["conv1.bias"][:, None]], 1)
    torch.testing.assert_close(rows.norm(dim=1).detach(), channel_units(model).scores(values)["conv1"])


def test_masks_cover_rows_biases_and_normalisation_but_no_reader() -> None:
    masks = channel_units(Residual()).masks({"a": torch.tensor([True, False, True, True])})
    assert {"a.weight", "bn.weight", "bn.bias", "b.weight", "b.bias"} == masks.keys()
    assert [True, False, True, True] == masks["bn.bias"].tolist()
    assert [True, False, True, True] == masks["b.weight"][:, 0, 0, 0].tolist()
    assert bool(masks["b.weight"][0].all())  # its columns read the channel; compaction drops them


def test_cost_by_hand() -> None:
    """conv1 1->4 3x3 on 8x8, conv2 4->6 3x3 on 6x6, fc 54->4; half of conv1 goes."""
    units = channel_units(TinyNet())
    keep = {"conv1": torch.tensor([True, True, False, False]), "conv2": torch.ones(6, dtype=torch.bool)}
    assert 2 * 9 + 6 * 2 * 9 + 54 * 4 == units.weights(keep)
    assert 2 * 9 * 64 + 6 * 2 * 9 * 36 + 54 * 4 == units.macs(keep)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_cost_of_a_selection_is_the_cost_after_compaction(data: st.DataObject) -> None:
    model = Residual() if data.draw(st.booleans()) else TinyNet()
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
        if parameter.dim() == 1:
            nn.init.constant_(parameter, 50.0)  # no rectifier closes: a dead network is refused
    units = channel_units(model)
    keep = {}
    for name, size in units.blocks.items():
        kept = data.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
        keep[name] = torch.tensor(kept)
    with torch.no_grad():
        for name, mask in units.masks(keep).items():
            model.get_parameter(name).mul_(mask)
    smaller = compact(model, torch.randn(2, *SHAPE)).model
    assert cost.weight_count(smaller) == units.weights(keep)
    assert cost.macs(smaller, SHAPE) == units.macs(keep)


def test_channel_budgets_are_the_largest_that_fit() -> None:
    units = channel_units(TinyNet())
    scores = {"conv1": torch.tensor([4.0, 3.0, 2.0, 1.0]), "conv2": torch.arange(6.0) / 10}
    keep = select(Budget(macs=0.5), units, scores)
    assert units.macs(keep) <= 0.5 * units.dense_macs
    ranked = torch.cat([scores["conv1"], scores["conv2"]]).sort(descending=True).values
    smallest = min(float(scores[n][k].min()) for n, k in keep.items())
    after = ranked[ranked < smallest][0]
    wider = {n: keep[n] | (scores[n] >= after) for n in keep}
    assert units.macs(wider) > 0.5 * units.dense_macs


def test_elements_cost_one_weight_and_their_positions() -> None:
    units: ElementUnits = element_units({"a.weight": torch.ones(2, 3)}, positions=10)
    keep = {"a": torch.tensor([True, False, False, True, True, False])}
    assert (3, 30) == (units.weights(keep), units.macs(keep))
    assert [[True, False, False], [True, True, False]] == units.masks(keep)["a.weight"].tolist()


def test_a_pattern_keeps_n_of_every_m_along_the_input_axis() -> None:
    units = ElementUnits({"a.weight": torch.Size((2, 4)), "b.weight": torch.Size((2, 3))}, {}, 14, 14, (2, 4))
    values = {"a.weight": torch.tensor([[1.0, 4, 3, 2], [9, 9, 9, 9]]), "b.weight": torch.ones(2, 3)}
    keep = units.masks(select(Budget(), units, units.scores(values)))
    assert [[False, True, True, False], [True, True, False, False]] == keep["a.weight"].tolist()
    assert bool(keep["b.weight"].all())  # 3 inputs are no multiple of 4: it stays whole


@given(st.integers(1, 3), st.integers(1, 7), st.floats(0.0, 0.9))
def test_no_group_of_a_pattern_keeps_more_than_n(rows: int, groups: int, sparsity: float) -> None:
    shape = torch.Size((rows, 4 * groups, 3, 3))
    units = ElementUnits({"a.weight": shape}, {"a.weight": 1}, shape.numel(), shape.numel(), (1, 4))
    score = torch.randint(3, shape, generator=torch.Generator().manual_seed(rows)).float()
    kept = units.masks(select(Budget(sparsity=sparsity), units, units.scores({"a.weight": score})))["a.weight"]
    assert int(kept.view(rows, groups, 4, 9).sum(2).max()) <= 1
    assert int(kept.sum()) == min(int((1 - sparsity) * shape.numel() * (1 + 1e-9)), shape.numel() // 4)


def test_sums_and_spread_are_each_others_transpose() -> None:
    units, values = channel_units(TinyNet()), dict(TinyNet().named_parameters())
    ones = {name: torch.ones_like(value) for name, value in values.items()}
    assert [10.0] * 4 == units.sums(ones)["conv1"].tolist()  # nine weights and a bias
    amounts = {"conv1": torch.arange(4.0), "conv2": torch.arange(6.0)}
    spread = units.spread(amounts)
    assert {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"} == spread.keys()
    torch.testing.assert_close(units.sums(spread)["conv2"], amounts["conv2"] * 37)  # 4 * 9 weights and a bias
