"""What a data set is: its parts, its preprocessing, and how it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from compress.data.augment import Augmentation
from compress.errors import UsageError

Batch = tuple[Tensor, Tensor]
Raw = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Split(ABC):
    """One part of a data set."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, size: int, *, generator: Generator | None = None, augment: bool = False) -> Iterator[Batch]:
        """Give the part once, in batches (the last may be smaller), on its device.

        Args:
            size: images per batch.
            generator: shuffles, and draws the augmentation; without it the order is the stored one.  Equal
                generator states give equal batches.
            augment: apply the data set's augmentation; needs a generator.

        Yields:
            x: float32, normalised, contiguous, shape (n, C, H, W).
            y: int64 class indices, shape (n,); another kind only where the data set brings its own loss.

        Raises:
            ValueError: a size below 1, or augmentation without a generator.
        """

    @abstractmethod
    def raw(self, start: int, stop: int) -> Raw | None:
        """Give images start to stop as stored: uint8 (n, H, W, C), and labels; None if they are not 8-bit."""


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Attributes:
        name: what it was asked for.
        classes: class names in index order; empty where a user's own loss and metric make it unknown.
        input_shape: (C, H, W) of one input.
        mean: per channel, for inputs in 0..1.
        std: per channel, for inputs in 0..1.
        train: the part that is trained on.
        held_out: the part of the training set that selection reads.
        test: read for reporting only.
        fingerprint: SHA-256 of the content or, for streamed files, of their identity.
        loss: f(outputs, y) -> scalar; None is cross-entropy.
        metric: f(outputs, y) -> one score per image, higher is better, averaged over a part; None is top-1.
        shorter_side: length that an image's shorter side was resized to before its middle was cut out; None where
            images were not cut.
    """

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    held_out: Split
    test: Split
    fingerprint: str
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    metric: Callable[[Tensor, Tensor], Tensor] | None = None
    shorter_side: int | None = None


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        workers: processes that read streamed images; 0 reads in this one.
        image_size: height and width that ``imagefolder`` crops to.
        mean: per channel in 0..1, instead of the data set's own.
        std: per channel in 0..1, instead of the data set's own.
    """

    workers: int = 0
    image_size: int = 224
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Request:
    """All that a data set is asked for; ``load`` documents the fields."""

    name: str
    root: Path
    held_out: int | float
    seed: int
    device: torch.device
    augment: Augmentation
    reading: Reading


def normalisation(
    request: Request, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Choose mean and std, the request's own first, one number for all channels or one for each, and check them.

    Raises:
        UsageError: another count of values, or a std that is not positive.
    """
    mean = tuple(float(v) for v in (request.reading.mean or mean))
    std = tuple(float(v) for v in (request.reading.std or std))
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    if not (len(mean) == len(std) == channels):
        raise UsageError(
            f"data {request.name}: mean and std need one value for each of {channels} channels, "
            f"got {len(mean)} and {len(std)}"
        )
    if not all(np.isfinite(mean)) or not all(0 < s < float("inf") for s in std):
        raise UsageError(f"data {request.name}: mean must be finite and std above 0, got {mean} and {std}")
    return mean, std


def drawn_apart(count: int, held_out: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw which of the training images are held out.

    Args:
        count: training images.
        held_out: how many (int) or which fraction of them (float below 1), rounded.
        seed: of the draw; it does not depend on anything else.

    Returns:
        Indices to train on and indices held out, each ascending; disjoint, and together all.

    Raises:
        UsageError: the number is negative or leaves nothing to train on.

    >>> train, held_out = drawn_apart(10, 0.3, seed=0)
    >>> len(train), len(held_out)
    (7, 3)
    """
    if isinstance(held_out, float) and not 0 <= held_out < 1:
        raise UsageError(f"held-out fraction must be in [0, 1), got {held_out}; a count is a whole number")
    taken = round(held_out * count) if isinstance(held_out, float) else held_out
    if not 0 <= taken < count:
        raise UsageError(f"held-out {held_out} of {count} training images leaves nothing to train on")
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    return order[taken:].sort().values, order[:taken].sort().values


def check_batches(size: int, generator: Generator | None, augment: bool) -> None:
    """Refuse what no part can do.

    Raises:
        ValueError: a size below 1, or augmentation without a generator.
    """
    if size < 1:
        raise ValueError(f"batch size must be 1 or more, got {size}")
    if augment and generator is None:
        raise ValueError("augmentation draws random numbers: pass a generator")


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale images to (x / 255 - mean) / std, or floats, which are not divided by 255, to (x - mean) / std.

    Args:
        x: shape (N, C, H, W); left as it is.
        mean: per channel.
        std: per channel.

    Returns:
        A new contiguous float32 tensor.
    """
    full = 255.0 if x.dtype == torch.uint8 else 1.0
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (full * s) for s in std], device=x.device).view(shape)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=x.device).view(shape)
    out = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return out.mul_(scale).add_(offset)
