"""Small pieces that several tests build on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress import cost
from compress.budget import Budget
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups
from compress.data import Augment, Data, TensorSplit
from compress.masks import Values
from compress.method import View
from compress.probe import TaskProbe
from compress.rounds import scales
from compress.train import Task, to_device
from compress.units import ElementUnits
from compress.validate import Accuracy


def element_units(values: Values, positions: int = 1) -> ElementUnits:
    """Element units over all given tensors, every weight used at ``positions`` places."""
    total = sum(value.numel() for value in values.values())
    shapes = {name: value.shape for name, value in values.items()}
    return ElementUnits(shapes, dict.fromkeys(values, positions), total, total * positions)


@dataclass(frozen=True)
class FunctionProbe:
    """A probe of a plain function of the parameters: ``outputs(values, inputs)`` with squared error."""

    outputs: Callable[[Values, Tensor], Tensor] = lambda values, inputs: inputs
    data: tuple[tuple[Tensor, Tensor], ...] = ()

    def batches(self, count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(x[:size], y[:size]) for x, y in self.data[:count]])

    def loss(self, values: Values, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * (self.outputs(values, batch[0]) - batch[1]).square().sum() / len(batch[1])

    def grads(self, values: Values, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(self.loss(leaves, batch), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def per_sample_grads(self, values: Values, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        each = [self.grads(values, (x[None], y[None])) for x, y in zip(*batch, strict=True)]
        return {name: torch.stack([grads[name] for grads in each]) for name in values}

    def inputs(self, values: Values, layers: tuple[str, ...], batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(layers, batch[0])

    def windows(self, values: Values, layers: tuple[str, ...], batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return self.inputs(values, layers, batch)

    def accuracy(self, values: Values) -> float:
        return -float(self.loss(values, self.data[0]))


def view_of(
    values: Values,
    budget: Budget,
    relax: Callable[[float], float] = lambda kept: kept,
    probe: FunctionProbe = FunctionProbe(),
) -> View:
    """A view in which every tensor is prunable."""
    return View(values, tuple(values), element_units(values), budget, {}, relax, probe)


class TinyNet(nn.Module):
    """Two convolutions and a linear layer on 1x8x8 images, 4 classes."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.fc = nn.Linear(6 * 9, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


class TinyNormedNet(nn.Module):
    """TinyNet with batch normalisation after the convolutions."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 9, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


def tiny_data(count: int = 64, seed: int = 0) -> Data:
    """Learnable 1x8x8 images of 4 classes: a bright quadrant tells the class."""
    generator = torch.Generator().manual_seed(seed)

    def split(size: int) -> TensorSplit:
        labels = torch.randint(4, (size,), generator=generator)
        images = torch.randint(0, 120, (size, 1, 8, 8), generator=generator, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[:, row : row + 4, column : column + 4] += 120
        return TensorSplit(images, labels, (0.4,), (0.3,), Augment())

    classes = ("a", "b", "c", "d")
    return Data("tiny", classes, (1, 8, 8), (0.4,), (0.3,), split(count), split(32), split(32), f"tiny{seed}")


def tiny_task(seed: int = 0, autocast: torch.dtype | None = None, network: Callable[[], nn.Module] = TinyNet) -> Task:
    """A small network on the tiny data, on the CPU."""
    torch.manual_seed(seed)
    device = torch.device("cpu")
    return Task(to_device(network(), device), tiny_data(), device, autocast, seed)


def channel_view(
    model: nn.Module, budget: Budget, shape: tuple[int, ...] = (1, 8, 8), task: Task | None = None
) -> View:
    """What a channel method sees of a network: its layers in forward order, its scales, and a task's probe."""
    values, positions = dict(model.named_parameters()), cost.positions(model, shape)
    groups = channel_groups(model, torch.randn(2, *shape))
    units = ChannelUnits.of(groups, values, positions, cost.weight_count(model), cost.macs(model, shape))
    probe = TaskProbe(task) if task else FunctionProbe()
    return View(values, cost.execution_order(model, shape), units, budget, {}, lambda kept: kept, probe, scales(model))


def scored(*scores: float) -> Callable[..., Accuracy]:
    """A measurement of accuracy that finds these, one after another."""
    left = iter(scores)
    return lambda *given, **known: Accuracy(next(left), None, 100, None, None)
