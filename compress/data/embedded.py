"""MNIST as it is shipped with the package, and a drawn data set for tests."""

import gzip
from hashlib import sha256
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from compress.data.base import Data, Request
from compress.data.tensors import Arrays, Labelled, content_hash, from_arrays
from compress.errors import UsageError

# the four original files, unchanged; see NOTICE
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_DIGITS = tuple(str(digit) for digit in range(10))


def mnist(request: Request) -> Data:
    """MNIST: 60,000 + 10,000 images 1x28x28.  LeCun, Cortes, Burges; http://yann.lecun.com/exdb/mnist.

    Raises:
        UsageError: a shipped file is missing or not the original.
    """
    arrays = Arrays(
        train=_mnist_part("train"),
        test=_mnist_part("t10k"),
        classes=_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        fingerprint=sha256("".join(_MNIST_SHA256.values()).encode()).hexdigest(),
    )
    return from_arrays(arrays, request)


def _mnist_part(part: str) -> Labelled:
    # IDX: 16 bytes of header before images, 8 before labels
    images = _verified(f"{part}-images-idx3-ubyte.gz")[16:].reshape(-1, 1, 28, 28)
    labels = _verified(f"{part}-labels-idx1-ubyte.gz")[8:]
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _verified(name: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    file = files("compress.data") / "mnist" / name
    if not file.is_file():
        raise UsageError(f"embedded MNIST: {file} is missing; reinstall the package")
    packed = file.read_bytes()
    found, expected = sha256(packed).hexdigest(), _MNIST_SHA256[name]
    if found != expected:
        raise UsageError(
            f"embedded MNIST: {file} is damaged: SHA-256 expected {expected}, found {found}; reinstall the package"
        )
    return np.frombuffer(bytearray(gzip.decompress(packed)), dtype=np.uint8)  # a bytearray is writable


# the digits 0 to 9, seven rows of five pixels each, most significant bit left
_FONT = (
    (14, 17, 19, 21, 25, 17, 14), (4, 12, 4, 4, 4, 4, 14), (14, 17, 1, 2, 4, 8, 31), (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2), (31, 16, 30, 1, 1, 17, 14), (6, 8, 16, 30, 17, 17, 14), (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14), (14, 17, 17, 15, 1, 2, 12),
)  # fmt: skip


def synthetic(request: Request) -> Data:
    """Drawn digits: 2,000 + 500 images 1x28x28, a 5x7 font enlarged, moved, dimmed and noisy."""
    rng = np.random.default_rng(20)
    train, test = _drawn(rng, 2000), _drawn(rng, 500)
    fingerprint = content_hash({"train": train, "test": test})
    return from_arrays(Arrays(train, test, _DIGITS, (0.2,), (0.3,), fingerprint), request)


def _drawn(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    glyphs = (np.array(_FONT)[:, :, None] >> np.arange(4, -1, -1)) & 1  # (10, 7, 5)
    large = glyphs.repeat(3, axis=1).repeat(3, axis=2)  # (10, 21, 15)
    labels = rng.integers(10, size=count)
    places = rng.integers((2, 4), (6, 10), size=(count, 2))  # top and left corner
    pixels = rng.uniform(0, 60, size=(count, 28, 28))
    strength = rng.uniform(120, 195, size=count)
    for image, label, (top, left), ink in zip(pixels, labels, places, strength, strict=True):
        image[top : top + 21, left : left + 15] += ink * large[label]
    return torch.from_numpy(pixels.astype(np.uint8)[:, None]), torch.from_numpy(labels)
