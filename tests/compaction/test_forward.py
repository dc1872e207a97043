"""A rewritten forward pass as plain data: the way there and back, and what a hostile file may not do."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from compress.compaction import compact, restore
from compress.compaction.forward import from_data, installed, to_data
from compress.errors import UsageError
from tests.compaction.nets import build, example, prepared, zero_rows
from tests.compaction.zoo import ZOO, Body


@pytest.fixture(scope="module")
def narrow() -> nn.Module:
    """A model with index tensors in its forward pass."""
    model = prepared(lambda: Body(ZOO["shuffle"]().middle))
    zero_rows(model, 0.4, 5)
    result = compact(model, example((3, 8, 8)))
    assert result.rewritten
    return result.model


def test_there_and_back(narrow: nn.Module) -> None:
    forward = installed(narrow)
    data = json.loads(json.dumps(to_data(forward)))
    again = to_data(from_data(data))
    assert data == again
    assert data["constants"]  # the positions of the shuffle


def test_only_the_rewritten_class_has_one(narrow: nn.Module) -> None:
    assert installed(build("mlp")[0]) is None
    assert installed(copy.deepcopy(narrow)) is installed(narrow)
    assert type(narrow).__mro__[1] is Body


def test_dropout_and_normalisation_follow_training_mode() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.drop = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
            self.b = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.drop(self.norm(self.a(x)).view(-1, 6)))

    model = prepared(Written)
    with torch.no_grad():
        model.a.weight[:2] = model.a.bias[:2] = 0
    result = compact(model, torch.randn(4, 4)).model
    x = torch.randn(64, 4)
    assert torch.equal(result(x), result(x))
    mean = result.norm.running_mean.clone()
    result.train()
    assert not torch.equal(result(x), result(x))  # dropout
    assert not torch.equal(mean, result.norm.running_mean)


class Options(nn.Module):
    """A size written in the code, a dictionary and an option."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs: dict[str, torch.Tensor], double: bool = True) -> torch.Tensor:
        x = torch.relu(self.a(inputs["x"]) + self.b(inputs["y"])).view(-1, 6)
        return self.head(x * 2 if double else x)


def test_what_is_no_tensor_is_fixed_and_dictionaries_go_by_name() -> None:
    model = prepared(Options)
    with torch.no_grad():
        for tensor in (model.a.weight, model.a.bias, model.b.weight, model.b.bias):
            tensor[:2] = 0
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    narrow = compact(model, ({"y": y, "x": x}, True)).model
    torch.testing.assert_close(narrow({"x": x, "y": y}, True), model({"x": x, "y": y}, True))
    torch.testing.assert_close(narrow({"y": y, "x": x}, double=True), model({"x": x, "y": y}))
    with pytest.raises(TypeError, match="was made for True, got False"):
        narrow({"x": x, "y": y}, False)


@pytest.mark.parametrize("name", ["lenet5-written", "mobilenet", "gated"])
def test_compacted_again_and_again_it_still_restores(name: str) -> None:
    model, x = build(name)
    zero_rows(model, 0.3, 1)
    first = compact(model, x)
    zero_rows(first.model, 0.3, 2)
    second = compact(first.model, x)
    third = compact(second.model, x)
    assert 0 == third.channels_removed
    assert third.rewritten == second.rewritten
    again = restore(build(name, 4)[0], third.model.state_dict(), json.loads(json.dumps(third.attributes)))
    with torch.no_grad():
        assert torch.equal(third.model.eval()(x), again.eval()(x))


def test_attention_dropout_follows_training_mode() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    model = prepared(Net)
    with torch.no_grad():
        model.attention.out_proj.weight[:, :4] = 0
    x = torch.randn(2, 5, 8)
    result = compact(model, x)
    assert result.rewritten
    narrow = result.model.eval()
    assert torch.equal(narrow(x), narrow(x))
    narrow.train()
    assert not torch.equal(narrow(x), narrow(x))


def test_a_model_under_torchs_own_pruning_is_refused() -> None:
    model, x = build("mlp")
    model(x)
    prune.ln_structured(model.fc1, "weight", 0.3, 2, 0)
    with pytest.raises(UsageError, match=r"call prune\.remove"):
        compact(model, x)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["call_function", "os.system", ["true"], {"map": {}}], "only ATen operators and arithmetic"),
        (["call_function", "aten.from_file.default", ["f"], {"map": {}}], "only ATen operators and arithmetic"),
        (["call_function", "operator.attrgetter", ["f"], {"map": {}}], "only ATen operators and arithmetic"),
        (["call_module", "conv1", [], {"map": {}}], "no part of one"),
        (["get_attr", "conv1.__class__", [], {"map": {}}], "no attribute of a model"),
        (["placeholder", "x", [{"torch": "load"}], {"map": {}}], "no plain value"),
    ],
)
def test_hostile_data_is_refused(narrow: nn.Module, row: list[object], words: str) -> None:
    data = to_data(installed(narrow))
    data["nodes"].insert(0, row)
    with pytest.raises(UsageError, match=words):
        from_data(data)
