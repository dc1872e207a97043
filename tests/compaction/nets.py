"""Small networks with the structures of the big ones, and the ways of putting zeros into them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    def __init__(self, *, written_size: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(8 * 2 * 2, 20)
        self.fc2 = nn.Linear(20, 10)
        self.written_size = written_size

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 32) if self.written_size else x.view(x.size(0), -1)
        return self.fc2(F.relu(self.fc1(x)))


class MLP(nn.Module):
    """LeNet-300-100 in small."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 12), nn.Linear(12, 8), nn.Linear(8, 4)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.fc1(x.flatten(1)))
        return self.fc3(self.activation(self.fc2(x)))


class BasicBlock(nn.Module):
    """CIFAR residual block; the shortcut pads channels with zeros (option A)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pad = 0 if stride == 1 else width // 4

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad), "constant", 0)
        return F.relu(out + x)


class ResNetA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(
            BasicBlock(8, 8, 1), BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 16, 1)
        )
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class VGG(nn.Module):
    """Convolution, batch normalisation with nonzero constants, padding, pooling, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(12 * 4, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class AlexNet(nn.Module):
    """Two wide groups, adaptive pooling, dropout before the first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(True), nn.MaxPool2d(2, 1),
            nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.ReLU(True),
            nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(True),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.fc2(gate))


class MobileNet(nn.Module):
    """Inverted residuals: expand, depthwise, squeeze and excite, project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(6, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            SqueezeExcite(16),
            nn.Conv2d(16, 6, 1, bias=False), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


class DenseNet(nn.Module):
    """Normalisation before convolution, features concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(10), nn.BatchNorm2d(14)])
        self.convs = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 1)])
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(F.relu(self.norms[2](x)), 4)
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """Chunk and split: two halves of the channels meet again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, 1)
        x = self.b(left * torch.sigmoid(right))
        first, second = torch.split(x, x.shape[1] // 2, 1)
        return self.head(torch.cat([second, first], 1).amax((2, 3)))


IMAGE = (3, 8, 8)
REFERENCE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (LeNet5, (1, 16, 16)),
    "lenet5-written": (lambda: LeNet5(written_size=True), (1, 16, 16)),
    "mlp": (MLP, (1, 4, 4)),
    "mlp-sigmoid": (lambda: MLP(torch.sigmoid), (1, 4, 4)),
    "resnet-a": (ResNetA, IMAGE),
    "vgg": (VGG, IMAGE),
    "alexnet": (AlexNet, (3, 12, 12)),
    "mobilenet": (MobileNet, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "gated": (Gated, IMAGE),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A reference network with normalisation statistics as after training, and an example input."""
    factory, shape = REFERENCE[name]
    return prepared(factory, seed), example(shape)


def prepared(factory: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.weight, 0.5), (module.bias, -0.5)):
                    if tensor is not None:
                        nn.init.uniform_(tensor, low, low + 1)
                for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                    if tensor is not None:
                        nn.init.uniform_(tensor, low, low + 1)
    return model.eval()


def example(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(7))


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]


@torch.no_grad()
def zero_rows(model: nn.Module, share: float, seed: int, *, bias: bool = False) -> None:
    """Zero whole filters of all layers but the last: their output is a constant, not always 0."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers(model)[:-1]:
        dead = torch.rand(layer.weight.shape[0], generator=generator) < share
        layer.weight[dead] = 0
        if bias and layer.bias is not None:
            layer.bias[dead] = 0


@torch.no_grad()
def zero_weights(model: nn.Module, share: float, seed: int) -> None:
    """Zero single weights at random; the last layer keeps half of what the others lose."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers(model):
        part = share / 2 if layer is layers(model)[-1] else share
        layer.weight[torch.rand(layer.weight.shape, generator=generator) < part] = 0


@torch.no_grad()
def zero_norms(model: nn.Module, share: float, seed: int) -> None:
    """Zero normalisation weights (gamma), leaving their biases: constants of any input."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.weight[torch.rand(module.weight.shape, generator=generator) < share] = 0
