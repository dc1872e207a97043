"""Parts that fit in memory: images stay as one tensor on the device."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Generator, Tensor

from compress.data.augment import Augmentation
from compress.data.base import (
    Batch,
    Data,
    Raw,
    Request,
    Split,
    check_batches,
    drawn_apart,
    normalisation,
    normalised,
)

Labelled = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8 or float32, labels (N, ...)


@dataclass(frozen=True, eq=False)
class TensorSplit(Split):
    """Images (N, C, H, W), uint8 or float32, and labels, both on the device that batches come from."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, *, generator: Generator | None = None, augment: bool = False) -> Iterator[Batch]:
        """Give the part once, in batches."""
        check_batches(size, generator, augment)
        order = None
        if generator is not None:
            order = torch.randperm(len(self), generator=generator, device=generator.device)
            order = order.to(self.images.device)
        for start in range(0, len(self), size):
            rows = slice(start, start + size) if order is None else order[start : start + size]
            x = self.images[rows]
            if augment and generator is not None:
                x = self.augmentation(x, generator)
            yield normalised(x, self.mean, self.std), self.labels[rows].clone()

    def raw(self, start: int, stop: int) -> Raw | None:
        """Give images start to stop as stored."""
        if self.images.dtype != torch.uint8:
            return None
        images = self.images[start:stop].permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(images), self.labels[start:stop].cpu().numpy().astype(np.int64)


@dataclass(frozen=True, eq=False)
class Arrays:
    """A whole data set in memory, before it is cut into parts."""

    train: Labelled
    test: Labelled
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    held_out: Labelled | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    metric: Callable[[Tensor, Tensor], Tensor] | None = None


def content_hash(parts: Mapping[str, Labelled]) -> str:
    """SHA-256 of all images and labels, with their types and shapes."""
    digest = sha256()
    for key, labelled in parts.items():
        for tensor in labelled:
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def from_arrays(arrays: Arrays, request: Request) -> Data:
    """Cut the held-out part out of the training set (unless it brings one) and put everything on the device.

    Raises:
        UsageError: the held-out size or the normalisation does not fit.
    """
    train, held_out = arrays.train, arrays.held_out
    if held_out is None:
        kept, taken = drawn_apart(len(train[0]), request.held_out, request.seed)
        train, held_out = (train[0][kept], train[1][kept]), (train[0][taken], train[1][taken])
    channels, height, width = train[0].shape[1:]
    mean, std = normalisation(request, channels, arrays.mean, arrays.std)

    def part(labelled: Labelled) -> TensorSplit:
        images, labels = (tensor.to(request.device).contiguous() for tensor in labelled)
        return TensorSplit(images, labels, mean, std, request.augment)

    return Data(
        name=request.name,
        classes=arrays.classes,
        input_shape=(channels, height, width),
        mean=mean,
        std=std,
        train=part(train),
        held_out=part(held_out),
        test=part(arrays.test),
        fingerprint=arrays.fingerprint,
        loss=arrays.loss,
        metric=arrays.metric,
    )
