"""A rewritten forward pass as plain data: the way there and back, and what a hostile file may not do."""

import copy
import json

import pytest
import torch
from torch import nn

from compress.compaction import compact
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
