import itertools

import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.channels import channel_units
from compress.errors import UsageError
from compress.masks import burn
from compress.method import State
from compress.methods.thinet import ThiNet, contributions, draw, least_squares, removal_order
from tests.support import channel_view, tiny_task

SEEDS = pytest.mark.parametrize("seed", range(5))


def shares(seed: int, channels: int = 6) -> Tensor:
    """Contributions of correlated channels to 40 outputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator)
    return torch.randn(40, channels, generator=generator, dtype=torch.float64) @ mix.double()


@SEEDS
def test_the_first_channel_to_go_is_the_best_single_one(seed: int) -> None:
    x = shares(seed)
    best = min(range(6), key=lambda j: float(x[:, j].square().sum()))
    assert best == int(removal_order(x.T @ x)[0])


@SEEDS
def test_every_further_channel_is_the_best_given_those_before(seed: int) -> None:
    x = shares(seed)
    order = removal_order(x.T @ x).tolist()
    assert sorted(order) == list(range(6))
    for count in range(1, 6):
        gone, rest = order[:count], order[count:]
        assert rest[0] == min(rest, key=lambda j: float(x[:, [*gone, j]].sum(1).square().sum()))


def test_channels_that_cancel_go_together() -> None:
    """x = (1, 1.1, -1.1, 3): after the 1 the -1.1 leaves the least, then 1.1; the large one stays."""
    x = torch.tensor([[1.0, 1.1, -1.1, 3.0]], dtype=torch.float64)
    assert [0, 2, 1, 3] == removal_order(x.T @ x).tolist()
    best = min(itertools.combinations(range(4), 3), key=lambda t: float(x[:, list(t)].sum().square()))
    assert {0, 1, 2} == set(best)


@SEEDS
def test_scales_are_those_of_least_squares(seed: int) -> None:
    x, kept = shares(seed), torch.tensor([True, False, True, True, False, True])
    expected = torch.linalg.lstsq(x[:, kept], x.sum(1)).solution
    found = least_squares(x.T @ x, kept)
    torch.testing.assert_close(expected, found[kept])
    assert [1.0, 1.0] == found[~kept].tolist()


def test_what_the_samples_leave_open_is_not_rescaled() -> None:
    x = torch.tensor([[1.0, 0.0, 1.0], [2.0, 0.0, 2.0]], dtype=torch.float64)
    assert [2.0, 1.0, 1.0] == pytest.approx(least_squares(x.T @ x, torch.tensor([True, True, False])).tolist())


def test_contributions_add_up_to_the_outputs() -> None:
    """Of a convolution and of a linear layer that reads nine flattened columns per channel."""
    task = tiny_task()
    model, view = task.model, channel_view(task.model, Budget(), task=task)
    batch = next(view.probe.batches(1, 8))
    windows = view.probe.windows(view.values, ("conv2", "fc"), batch)
    for block, layer in {"conv1": "conv2", "conv2": "fc"}.items():
        (slot,) = [s for s in channel_units(view).layers[block] if s.name == f"{layer}.weight"]
        weight = model.get_parameter(slot.name)
        with torch.no_grad():
            drawn = draw(windows[layer], weight, 7, torch.Generator().manual_seed(0))
            found = contributions(*drawn, slot, view.units.blocks[block])
            outputs = (drawn[0] * drawn[1]).flatten(1).sum(1).double()
        assert (56, view.units.blocks[block]) == found.shape
        torch.testing.assert_close(outputs, found.sum(1), rtol=1e-4, atol=1e-5)  # float32 sums in another order


class Twins(nn.Module):
    """Two channels that see the same; what reads the second is half of what reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(2 * 36, 4)
        with torch.no_grad():
            self.conv.weight[1], self.conv.bias[1] = self.conv.weight[0], self.conv.bias[0]  # type: ignore[index]
            self.fc.weight[:, 36:] = 0.5 * self.fc.weight[:, :36]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


def test_a_channel_that_repeats_another_goes_without_a_trace() -> None:
    task = tiny_task(network=Twins)
    view = channel_view(task.model, Budget(keep={"conv": 1}), task=task)
    with torch.no_grad():
        outcome = ThiNet(images=32).finish(view, State())
        assert [True, False] == outcome.masks["conv.bias"].tolist()
        assert outcome.values is not None
        torch.testing.assert_close(1.5 * task.model.fc.weight[:, :36], outcome.values["fc.weight"][:, :36])
        after = burn({**view.values, **outcome.values}, outcome.masks)
        batch = next(view.probe.batches(1, 16))
        # float32 sums in another order
        torch.testing.assert_close(
            view.probe.loss(view.values, batch), view.probe.loss(after, batch), rtol=1e-4, atol=0
        )


def test_a_global_budget_takes_the_same_fraction_of_every_layer() -> None:
    """Of 4 * 9 + 6 * 36 + 4 * 54 = 468 weights half is 234 = 2 * 9 + 4 * 18 + 4 * 36: 2 of 4 channels and 4 of 6."""
    task = tiny_task()
    view = channel_view(task.model, Budget(sparsity=0.5), task=task)
    with torch.no_grad():
        masks = ThiNet(images=32).finish(view, State()).masks
    assert (2, 4) == (int(masks["conv1.bias"].sum()), int(masks["conv2.bias"].sum()))


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="locations >= 1"):
        ThiNet(locations=0)
