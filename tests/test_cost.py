"""Prunable weights and multiply-accumulates: published totals and hand-computed ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.cost import macs, nonzero_count, positions, prunable, weight_count
from compress.errors import UsageError
from compress_models import load


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet5", (1, 28, 28), 500 * 24 * 24 + 25_000 * 8 * 8 + 400_000 + 5_000),
        ("lenet300", (1, 28, 28), 266_200),
        ("vgg16", (3, 32, 32), 313_463_808),  # Li et al., ICLR 2017: 3.13e8
        ("resnet56", (3, 32, 32), 125_485_696),  # 1.25e8
        ("resnet110", (3, 32, 32), 252_887_680),  # 2.53e8
        ("torchvision:resnet34", (3, 224, 224), 3_663_761_408),  # 3.66e9 with its projections
    ],
)
def test_published_macs_and_torchs_own_count(name: str, shape: tuple[int, ...], expected: int) -> None:
    model = load(name).eval()
    assert expected == macs(model, shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    assert 2 * expected == counter.get_total_flops()  # torch counts a multiplication and an addition


def test_positions_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, groups=2),  # 9x7 -> 4x3
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 6, 2, stride=2),  # 12 input positions -> 8x6
        nn.Conv1d(8, 3, 1),  # never reached in this form: see forward
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model
            self.head = nn.Linear(6, 5, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body[2](self.body[1](self.body[0](x)))
            return self.head(x.permute(0, 2, 3, 1))  # type: ignore[no-any-return]

    found = positions(Net(), (2, 9, 7))
    assert found == {
        "body.0.weight": 4 * 3,
        "body.2.weight": 4 * 3,  # a transposed convolution meets each weight once per input position
        "body.3.weight": 0,  # not used, costs nothing
        "head.weight": 8 * 6,
    }
    assert macs(Net(), (2, 9, 7)) == 4 * 1 * 9 * 12 + 4 * 6 * 4 * 12 + 30 * 48


def test_a_shared_weight_counts_once_but_costs_each_time() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again = nn.Linear(4, 4)
            self.again.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.first(x))  # type: ignore[no-any-return]

    assert prunable(Twice()) == ("first.weight",)
    assert weight_count(Twice()) == 16
    assert macs(Twice(), (4,)) == 32


def test_weights_in_functional_calls_are_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.linear = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.attention(x, x, x, need_weights=False)[0]
            return F.linear(x, self.linear.weight)

    expected = {"attention.in_proj_weight": 5, "attention.out_proj.weight": 5, "linear.weight": 5}
    assert expected == positions(Net(), (5, 8))


def test_biases_and_normalisation_are_never_prunable() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3),
        nn.BatchNorm1d(2),
        nn.LayerNorm(4),
        nn.PReLU(),
        nn.Embedding(3, 4),
        nn.Linear(4, 1),
    )
    assert prunable(model) == ("0.weight", "5.weight")


def test_nonzero_count_is_exact() -> None:
    model = nn.Linear(4, 5)
    with torch.no_grad():
        model.weight[:2] = 0
        model.weight[2:, 0] = 1e-30  # small is not zero
    assert nonzero_count(model) == 12
    assert weight_count(model) == 20


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    positions(model, (1, 6, 6))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UsageError):
        positions(model, (2, 6, 6))
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_a_wrong_input_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"does not take an input of shape \(1, 3, 28, 28\)") as caught:
        macs(load("lenet5"), (3, 28, 28))
    assert "\n" not in str(caught.value)


def test_a_model_without_weights_costs_nothing() -> None:
    assert (macs(nn.ReLU(), (3,)), weight_count(nn.ReLU()), nonzero_count(nn.ReLU())) == (0, 0, 0)
