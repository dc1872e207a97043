"""CIFAR ResNets with option-A shortcuts, under the module names that public weights use."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from compress_models.errors import SpecError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an option-A shortcut: every second pixel, new channels zero, no weights."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        new = channels - in_channels
        self.before, self.after = new // 2, new - new // 2

    def forward(self, x: Tensor) -> Tensor:
        """Give relu(shortcut(x) + residual(x))."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.before + self.after > 0:
            x = F.pad(x, (0, 0, 0, 0, self.before, self.after))
        return F.relu(x + residual)


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for 32x32 images: widths 16, 32, 64, n blocks each, global average, linear.

    He et al., Deep residual learning for image recognition, 2016, arXiv:1512.03385, section 4.2.

    Args:
        depth: 6n + 2, for example 20 or 56.
        num_classes: outputs.
        in_channels: channels of the image; any image size will do.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise SpecError(f"a CIFAR ResNet has depth 6n + 2, got {depth}; for example 20, 32, 44, 56, 110")
        blocks = depth // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, shape (batch, num_classes), of images, shape (batch, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


resnet20 = partial(CifarResNet, 20)
resnet32 = partial(CifarResNet, 32)
resnet44 = partial(CifarResNet, 44)
resnet56 = partial(CifarResNet, 56)
resnet110 = partial(CifarResNet, 110)
