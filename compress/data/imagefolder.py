"""Image files in one folder per class, the ImageNet layout."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from compress.data.base import Data, Request, drawn_apart, normalisation
from compress.data.streamed import DatasetSplit
from compress.errors import UsageError

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagefolder(request: Request) -> Data:
    """DIR/train/CLASS/*.jpg to train on, DIR/test or, without it, DIR/val to test on.

    With both val and test, val is the held-out part; otherwise it is drawn from train.  Images are resized to
    256/224 of the crop and cropped in the middle; when augmented, a random part is resized to the crop.

    Raises:
        UsageError: a folder is missing or empty, or the classes differ between the parts.
    """
    folders = _folders(request)
    size = request.reading.image_size
    plain, random = _transforms(size)
    sets = {part: _files(request, folder, plain) for part, folder in folders.items()}
    classes = _same_classes(request, sets)
    training: Dataset[Any] = _files(request, folders["train"], random)
    mean, std = normalisation(request, 3, _IMAGENET_MEAN, _IMAGENET_STD)

    def split(plain: Dataset[Any], training: Dataset[Any]) -> DatasetSplit:
        return DatasetSplit(plain, training, mean, std, request.augment, request.device, request.reading.workers)

    if len(sets) == 3:
        train, held_out = split(sets["train"], training), split(sets["val"], sets["val"])
    else:
        kept, taken = (t.tolist() for t in drawn_apart(len(sets["train"]), request.held_out, request.seed))
        train = split(Subset(sets["train"], kept), Subset(training, kept))
        held_out = split(Subset(sets["train"], taken), Subset(training, taken))
    test = sets["test"] if "test" in sets else sets["val"]
    return Data(
        name=request.name,
        classes=classes,
        input_shape=(3, size, size),
        mean=mean,
        std=std,
        train=train,
        held_out=held_out,
        test=split(test, test),
        fingerprint=_identity(sets, size),
        shorter_side=_shorter_side(size),
    )


def _folders(request: Request) -> dict[str, Path]:
    root = Path(request.name.partition(":")[2]).expanduser()
    found = [f.name for f in sorted(root.iterdir())] if root.is_dir() else ["no such folder"]
    folders = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    if "train" not in folders or len(folders) < 2:
        raise UsageError(
            f"data {request.name}: needs {root}/train and {root}/val or {root}/test; "
            f"found: {', '.join(found[:5]) or 'an empty folder'}"
        )
    return folders


def _same_classes(request: Request, sets: dict[str, Any]) -> tuple[str, ...]:
    classes = sets["train"].classes
    for part, images in sets.items():
        if images.classes != classes:
            differ = ", ".join(sorted(set(images.classes) ^ set(classes))[:5])
            raise UsageError(f"data {request.name}: train and {part} have different classes: {differ}")
    return tuple(classes)


def _shorter_side(size: int) -> int:
    return round(size * 256 / 224)


def _transforms(size: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    from torchvision.transforms import v2  # takes a second to import

    pixels = [v2.PILToTensor(), v2.ToDtype(torch.uint8)]
    plain = [v2.Resize(_shorter_side(size), antialias=True), v2.CenterCrop(size), *pixels]
    return v2.Compose(plain), v2.Compose([v2.RandomResizedCrop(size, antialias=True), *pixels])


def _files(request: Request, folder: Path, transform: Callable[[Any], Any]) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(folder, transform)
    except FileNotFoundError as error:  # torchvision's word for no class folder, or an empty one
        raise UsageError(f"data {request.name}: {folder}: {error}") from error


def _identity(sets: dict[str, Any], size: int) -> str:
    """Hash names and sizes of the files: reading every image would take as long as an epoch."""
    digest = sha256(str(size).encode())
    for part, images in sets.items():
        for path, _ in images.samples:
            file = Path(path)
            digest.update(f"{part}/{file.parent.name}/{file.name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()
