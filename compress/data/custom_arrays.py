"""A user's arrays (images, labels): checked, and brought to one layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.data.base import Data, Request
from compress.data.tensors import Arrays, Labelled, content_hash, from_arrays
from compress.errors import UsageError

_CHANNELS = (1, 3, 4)  # of 8-bit images; other counts cannot be told from a height or width


def from_pairs(parts: dict[str, Any], given: Mapping[str, Any], request: Request) -> Data:
    """Check the (images, labels) of every part and make the data set.

    Raises:
        UsageError: anything is not as ``compress.data.custom`` documents.
    """
    asked = f"data {request.name}"
    free = has_free_labels(given)
    pairs = {key: _labelled(f"{asked}: {key}", pair, free) for key, pair in parts.items()}
    images, labels = pairs["train"]
    for key, (other, _) in pairs.items():
        if other.shape[1:] != images.shape[1:] or other.dtype != images.dtype:
            raise UsageError(
                f"{asked}: {key} has {other.dtype} images of shape {tuple(other.shape[1:])}, "
                f"train has {images.dtype} of {tuple(images.shape[1:])}; all parts must agree"
            )
    classes = class_names(asked, given.get("classes", ()))
    if not free:
        classes = classes or tuple(str(index) for index in range(int(labels.max()) + 1))
        for key, (_, part) in pairs.items():
            check_labels(f"{asked}: {key}", int(part.min()), int(part.max()), len(classes))
    mean, std = _measured(images)
    mean = per_channel(asked, given, "mean", mean)
    std = per_channel(asked, given, "std", std)
    arrays = Arrays(
        train=pairs["train"],
        test=pairs["test"],
        classes=classes,
        mean=mean,
        std=std,
        fingerprint=content_hash(pairs),
        held_out=pairs.get("held_out"),
        loss=given.get("loss"),
        metric=given.get("metric"),
    )
    return from_arrays(arrays, request)


def has_free_labels(given: Mapping[str, Any]) -> bool:
    """Say whether labels may be anything: only the user's own loss and metric read them then."""
    return "loss" in given and "metric" in given


def class_names(asked: str, names: Any) -> tuple[str, ...]:
    """Read class names.

    Raises:
        UsageError: they are not a sequence of names.
    """
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise UsageError(f"{asked}: classes is a {type(names).__name__}; a sequence of names is expected")
    return tuple(str(name) for name in names)


def check_labels(where: str, low: int, high: int, classes: int) -> None:
    """Check that labels are class indices.

    Raises:
        UsageError: one is negative or too large.
    """
    if low < 0 or high >= classes:
        raise UsageError(f"{where} has labels {low} to {high}; {classes} classes are 0 to {classes - 1}")


def per_channel(asked: str, given: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Read one number per channel; how many there are is checked with the images.

    Raises:
        UsageError: they are not numbers.
    """
    try:
        return tuple(np.atleast_1d(np.asarray(given.get(key, default), dtype=float)).ravel().tolist())
    except (TypeError, ValueError) as error:
        raise UsageError(f"{asked}: {key} is {given[key]!r}; one number per channel is expected") from error


def _labelled(where: str, pair: Any, free: bool) -> Labelled:
    if len(pair) != 2:
        raise UsageError(f"{where} has {len(pair)} entries; (images, labels) is expected")
    images, labels = (_tensor(where, value) for value in pair)
    images = _channels_first(where, images)
    if labels.ndim == 0 or len(labels) != len(images):
        found = "one label" if labels.ndim == 0 else f"{len(labels)} labels"
        raise UsageError(f"{where} has {len(images)} images and {found}; one label each is expected")
    if free:
        return images, labels
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise UsageError(
            f"{where} has {labels.dtype} labels of shape {tuple(labels.shape)}; "
            "whole numbers of shape (N,) are expected"
        )
    return images, labels.to(torch.int64)


def _tensor(where: str, value: Any) -> Tensor:
    try:
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:  # an array of objects, or rows of unequal length
        raise UsageError(f"{where} holds a {type(value).__name__} that is no array of numbers") from error
    return tensor.contiguous()


def _channels_first(where: str, images: Tensor) -> Tensor:
    found = f"{where} has {images.dtype} images of shape {tuple(images.shape)}"
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UsageError(f"{found}; (N, H, W), (N, H, W, C) or (N, C, H, W), none of them 0, is expected")
    if images.is_floating_point():
        if images.ndim != 4:
            raise UsageError(f"{found}; floating-point images are expected as (N, C, H, W)")
        if not images.isfinite().all():
            raise UsageError(f"{found} with NaN or infinity in them; clean them first")
        return images.to(torch.float32)
    if images.dtype != torch.uint8:
        raise UsageError(f"{found}; 8-bit (uint8) or floating-point images are expected")
    if images.ndim == 3:
        return images[:, None]
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if first == last:
        doubt = "both C,H,W and H,W,C are possible" if first else "neither end is 1, 3 or 4 channels"
        raise UsageError(f"{found}; {doubt}; give floating-point images as (N, C, H, W) instead")
    return images if first else images.permute(0, 3, 1, 2).contiguous()


def _measured(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of 8-bit images in 0..1; 0 and 1 for others."""
    channels = images.shape[1]
    if images.dtype != torch.uint8:
        return (0.0,) * channels, (1.0,) * channels
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    # a constant channel carries nothing; dividing by 1 keeps it finite
    return tuple(mean.tolist()), tuple(s if s > 0 else 1.0 for s in variance.sqrt().tolist())
