"""Parts that are read image by image while they are used."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from compress.data.augment import Augmentation
from compress.data.base import Batch, Raw, Split, check_batches, normalised


@dataclass(frozen=True, eq=False)
class DatasetSplit(Split):
    """A map-style torch Dataset of (image (C, H, W) uint8 or float, label).

    Attributes:
        dataset: read as it is.
        training: the same images with random transforms, read instead when augmentation is asked for.
            torch's global generator is seeded for each image, so that their random choices depend on the
            generator given to ``batches`` and not on the number of workers.
        mean: per channel.
        std: per channel.
        augmentation: of a whole batch, on the device.
        device: that batches come on.
        workers: reading processes; 0 reads in this one.
    """

    dataset: Dataset[Any]
    training: Dataset[Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    device: torch.device
    workers: int

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style, checked where it is made

    def batches(self, size: int, *, generator: Generator | None = None, augment: bool = False) -> Iterator[Batch]:
        """Give the part once, in batches."""
        check_batches(size, generator, augment)
        order = torch.arange(len(self))
        seeds = order
        if generator is not None:
            order = torch.randperm(len(self), generator=generator, device=generator.device)
            seeds = torch.randint(2**62, (len(self),), generator=generator, device=generator.device)
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.training if augment else self.dataset),
            batch_size=size,
            sampler=list(zip(order.tolist(), seeds.tolist(), strict=True)),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=Generator(),  # its own: the loader would draw from the global one
        )
        for images, labels in loader:
            x = images.to(self.device, non_blocking=True)
            if augment and generator is not None:
                x = self.augmentation(x, generator)
            yield normalised(x, self.mean, self.std), labels.to(self.device, non_blocking=True)

    def raw(self, start: int, stop: int) -> Raw | None:
        """Give images start to stop before normalisation."""
        items = [self.dataset[index] for index in range(start, min(stop, len(self)))]
        images = [torch.as_tensor(image) for image, _ in items]
        if not images or images[0].dtype != torch.uint8:
            return None
        pixels = torch.stack(images).permute(0, 2, 3, 1).numpy()
        return np.ascontiguousarray(pixels), np.array([int(label) for _, label in items], dtype=np.int64)


class _Seeded(Dataset[Any]):
    """Reads (index, seed): the image at that index, its random transforms drawn from that seed."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index_and_seed: tuple[int, int]) -> tuple[Tensor, Any]:
        index, seed = index_and_seed
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            image, label = self.dataset[index]
        return torch.as_tensor(image), label
