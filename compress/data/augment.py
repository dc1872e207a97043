"""Augmentation of a whole batch at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from compress.errors import UsageError

Augmentation = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Augment:
    """Random shift and mirror of each image; both off by default.

    Attributes:
        shift: pixels; the image is padded by as many zeros on every side and cropped at a random place.
        flip: mirror left and right with probability one half.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise UsageError(f"augmentation shift must be 0 or more pixels, got {self.shift}")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """Augment a batch (N, C, H, W) of any dtype; the drawn numbers come from the generator alone."""
        if self.shift:
            x = _shifted(x, self.shift, generator)
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
            x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
        return x


@dataclass(frozen=True)
class Chain:
    """Two augmentations, one after the other."""

    first: Augmentation
    second: Augmentation

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """Apply both."""
        return self.second(self.first(x, generator), generator)


def _shifted(x: Tensor, shift: int, generator: Generator) -> Tensor:
    n, _, height, width = x.shape
    top, left = torch.randint(
        2 * shift + 1, (2, n), generator=generator, device=generator.device, dtype=torch.int64
    ).to(x.device)
    # all crops of each padded image as a view (N, C, 2s+1, 2s+1, H, W); the index copies one of each
    crops = F.pad(x, (shift, shift, shift, shift)).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(n, device=x.device), :, top, left]
