"""One tiny network per trap: what a rule could get wrong."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Body(nn.Module):
    """convolution -> something in the middle -> convolution -> mean -> linear."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int = 8, *, out: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3)
        self.middle = middle
        self.conv2 = nn.Conv2d(out or width, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.middle(self.conv1(x)))
        return self.head(F.relu(x).mean((2, 3)))


def writes_into_view(x: Tensor) -> Tensor:
    x = x * 1.0
    x[:, :4].mul_(2)
    return x


def writes_into_base(x: Tensor) -> Tensor:
    x = x * 1.0
    part = x[:, :, 1:]
    x.add_(1)
    return x + F.pad(part, (0, 0, 1, 0))


def in_place_residual(x: Tensor) -> Tensor:
    y = x * 0.5
    y += x
    return y.relu_() + y


class SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(pooled))


class MapAttention(nn.Module):
    """A map of one channel without a reduction over channels before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class Shared(nn.Module):
    """One convolution called twice, a constant in between."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.sigmoid(self.conv(F.relu(x))))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)))


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8).reshape(8, 1, 1))
        self.register_buffer("shift", torch.linspace(-1, 1, 8).reshape(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x * self.scale + self.shift)


class UnsavedBuffer(nn.Module):
    """A state dict would not bring this buffer back, so it must keep its length."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.linspace(-1, 1, 8).reshape(1, 8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.shift)


class ConstantInCode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(1, 8, 1, 1, dtype=x.dtype) * 0.5


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(x))


class FunctionalWeight(nn.Module):
    """A weight outside of any layer class: it can be cut, but there is no place for a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.sigmoid(x), self.weight)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return mixed.transpose(1, 2).reshape(x.shape)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        sequence, _ = self.lstm(x.flatten(2).transpose(1, 2))
        return sequence.transpose(1, 2).reshape(x.shape)


class PixelNorm(nn.Module):
    """LayerNorm over channels: a missing channel changes the others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Depthwise(nn.Module):
    """Two outputs per input channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(x)))


class Bottleneck(nn.Module):
    """Four groups of two channels: whole groups go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(x)))


class Norm(nn.Module):
    """Normalisation without parameters, or with the statistics of the batch."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, **options)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x))


class Shuffle(nn.Module):
    """Channel shuffle: the channels are split over two axes."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "writes-into-view": lambda: Body(writes_into_view),
    "writes-into-base": lambda: Body(writes_into_base),
    "in-place-residual": lambda: Body(in_place_residual),
    "x-softmax-x": lambda: Body(lambda x: x * x.softmax(1)),
    "softmax-space": lambda: Body(lambda x: x * x.flatten(2).softmax(-1).view_as(x)),
    "prelu": lambda: Body(nn.PReLU(8)),
    "prelu-width-is-height": lambda: Body(nn.PReLU(6), width=6),
    "prelu-one": lambda: Body(nn.PReLU()),
    "spatial-attention": lambda: Body(SpatialAttention()),
    "map-attention": lambda: Body(MapAttention()),
    "shared": lambda: Body(Shared()),
    "shared-no-bias": lambda: Body(Shared(bias=False)),
    "tied": lambda: Body(Tied()),
    "layer-scale": lambda: Body(LayerScale()),
    "unsaved-buffer": lambda: Body(UnsavedBuffer()),
    "constant-in-code": lambda: Body(ConstantInCode()),
    "weight-norm": lambda: Body(WeightNorm()),
    "functional-weight": lambda: Body(FunctionalWeight()),
    "attention": lambda: Body(Attention()),
    "recurrent": lambda: Body(Recurrent()),
    "layer-norm": lambda: Body(PixelNorm()),
    "group-norm": lambda: Body(nn.GroupNorm(2, 8)),
    "depthwise": lambda: Body(Depthwise(), out=16),
    "grouped": lambda: Body(Bottleneck()),
    "norm-plain": lambda: Body(Norm(affine=False)),
    "norm-batch": lambda: Body(Norm(track_running_stats=False)),
    "shuffle": lambda: Body(Shuffle()),
    "reflect": lambda: Body(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"))),
    "zero-pad": lambda: Body(nn.Sequential(nn.Sigmoid(), nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3))),
    "average-border": lambda: Body(nn.AvgPool2d(3, 1, padding=1)),
    "upsample": lambda: Body(nn.Upsample(scale_factor=2, mode="bilinear")),
    "scalars": lambda: Body(lambda x: torch.where(x > 0, 1 - x, x.clamp(min=-1) / 3 + 2)),
    "outer-sum": lambda: Body(lambda x: x.mean(2).unsqueeze(3) + x.mean(3).unsqueeze(2)),
    "cat-signs": lambda: Body(lambda x: torch.cat([x, -x], 1).relu(), out=16),
    "concat-self": lambda: Body(lambda x: torch.cat([x.relu(), torch.sigmoid(x)], 1), out=16),
    "slice": lambda: Body(lambda x: x[:, 2:], out=6),
    "roll": lambda: Body(lambda x: x.roll(1, 1)),
    "flip": lambda: Body(lambda x: x.flip(1)),
    "unbind-stack": lambda: Body(lambda x: torch.stack(x.unbind(2), 3)),
    "cumsum": lambda: Body(lambda x: x.cumsum(1)),
    "same-padding": lambda: Body(nn.Sequential(nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding="same", bias=False))),
}
