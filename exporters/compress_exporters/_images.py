"""Images in the form that a network takes, with numpy alone."""

from typing import Any

import numpy as np
import numpy.typing as npt

from compress_exporters.artifact import Normalisation

Array = npt.NDArray[Any]


def as_pixels(images: Array, normalisation: Normalisation) -> Array:
    """The nearest raw pixels, uint8 NHWC, of normalised images, float32 NCHW."""
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in normalisation)
    pixels: Array = np.clip(np.rint((images * std + mean) * 255), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def batches(images: Array, size: int) -> list[Array]:
    """Images cut into batches of exactly this size; zeros fill the last one up."""
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    return [
        np.ascontiguousarray(np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)]))
        for part in parts
    ]
