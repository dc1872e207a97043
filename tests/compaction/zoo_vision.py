"""Stand-ins for vision networks in the styles of torchvision, timm and others: small, with their structures."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.compaction.zoo_transformers import DropPath, LayerScale, Mlp, image


class WindowAttention(nn.Module):
    """Swin: attention in windows with a learned bias for every relative position."""

    def __init__(self, width: int = 8, heads: int = 2, window: int = 2) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None]).permute(1, 2, 0) + window - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(N, N, -1)
        attn = (q * self.scale) @ k.transpose(-2, -1) + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            attn = attn.view(B // mask.shape[0], mask.shape[0], self.num_heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        return self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C))


def windows(x: Tensor) -> Tensor:
    B, H, W, C = x.shape
    return x.view(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, C)


class Swin(nn.Module):
    """Shifted windows with a mask, then a merge of four patches into one."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, width, 2, 2), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp, self.drop_path = WindowAttention(width), Mlp(width, 16), DropPath()
        regions = torch.zeros(1, 4, 4, 1)
        regions[:, 2:3] += 1
        regions[:, 3:] += 2
        parts = windows(regions + 3 * regions.transpose(1, 2)).squeeze(-1)
        self.register_buffer("mask", (parts[:, None] - parts[:, :, None] != 0) * -100.0, persistent=False)
        self.merge_norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        B, H, W, C = x.shape
        moved = torch.roll(self.norm1(x), shifts=(-1, -1), dims=(1, 2))
        mixed = self.attn(windows(moved), self.mask)
        mixed = mixed.view(B, H // 2, W // 2, 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
        x = x + self.drop_path(torch.roll(mixed, shifts=(1, 1), dims=(1, 2)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.reduction(self.merge_norm(x)).mean((1, 2)))


class Mixer(nn.Module):
    """MLP-Mixer: one layer over positions, one over channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, 2)
        self.norm1, self.tokens = nn.LayerNorm(width), Mlp(16, 12)
        self.norm2, self.channels = nn.LayerNorm(width), Mlp(width, 16)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm(x).mean(1))


class ConvNeXt(nn.Module):
    """Depthwise, normalisation of the channels of each pixel, an inverted bottleneck with layer scale."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, width, 2, 2), nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.mlp, self.scale = nn.LayerNorm(width), Mlp(width, 16), LayerScale(width)
        self.drop_path, self.head = DropPath(), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.scale(self.mlp(self.norm(self.dw(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.head((x + self.drop_path(y)).mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and the two joined."""

    def __init__(self) -> None:
        super().__init__()

        def double(inputs: int, width: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            )  # fmt: skip

        self.first, self.second, self.down = double(3, 6), double(6, 8), nn.MaxPool2d(2)
        self.up, self.third, self.head = nn.ConvTranspose2d(8, 6, 2, 2), double(12, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        y = self.up(self.second(self.down(skip)))
        return self.head(self.third(torch.cat([skip, y], dim=1)))


class Pyramid(nn.Module):
    """Feature pyramid: maps of three sizes meet, and all of them are results."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(i, o, 3, 2, 1) for i, o in ((3, 6), (6, 8), (8, 10))])
        self.inner = nn.ModuleList([nn.Conv2d(i, 6, 1) for i in (6, 8, 10)])
        self.outer = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1) for _ in range(3)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for stage in self.stages:
            x = F.relu(stage(x))
            maps.append(x)
        last = self.inner[2](maps[2])
        result = {"p2": self.outer[2](last)}
        for level in (1, 0):
            last = self.inner[level](maps[level]) + F.interpolate(last, size=maps[level].shape[-2:], mode="nearest")
            result[f"p{level}"] = self.outer[level](last)
        return result


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: half of the channels pass by, the halves are shuffled."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        half = width // 2
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
        )  # fmt: skip
        self.last, self.head = nn.Conv2d(width, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        return self.head(F.relu(self.last(x)).mean([2, 3]))


class StdConv2d(nn.Conv2d):
    """Weight standardisation, as timm computes it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class BiT(nn.Module):
    """A residual block with standardised weights and group normalisation, and a plain layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.norm2 = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(4, 8), nn.GroupNorm(2, 8)
        self.conv1, self.conv2 = StdConv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.hidden, self.norm3, self.head = nn.Conv2d(8, 10, 1), nn.GroupNorm(5, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return self.head(F.relu(self.norm3(self.hidden(x))).mean((2, 3)))


class Absolute(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


class Parametrised(nn.Module):
    """Weights that are functions of other parameters, and plain layers after them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.conv = parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1))
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.first = nn.Conv2d(6, 6, 1)
        parametrize.register_parametrization(self.first, "weight", Absolute())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.first(self.stem(x)))))
        return self.head(F.relu(self.hidden(x.mean((2, 3)))))


class EfficientBlock(nn.Module):
    """Squeeze and excite as timm writes it, with a residual that stochastic depth drops in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.expand, self.bn1 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.dw, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.reduce, self.restore = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.bn3 = nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.drop_path, self.head = DropPath(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn0(self.stem(x)), inplace=True)
        y = F.silu(self.bn2(self.dw(F.silu(self.bn1(self.expand(x))))))
        y = y * torch.sigmoid(self.restore(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.drop_path(self.bn3(self.project(y)))).mean((2, 3)))


class Crnn(nn.Module):
    """Text recognition: convolutions, then a recurrent layer over the columns of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.lstm = nn.LSTM(6 * 4, 5, num_layers=2, bidirectional=True, dropout=0.1, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        sequence, _ = self.lstm(x.permute(0, 3, 1, 2).flatten(2))
        return self.head(sequence).log_softmax(-1)


class Generator(nn.Module):
    """Style transfer: instance normalisation, reflection, transposed convolution, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3, 2), nn.InstanceNorm2d(8), nn.LeakyReLU(0.2, inplace=True)
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(True),
            nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


VISION: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "swin": (Swin, image),
    "mixer": (Mixer, image),
    "convnext": (ConvNeXt, image),
    "unet": (UNet, image),
    "pyramid": (Pyramid, image),
    "shufflenet": (ShuffleUnit, image),
    "bit": (BiT, image),
    "parametrised": (Parametrised, image),
    "efficientnet": (EfficientBlock, image),
    "crnn": (Crnn, image),
    "generator": (Generator, image),
}
