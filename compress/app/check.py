"""Does the app's model compute what the exported network computes? A bundle that does not is never written."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress.app.graph import LUMA, AppModel, Preprocessing
from compress.data import Data
from compress.errors import GateError
from compress.onnx_file import predict, session
from compress.validate import TOLERANCES

Array = npt.NDArray[Any]

IMAGES = 100
"""Test images compared at the network's own size."""

LEVELS = 1.01
"""A pixel, 0..255, may be this far from the resized reference: the two passes of the resize each round to a whole
number, by half a level at most; a hundredth is left for float32."""

FLAT_LEVELS = 0.01
"""In an image of one colour there is nothing to round: only float32 is left."""


@dataclass(frozen=True)
class Agreement:
    """What was compared, and how far apart it was.

    Attributes:
        images: at the network's own size and at other sizes.
        probability_error: largest difference of a class's probability.
        probability_tolerance: what it may be.
        pixel_error: largest difference of a resized pixel, of 255 levels.
        pixel_tolerance: what it may be.
    """

    images: int
    probability_error: float
    probability_tolerance: float
    pixel_error: float
    pixel_tolerance: float


def prove(app: AppModel, network: bytes, data: Data) -> Agreement:
    """Compare the app's model with the network on test images, and its resizing with PyTorch's.

    Args:
        app: the composed model.
        network: the exported network, float32 NCHW.
        data: its test images are used, and it says how they are normalised.

    Raises:
        GateError: they differ by more than rounding explains.
    """
    wanted, plain = Preprocessing.of(data), session(network)
    preprocess, whole = session(app.preprocess), session(app.whole)
    pixel_error = probability_error = scale = 0.0
    images = 0
    for image, expected in _cases(wanted, data):
        ready = preprocess.run(None, {"image": image})[0]
        if expected is None:
            pixel_error = max(pixel_error, _checked_pixels(image, ready, wanted))
        scores = predict(plain, ready if expected is None else expected)
        answer = whole.run(None, {"image": image})
        scale = max(scale, float(np.abs(scores).max()))
        probability_error = max(probability_error, _difference(answer, _softmax(scores)))
        images += 1
    # A probability moves by at most half of what the scores move.
    tolerance = max(1e-5, 0.5 * TOLERANCES["float32"] * scale)
    if not probability_error <= tolerance:
        raise GateError(
            f"the app's model and model.onnx differ: a probability by {probability_error:.3g}, and {tolerance:.3g} is "
            "allowed; no app bundle is written: leave it out with --no-app, and report this"
        )
    return Agreement(images, probability_error, tolerance, pixel_error, LEVELS)


def _cases(wanted: Preprocessing, data: Data) -> Iterator[tuple[Array, Array | None]]:
    """Images, each with what the network must be given for it where the data set says so."""
    batches = data.test.batches(1)
    for index, (x, _) in enumerate(islice(batches, IMAGES)):
        stored = data.test.raw(index, index + 1)
        assert stored is not None  # 8-bit images only
        # Where the middle is cut out, a test image as stored is one that has been cut already.
        yield stored[0][0], x.cpu().numpy() if wanted.shorter_side is None else None
    generator = np.random.default_rng(0)
    height, width = wanted.shape[1:]
    for rows, columns in ((height * 2, width * 3), (height * 3 + 1, width + 5), (height // 2 + 1, width * 2 + 1)):
        for channels in (1, 3):
            yield generator.integers(0, 256, (rows, columns, channels), np.uint8), None
            yield (
                np.broadcast_to(generator.integers(0, 256, channels, np.uint8), (rows, columns, channels)).copy(),
                None,
            )


def _checked_pixels(image: Array, ready: Array, wanted: Preprocessing) -> float:
    """Largest difference, in levels, of what the network would be given from PyTorch's resize."""
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (wanted.mean, wanted.std))
    error = float(np.abs((ready * std + mean) * 255 - reference(image, wanted)).max())
    allowed = FLAT_LEVELS if (image == image[:1, :1]).all() else LEVELS
    if not error <= allowed:
        raise GateError(
            f"the app's model prepares an image of {image.shape[0]} x {image.shape[1]} pixels, {image.shape[2]} "
            f"channel(s), wrongly: a pixel is off by {error:.3g} levels, and {allowed:g} is allowed; no app bundle is "
            "written: leave it out with --no-app, and report this"
        )
    return error


def reference(image: Array, wanted: Preprocessing) -> Array:
    """What the network sees of an image, by PyTorch's own resize: levels 0..255, shape (1, C, H, W)."""
    channels, height, width = wanted.shape
    coloured = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.float64)
    planes = np.rint(coloured @ np.array(LUMA))[..., None] if channels == 1 else coloured
    batch = torch.tensor(planes.transpose(2, 0, 1)[None], dtype=torch.float64)
    if wanted.shorter_side is None:
        return _resized(batch, height, width)
    rows, columns = (size * wanted.shorter_side // min(image.shape[:2]) for size in image.shape[:2])
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return _resized(batch, rows, columns)[:, :, top : top + height, left : left + width]


def _resized(batch: torch.Tensor, height: int, width: int) -> Array:
    resized = torch.nn.functional.interpolate(batch, (height, width), mode="bilinear", antialias=True)
    return np.asarray(resized.numpy())


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores.astype(np.float64) - scores.max())
    return np.asarray(raised / raised.sum())


def _difference(answer: list[Array], expected: Array) -> float:
    """Largest difference of a probability; a label that is not the best class counts by how much worse it is."""
    label, probability, probabilities = answer
    error = np.abs(probabilities - expected).max()
    return float(max(error, expected.max() - expected[0, label[0]], abs(probability[0] - expected[0, label[0]])))
