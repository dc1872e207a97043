import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.channels import channel_units
from compress.errors import UsageError
from compress.method import Clock
from compress.methods.ista import ISTA, memory, soft
from tests.support import TinyNet, TinyNormedNet, channel_view


def test_soft_is_the_prox_of_the_l1_norm() -> None:
    """Against a dense grid: no z has a smaller threshold |z| + 0.5 (z - v)^2."""
    values, threshold = torch.tensor([-2.0, -0.3, 0.0, 0.2, 0.5, 1.7]), torch.tensor(0.5)
    expected = torch.tensor([-1.5, 0.0, 0.0, 0.0, 0.0, 1.2])
    torch.testing.assert_close(expected, soft(values, threshold))
    grid = torch.linspace(-3, 3, 6001)

    def objective(z: Tensor) -> Tensor:
        return threshold * z.abs() + 0.5 * (z - values[:, None]) ** 2

    assert bool((objective(expected[:, None]) <= objective(grid).min(1, keepdim=True).values + 1e-6).all())


def test_memory_of_a_channel_by_hand() -> None:
    """conv1: 9 weights, read by 6 * 9, on 8 x 8; conv2: 4 * 9 weights, read by 4 * 9 columns, on 6 x 6."""
    units = channel_units(channel_view(TinyNormedNet(), Budget()))
    assert [9 + 54 + 64] * 4 == memory(units, "conv1").tolist()
    assert [36 + 36 + 36] * 6 == memory(units, "conv2").tolist()


def test_a_step_shrinks_every_scale_by_its_share_of_the_memory() -> None:
    """The mean of c is (4 * 127 + 6 * 108) / 10 = 115.6; a threshold is lr lam c / 115.6."""
    model = TinyNormedNet()
    with torch.no_grad():
        model.norm1.weight.copy_(torch.tensor([1.0, -1.0, 0.001, 0.0]))
    method, view = ISTA(lam=0.5), channel_view(model, Budget())
    _, new = method.update(view, method.init(view, {}), Clock(1, 10, 5, lr=0.1))
    step = 0.1 * 0.5 * 127 / 115.6
    torch.testing.assert_close(torch.tensor([1 - step, step - 1, 0.0, 0.0]), new["norm1.weight"])
    torch.testing.assert_close(torch.full((6,), 1 - 0.1 * 0.5 * 108 / 115.6), new["norm2.weight"])
    assert {"norm1.weight", "norm2.weight"} == new.keys()


def test_iterating_reaches_the_minimum_of_the_penalised_loss() -> None:
    """f = 0.5 ||gamma - g||^2 with penalty lam_u |gamma|: the minimum is soft(g, lam_u), whatever the step."""
    model, goal = TinyNormedNet(), torch.tensor([1.0, 0.05, -0.4, 0.0])
    method, view = ISTA(lam=0.1), channel_view(model, Budget())
    state = method.init(view, {})
    for step in range(1, 201):
        with torch.no_grad():
            model.norm1.weight -= 0.1 * (model.norm1.weight - goal)
            model.norm1.weight.copy_(method.update(view, state, Clock(step, 200, 200, lr=0.1))[1]["norm1.weight"])
    torch.testing.assert_close(soft(goal, torch.tensor(0.1 * 127 / 115.6)), model.norm1.weight.detach())


def test_the_scales_of_a_coupled_channel_share_its_cost() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm_a = nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
            self.b, self.norm_b = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
            self.c, self.norm_c = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
            self.fc = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm_a(self.a(x)))
            x = torch.relu(x + self.norm_b(self.b(x)))
            return self.fc(torch.relu(self.norm_c(self.c(x))).mean((2, 3)))

    view = channel_view(Residual(), Budget())
    # a: 9 weights and a map of 64; b: 18 weights, a map of 64, 18 columns that read; c: 18 columns that read
    assert [9 + 64 + 18 + 64 + 18 + 18] * 2 == memory(channel_units(view), "a").tolist()
    assert [18 + 64 + 3] * 2 == memory(channel_units(view), "c").tolist()
    strengths = ISTA(lam=1.0).init(view, {}).tensors
    for name, shared in {"norm_a": 191 / 2, "norm_b": 191 / 2, "norm_c": 85}.items():
        assert strengths[f"strength/{name}.weight"].tolist() == pytest.approx([shared / 90.25] * 2)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="lam >= 0"):
        ISTA(lam=-1.0)
    with pytest.raises(UsageError, match="ista ranks channels by the scale"):
        ISTA().check_network(channel_view(TinyNet(), Budget()))
