"""Facts counted by hand: LSTM, GRU, RNN and their cells lose inputs and hidden units."""

import json

import pytest
import torch
from torch import Tensor, nn

from compress.compaction import compact, restore
from tests.compaction.nets import example, prepared
from tests.compaction.test_exactness import difference
from tests.compaction.test_operators import X, body
from tests.compaction.test_traps import outs
from tests.compaction.zoo import Body
from tests.compaction.zoo_operators import OwnState, Steps


@torch.no_grad()
def silence(layer: nn.RNNBase, gate: int, units: list[int]) -> None:
    """The rows that make these units' content read nothing, in all layers and directions."""
    for name, tensor in layer.named_parameters():
        assert name.startswith(("weight", "bias"))
        tensor[[gate * layer.hidden_size + unit for unit in units]] = 0


@pytest.mark.parametrize(("name", "gate", "gates"), [
    ("lstm", 2, 4), ("lstm-2-both-ways", 2, 4), ("gru", 2, 3), ("gru-no-bias", 2, 3), ("rnn", 0, 1),
])  # fmt: skip
def test_units_that_stay_zero_go_from_all_gates(name: str, gate: int, gates: int) -> None:
    model = body(name, [])
    layer = model.middle.layer
    silence(layer, gate, [1, 4])
    result = compact(model, X)
    assert {"hidden_size": 4} == result.attributes["middle.layer"]
    assert not result.rewritten
    ways = 2 if layer.bidirectional else 1
    assert 4 * ways == result.model.middle.out.in_features
    for tensor, width in ((f"weight_hh_l{layer.num_layers - 1}", 4), ("weight_ih_l0", 8)):
        assert (gates * 4, width) == tuple(getattr(result.model.middle.layer, tensor).shape)


@torch.no_grad()
def test_units_go_when_nobody_reads_them_though_they_read_each_other() -> None:
    model = body("lstm", [])
    model.middle.out.weight[:, :2] = 0
    model.middle.layer.weight_hh_l0.view(4, 6, 6)[:, 2:, :2] = 0  # the living do not read 0 and 1
    model.middle.layer.weight_ih_l0.view(4, 6, 8)[:, 2:, 5] = 0  # only 0 and 1 read channel 5
    result = compact(model, X)
    assert {"hidden_size": 4, "input_size": 7} == result.attributes["middle.layer"]
    assert (8, 7) == outs(result)["conv1"]


class Columns(nn.Module):
    """A convolution and a recurrent layer over the positions of its map."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 4, 1), layer(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.conv(x).flatten(2).transpose(1, 2))[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_constant_input_goes_into_the_bias(kind: type[nn.RNNBase]) -> None:
    model = prepared(lambda: Columns(kind)).double()
    with torch.no_grad():
        model.conv.weight[1], model.conv.bias[1] = 0, 5.0
    expected = model.layer.bias_ih_l0 + 5 * model.layer.weight_ih_l0[:, 1]
    result = compact(model, X)
    assert {"input_size": 3} == result.attributes["layer"]
    torch.testing.assert_close(result.model.layer.bias_ih_l0, expected)


def test_a_narrowed_recurrent_layer_holds_its_own_parameters() -> None:
    model = body("lstm-2-both-ways", [0, 3])
    silence(model.middle.layer, 2, [1, 4])
    result = compact(model, X)
    layer = result.model.middle.layer
    assert [id(p) for p in layer.parameters()] == [id(p) for p in layer._flat_weights]
    rebuilt = restore(
        body("lstm-2-both-ways", []), result.model.state_dict(), json.loads(json.dumps(result.attributes))
    )
    assert torch.equal(result.model(X), rebuilt(X))
    rebuilt(X).sum().backward()
    assert all(p.grad is not None for p in rebuilt.parameters())


@pytest.mark.parametrize(("kind", "left", "rewritten"), [("zero", 6, True), ("trained", 6, True), ("input", 8, False)])
def test_initial_states(kind: str, left: int, rewritten: bool) -> None:
    model = prepared(lambda: Body(OwnState(kind))).double()
    silence(model.middle.lstm, 2, [1, 4])
    if kind == "trained":
        nn.init.zeros_(model.middle.hidden)
        nn.init.zeros_(model.middle.cell)
    result = compact(model, X)
    assert left == result.model.middle.lstm.weight_hh_l0.shape[1]
    assert rewritten == result.rewritten
    assert difference(model, result.model, example((3, 8, 8), 5).double()) < 1e-12


@torch.no_grad()
def test_units_of_cells_in_a_loop() -> None:
    model = prepared(lambda: Body(Steps())).double()
    model.middle.out.weight[:, 0] = 0
    model.middle.gru.weight_hh.view(3, 5, 5)[:, 1:, 0] = 0
    for tensor in model.middle.lstm.parameters():
        tensor[[2 * 6 + 1, 2 * 6 + 5]] = 0
    result = compact(model, X)
    assert {"hidden_size": 4} == result.attributes["middle.lstm"]
    assert {"hidden_size": 4, "input_size": 4} == result.attributes["middle.gru"]
