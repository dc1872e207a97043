import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import State
from compress.methods.slimming import Slimming
from tests.support import TinyNet, TinyNormedNet, channel_view, view_of


class Residual(nn.Module):
    """Two normalised convolutions that share their channels through an addition, and a squeeze without a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(3)
        self.b = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(3)
        self.squeeze = nn.Linear(3, 2)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_a(self.a(x)))
        x = torch.relu(x + self.norm_b(self.b(x)))
        return self.fc(torch.relu(self.squeeze(x.mean((2, 3)))))


def set_scales(model: nn.Module, **gammas: list[float]) -> None:
    with torch.no_grad():
        for name, gamma in gammas.items():
            model.get_submodule(name).weight.copy_(torch.tensor(gamma))  # type: ignore[operator,union-attr]


def test_penalty_is_the_l1_norm_of_the_scales() -> None:
    model = TinyNormedNet()
    set_scales(model, norm1=[1.0, -2.0, 0.0, 0.5], norm2=[1.0, 1.0, 1.0, 1.0, 1.0, -1.5])
    penalty = Slimming(lam=0.1).penalty(channel_view(model, Budget()), State())
    assert penalty.item() == pytest.approx(0.1 * (3.5 + 6.5))
    penalty.backward()
    torch.testing.assert_close(torch.tensor([0.1, -0.1, 0.0, 0.1]), model.norm1.weight.grad)  # lam sign(gamma)
    assert model.conv1.weight.grad is None


def test_the_channels_with_the_smallest_scales_go_whatever_their_weights() -> None:
    model = TinyNormedNet()
    set_scales(model, norm1=[0.9, -0.8, 0.1, 0.7], norm2=[0.6, 0.05, 0.5, 0.9, 0.02, -1.0])
    with torch.no_grad():
        model.conv2.weight[4].fill_(100.0)
    masks = Slimming().finish(channel_view(model, Budget(keep={"conv1": 3, "conv2": 4})), State()).masks
    assert [True, True, False, True] == masks["norm1.weight"].tolist()
    assert [True, False, True, True, False, True] == masks["conv2.weight"][:, 0, 0, 0].tolist()


def test_coupled_scales_count_with_their_mean_and_channels_without_one_go_last() -> None:
    """Means 0.5, 0.6, 0.4; the squeeze has no scale and stays whole while a scaled channel is left to prune."""
    model = Residual()
    set_scales(model, norm_a=[0.9, 0.6, 0.1], norm_b=[-0.1, 0.6, 0.7])
    view = channel_view(model, Budget(macs=0.5))
    assert {"a": 3, "squeeze": 2} == dict(view.units.blocks)
    masks = Slimming().finish(view, State()).masks
    assert [False, True, False] == masks["a.weight"][:, 0, 0, 0].tolist()
    assert bool(masks["squeeze.weight"].all())


def test_a_network_without_normalisation_is_refused_at_the_start() -> None:
    with pytest.raises(UsageError, match=r"slimming ranks channels by the scale.*add batch normalisation"):
        Slimming().check_network(channel_view(TinyNet(), Budget()))


def test_single_weights_are_refused() -> None:
    with pytest.raises(UsageError, match=r'whole channels, not single weights.*units = "channel"'):
        Slimming().check_network(view_of(dict(TinyNet().named_parameters()), Budget()))


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="lam >= 0"):
        Slimming(lam=-1.0)
