"""One tiny network per operator: what the rules of normalisation, recurrence, resizing ... must get right."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.compaction.zoo import Body


class Sequence(nn.Module):
    """A layer over the positions of an image as a sequence (batch, 36, 8)."""

    def __init__(self, layer: nn.Module, *, width: int = 8) -> None:
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.flatten(2).transpose(1, 2))
        y = self.out(y[0] if isinstance(y, tuple) else y)
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


class LastState(nn.Module):
    """The last states of all layers and directions as channels of a 1 x 1 image."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.layer(x.flatten(2).transpose(1, 2))
        last = last[0] if isinstance(last, tuple) else last
        return last.transpose(0, 1).flatten(1)[:, :, None, None]


class OwnState(nn.Module):
    """Initial states of the LSTM: made in the code, trained, or from the input."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)
        self.kind = kind
        if kind == "trained":
            self.hidden, self.cell = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 1, 8))

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch = x.shape[0]
        if self.kind == "trained":
            return self.hidden.expand(1, batch, 8), self.cell.expand(1, batch, 8)
        if self.kind == "input":
            first = x[:, :1].mean((1, 2, 3))[None, :, None].expand(1, batch, 8)
            return first, first
        return (torch.zeros(1, batch, 8, dtype=x.dtype),) * 2

    def forward(self, x: Tensor) -> Tensor:
        hidden, cell = self.states(x)
        sequence, _ = self.lstm(x.flatten(2).transpose(1, 2), (hidden.contiguous(), cell.contiguous()))
        return self.out(sequence).transpose(1, 2).unflatten(2, x.shape[2:])


class Steps(nn.Module):
    """An LSTM cell and a GRU cell in a loop over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.out = nn.LSTMCell(8, 6), nn.GRUCell(6, 5), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        state, last, outs = None, None, []
        for row in x.mean(3).unbind(2):
            state = self.lstm(row, state)
            last = self.gru(state[0], last)
            outs.append(self.out(last))
        return torch.stack(outs, 2).unsqueeze(3)


class Unpool(nn.Module):
    """SegNet: the places of the largest elements are remembered."""

    def forward(self, x: Tensor) -> Tensor:
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(torch.relu(pooled), places, 2)


class Windows(nn.Module):
    """Unfold and fold: every channel comes up nine times, and the windows are added up again."""

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(x, 3, padding=1)
        return F.fold(torch.relu(windows), x.shape[2:], 3, padding=1)


def written_into_zeros(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y.copy_(x)
    return y + torch.empty_like(x).fill_(0.5)


def made_like(x: Tensor) -> Tensor:
    y = x * torch.full_like(x, 2) + x.new_ones(x.shape) + x.new_full((1,), 3)
    return y + torch.ones_like(x[:, :, :1, :1])


def other_names(x: Tensor) -> Tensor:
    y = torch.multiply(x, 2).absolute().subtract(x).divide(3)
    return torch.where(y > 0, y, 0.25) + F.logsigmoid(y) + torch.rsub(y, x)


def masked(x: Tensor) -> Tensor:
    x = x.masked_fill(x.detach() < -1, -1).clamp(min=x.mean((2, 3), keepdim=True))
    return torch.where(torch.ones(6, 6, dtype=torch.bool).tril(), x, x * 0.5)


def resized(x: Tensor) -> Tensor:
    small = F.interpolate(x, (4, 4), mode="bilinear", antialias=True) + F.adaptive_max_pool2d(x, 4)
    big = F.interpolate(small, (6, 6), mode="bicubic") + F.interpolate(x, (6, 6), mode="nearest-exact")
    return big + F.interpolate(x[:, :, None], (1, 6, 6), mode="trilinear")[:, :, 0]


OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "group-norm-1": lambda: Body(nn.GroupNorm(1, 8)),
    "group-norm-2": lambda: Body(nn.GroupNorm(2, 8)),
    "group-norm-4-plain": lambda: Body(nn.GroupNorm(4, 8, affine=False)),
    "group-norm-8": lambda: Body(nn.Sequential(nn.GroupNorm(8, 8), nn.ReLU())),
    "instance-norm": lambda: Body(nn.InstanceNorm2d(8)),
    "instance-norm-affine": lambda: Body(nn.InstanceNorm2d(8, affine=True)),
    "instance-norm-tracked": lambda: Body(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
    "rms-norm": lambda: Body(Sequence(nn.RMSNorm(8))),
    "local-response": lambda: Body(nn.LocalResponseNorm(3)),
    "transposed": lambda: Body(nn.ConvTranspose2d(8, 8, 2, 2)),
    "transposed-relu": lambda: Body(nn.Sequential(nn.Sigmoid(), nn.ConvTranspose2d(8, 8, 3, 2, 1, 1), nn.ReLU())),
    "transposed-pointwise": lambda: Body(nn.Sequential(nn.Sigmoid(), nn.ConvTranspose2d(8, 8, 1))),
    "transposed-depthwise": lambda: Body(nn.ConvTranspose2d(8, 8, 3, groups=8)),
    "transposed-wide-groups": lambda: Body(nn.ConvTranspose2d(8, 6, 3, groups=2), out=6),
    "glu": lambda: Body(nn.GLU(1), out=4),
    "lstm": lambda: Body(Sequence(nn.LSTM(8, 6, batch_first=True), width=6)),
    "lstm-2-both-ways": lambda: Body(
        Sequence(nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True), width=12)
    ),
    "lstm-projected": lambda: Body(Sequence(nn.LSTM(8, 6, proj_size=4, batch_first=True), width=4)),
    "lstm-last": lambda: Body(LastState(nn.LSTM(8, 6, bidirectional=True, batch_first=True)), out=12),
    "gru": lambda: Body(Sequence(nn.GRU(8, 6, batch_first=True), width=6)),
    "gru-no-bias": lambda: Body(Sequence(nn.GRU(8, 6, 2, bias=False, batch_first=True), width=6)),
    "gru-last": lambda: Body(LastState(nn.GRU(8, 6, 2, batch_first=True)), out=12),
    "cells": lambda: Body(Steps()),
    "rnn": lambda: Body(Sequence(nn.RNN(8, 6, batch_first=True, nonlinearity="relu"), width=6)),
    "lstm-zero-state": lambda: Body(OwnState("zero")),
    "lstm-trained-state": lambda: Body(OwnState("trained")),
    "lstm-given-state": lambda: Body(OwnState("input")),
    "made-like": lambda: Body(made_like),
    "written-into-zeros": lambda: Body(written_into_zeros),
    "other-names": lambda: Body(other_names),
    "masked": lambda: Body(masked),
    "resized": lambda: Body(resized),
    "unpool": lambda: Body(Unpool()),
    "windows": lambda: Body(Windows()),
    "unfold-linear": lambda: Body(lambda x: F.unfold(x, 3, padding=1).reshape(x.shape[0], 72, 6, 6), out=72),
    "pixel-shuffle": lambda: Body(nn.PixelShuffle(2), out=2),
    "pixel-unshuffle": lambda: Body(nn.PixelUnshuffle(2), out=32),
    "channel-shuffle": lambda: Body(nn.ChannelShuffle(2)),
    "repeat-interleave": lambda: Body(lambda x: x.repeat_interleave(2, 1), out=16),
    "sliding": lambda: Body(lambda x: x.unfold(2, 3, 1).mean(-1)),
    "largest": lambda: Body(lambda x: x * x.max(2, keepdim=True)[0] + x.topk(1, 3)[0]),
    "any-within-border": lambda: Body(lambda x: (F.pad(x, (1, 1)) > 0.5).any(3, keepdim=True).to(x.dtype)),
    "order-of-channels": lambda: Body(lambda x: x.sort(1)[0] + x.argmax(1, keepdim=True)),
    "scattered": lambda: Body(lambda x: x.scatter(1, torch.zeros(2, 1, 6, 6, dtype=torch.int64)[: x.shape[0]], 1.0)),
    "sampled": lambda: Body(lambda x: F.grid_sample(x, x.new_zeros(x.shape[0], 4, 4, 2), align_corners=False)),
}
