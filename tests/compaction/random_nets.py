"""Networks drawn at random: a stem, a few blocks of different kinds, a head."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.norm(self.conv1(x)))))


class Concat(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.grow, self.back = nn.Conv2d(width, 4, 1), nn.Conv2d(width + 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(torch.cat([x, torch.sigmoid(self.grow(x))], 1))


class Depthwise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width)
        self.point = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(F.hardswish(self.norm(self.deep(x))))


class Grouped(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(x))


class Split(nn.Module):
    """Uneven pieces, one of them untouched."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = width // 2 - 1
        self.conv = nn.Conv2d(self.first, self.first, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, [self.first, x.shape[1] - self.first], 1)
        return torch.cat([right, F.relu(self.conv(left))], 1)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, 1)
        return value * torch.tanh(gate)


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 3), nn.Linear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(x.mean((2, 3)))))
        return x * torch.sigmoid(gate)[:, :, None, None]


class Attention(nn.Module):
    """Two heads over positions, with the reshape written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(n, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(n, h * w, c)
        return x + self.out(mixed).transpose(1, 2).reshape(n, c, h, w)


BLOCKS: dict[str, type[nn.Module]] = {
    "residual": Residual, "concat": Concat, "depthwise": Depthwise, "grouped": Grouped, "split": Split, "gate": Gate,
    "squeeze": Squeeze, "attention": Attention,
}  # fmt: skip


class RandomNet(nn.Module):
    def __init__(self, blocks: Sequence[str], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Shuffle() if name == "shuffle" else BLOCKS[name](width) for name in blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).amax((2, 3)))


def networks() -> st.SearchStrategy[tuple[list[str], int]]:
    """Blocks and width of a random network."""
    return st.tuples(
        st.lists(st.sampled_from([*sorted(BLOCKS), "shuffle"]), min_size=1, max_size=4), st.sampled_from([8, 12])
    )
