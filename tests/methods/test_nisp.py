import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.method import State
from compress.methods.nisp import NISP, importance
from tests.support import channel_view


def set_weights(model: nn.Module, **weights: list[list[float]]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            parameter = model.get_submodule(name).weight
            parameter.copy_(torch.tensor(weight).view(parameter.shape))  # type: ignore[operator,union-attr,arg-type]


class Chain(nn.Module):
    """Three linear layers, registered in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 2)
        self.middle = nn.Linear(3, 2)
        self.first = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


def test_two_layers_are_the_column_sums_of_the_second() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    set_weights(model, **{"2": [[1.0, -2.0, 0.0], [3.0, 0.5, -0.5]]})
    assert [4.0, 2.5, 0.5] == importance(channel_view(model, Budget(), (2,)))["0"].tolist()


def test_scores_flow_back_through_all_layers() -> None:
    """|last|^T 1 = (1, 5); |middle|^T (1, 5) = (1 + 10, 0 + 5, 3 + 0)."""
    model = Chain()
    set_weights(model, middle=[[1.0, 0.0, -3.0], [-2.0, 1.0, 0.0]], last=[[1.0, -2.0], [0.0, 3.0]])
    found = importance(channel_view(model, Budget(), (2,)))
    assert {"middle": [1.0, 5.0], "first": [11.0, 5.0, 3.0]} == {block: s.tolist() for block, s in found.items()}


def test_kernels_and_flattened_columns_add_up() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, (1, 2))
            self.fc = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).flatten(1))

    model = Net()
    # two columns of fc per channel of b: 1 + 2 and 3 + 4
    set_weights(model, fc=[[1.0, -2.0, 3.0, -4.0]], b=[[1.0, -1.0, 2.0, 0.0], [0.0, 0.0, -1.0, 1.0]])
    found = importance(channel_view(model, Budget(), (1, 1, 3)))
    assert {"a": [2 * 3.0, 2 * 3.0 + 2 * 7.0], "b": [3.0, 7.0]} == {block: s.tolist() for block, s in found.items()}


def test_a_residual_branch_adds_to_what_the_sum_passes_on() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.fc(torch.relu(x + self.b(x)))

    model = Residual()
    set_weights(model, fc=[[1.0, 2.0]], b=[[0.0, 3.0], [-1.0, 0.0]])
    # s = (1, 2) behind the sum; before it (1, 2) + |b|^T (1, 2) = (1 + 2, 2 + 3)
    assert [3.0, 5.0] == importance(channel_view(model, Budget(), (2,)))["a"].tolist()


def test_the_least_important_channels_go_compared_after_division_by_the_layers_mean() -> None:
    """first: (11, 5, 3) / 6.33; middle: (1, 5) / 3, so middle's first channel is the least of all."""
    model = Chain()
    set_weights(model, middle=[[1.0, 0.0, -3.0], [-2.0, 1.0, 0.0]], last=[[1.0, -2.0], [0.0, 3.0]])
    # 16 weights: without that channel 6 + 3 + 2 = 11 are left
    masks = NISP().finish(channel_view(model, Budget(sparsity=5 / 16), (2,)), State()).masks
    assert [False, True] == masks["middle.bias"].tolist()
    assert bool(masks["first.bias"].all())
