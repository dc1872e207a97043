"""Small data sets that torchvision reads, and downloads where it can."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compress.data.base import Data, Request
from compress.data.tensors import Arrays, Labelled, content_hash, from_arrays
from compress.errors import UsageError


@dataclass(frozen=True)
class _Source:
    kind: str  # the class in torchvision.datasets
    files: str  # where they are expected under the root
    mean: tuple[float, ...]
    std: tuple[float, ...]


_SOURCES = {
    "fashion-mnist": _Source("FashionMNIST", "FashionMNIST/raw/*-ubyte.gz", (0.2860,), (0.3530,)),
    "cifar10": _Source("CIFAR10", "cifar-10-batches-py/*", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": _Source("CIFAR100", "cifar-100-python/*", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def downloaded(request: Request) -> Data:
    """Fashion-MNIST (Xiao et al., 2017), CIFAR-10 or CIFAR-100 (Krizhevsky, 2009), as published.

    Files under the root are used; torchvision downloads what is missing and verifies it.

    Raises:
        UsageError: the files are not there and cannot be downloaded, or are damaged.
    """
    from torchvision import datasets  # takes a second to import

    source = _SOURCES[request.name]
    kind = getattr(datasets, source.kind)
    train, test = (_read(request, source, kind, train=train) for train in (True, False))
    parts = {"train": _tensors(train), "test": _tensors(test)}
    arrays = Arrays(
        train=parts["train"],
        test=parts["test"],
        classes=tuple(train.classes),
        mean=source.mean,
        std=source.std,
        fingerprint=content_hash(parts),
    )
    return from_arrays(arrays, request)


def _read(request: Request, source: _Source, kind: Callable[..., Any], *, train: bool) -> Any:
    try:
        return kind(request.root, train=train, download=False)
    except RuntimeError:
        pass  # torchvision's word for missing or damaged files
    except Exception as error:
        raise UsageError(f"data {request.name}: {request.root} cannot be read: {error}") from error
    try:
        return kind(request.root, train=train, download=True)
    except Exception as error:  # network, disk and archive errors of many classes
        reason = " ".join(str(error).split())[:300]  # of every mirror that was tried
        raise UsageError(
            f"data {request.name}: not found under {request.root} and not downloaded ({reason}); "
            f"put {source.files} there, or name another folder with --data-root"
        ) from error


def _tensors(part: Any) -> Labelled:
    pixels = torch.as_tensor(part.data)
    # MNIST's kind keeps (N, H, W), CIFAR's (N, H, W, C)
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(np.asarray(part.targets), dtype=torch.int64)
