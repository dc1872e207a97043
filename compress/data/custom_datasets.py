"""A user's torch Datasets: their first image is checked, the rest is streamed."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from compress.data.base import Data, Request, drawn_apart, normalisation
from compress.data.custom_arrays import check_labels, class_names, has_free_labels, per_channel
from compress.data.streamed import DatasetSplit
from compress.errors import UsageError
from compress_models.spec import quote, source_of


def from_datasets(
    parts: dict[str, Any], given: Mapping[str, Any], request: Request, factory: Callable[..., Any]
) -> Data:
    """Check the Dataset of every part and make the data set.

    Raises:
        UsageError: anything is not as ``compress.data.custom`` documents.
    """
    asked = f"data {request.name}"
    free = has_free_labels(given)
    first = {key: _first(f"{asked}: {key}", part) for key, part in parts.items()}
    classes = class_names(asked, given.get("classes", getattr(parts["train"], "classes", ())))
    if not classes and not free:
        raise UsageError(f"{asked}: a Dataset does not tell its classes; return their names under classes")
    _check_first(asked, first, None if free else len(classes))
    channels, height, width = first["train"][0].shape
    mean = per_channel(asked, given, "mean", (0.0,) * channels)
    std = per_channel(asked, given, "std", (1.0,) * channels)
    mean, std = normalisation(request, channels, mean, std)
    if "held_out" not in parts:
        kept, taken = drawn_apart(len(parts["train"]), request.held_out, request.seed)
        train = parts["train"]
        parts = {**parts, "train": Subset(train, kept.tolist()), "held_out": Subset(train, taken.tolist())}
    split = {
        key: DatasetSplit(part, part, mean, std, request.augment, request.device, request.reading.workers)
        for key, part in parts.items()
    }
    return Data(
        name=request.name,
        classes=classes,
        input_shape=(channels, height, width),
        mean=mean,
        std=std,
        train=split["train"],
        held_out=split["held_out"],
        test=split["test"],
        fingerprint=_identity(factory, classes, first, split),
        loss=given.get("loss"),
        metric=given.get("metric"),
    )


def _first(where: str, dataset: Any) -> tuple[Tensor, Any]:
    kind = type(dataset).__name__
    sized = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not sized:
        raise UsageError(f"{where} is a {kind}; (images, labels) or a map-style torch Dataset is expected")
    if len(dataset) == 0:
        raise UsageError(f"{where} is empty")
    try:
        item = dataset[0]
    except Exception as error:
        raise UsageError(f"{where}: its first image could not be read: {quote(error)}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UsageError(f"{where} gives a {type(item).__name__}; (image, label) is expected")
    if not isinstance(item[0], Tensor | np.ndarray):
        found = type(item[0]).__name__
        raise UsageError(f"{where} gives images of type {found}; add transforms.PILToTensor() or the like")
    image = torch.as_tensor(item[0])
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise UsageError(
            f"{where} gives {image.dtype} images of shape {tuple(image.shape)}; "
            "8-bit or floating-point images of shape (C, H, W) are expected"
        )
    return image, item[1]


def _check_first(asked: str, first: dict[str, tuple[Tensor, Any]], classes: int | None) -> None:
    image, _ = first["train"]
    for key, (other, label) in first.items():
        if other.shape != image.shape or other.dtype != image.dtype:
            raise UsageError(
                f"{asked}: {key} has {other.dtype} images of shape {tuple(other.shape)}, "
                f"train has {image.dtype} of {tuple(image.shape)}; all parts must agree"
            )
        if classes is not None:
            _check_label(f"{asked}: {key}", label, classes)


def _check_label(where: str, label: Any, classes: int) -> None:
    try:
        index = int(label)
        whole = bool(index == label)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise UsageError(f"{where} gives the label {label!r}; a whole number is expected")
    check_labels(where, index, index, classes)


def _identity(
    factory: Callable[..., Any],
    classes: tuple[str, ...],
    first: dict[str, tuple[Tensor, Any]],
    split: dict[str, DatasetSplit],
) -> str:
    """Hash the factory's source file and the shapes: reading every image would take as long as an epoch."""
    shapes = [tuple(image.shape) for image, _ in first.values()]
    digest = sha256(repr((classes, shapes, [len(part) for part in split.values()])).encode())
    source = source_of(factory)
    if source is not None:
        digest.update(source.read_bytes())
    return digest.hexdigest()
