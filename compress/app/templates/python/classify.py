"""Classify images with the model beside this folder.

    pip install numpy onnxruntime pillow      (without pillow: .npy, .pgm and .ppm)
    python classify.py IMAGE ...

For every image: the class, its probability, and the milliseconds of one inference after a first one.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime

BUNDLE = Path(__file__).resolve().parent.parent


def read_image(path: Path) -> Any:
    """Pixels of an image file: uint8, shape (height, width, 1 or 3)."""
    try:
        if path.suffix == ".npy":
            return checked(path, np.load(path, allow_pickle=False))
        return checked(path, read_pnm(path) if path.suffix in (".pgm", ".ppm") else read_with_pillow(path))
    except ImportError:
        sys.exit(f"{path}: without Pillow only .npy, .pgm and .ppm are read; run: pip install pillow")
    except Exception as error:  # decoders of damaged files raise whatever they like
        sys.exit(f"{path}: not an image that can be read: {error}")


def read_with_pillow(path: Path) -> Any:
    """Pixels of what Pillow reads, upright; transparency is left out, and 16 bits become 8."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow itself would cut all above 255 off
            return (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
        if upright.mode in ("I", "F"):
            raise ValueError("its numbers have 32 bits, and which of them is white is not known; save it with 8 or 16")
        return np.asarray(upright.convert("L" if upright.mode in ("1", "L", "LA") else "RGB"))


def read_pnm(path: Path) -> Any:
    """Pixels of a binary PGM or PPM file."""
    data = path.read_bytes()
    header = re.match(rb"P([56])\s+(\d+)\s+(\d+)\s+255\s", data)
    if header is None:
        sys.exit(f"{path}: not a binary PGM or PPM file of 8 bits without comments")
    width, height, channels = int(header[2]), int(header[3]), 1 if header[1] == b"5" else 3
    pixels = data[header.end() :]
    if not pixels or len(pixels) != height * width * channels:
        sys.exit(f"{path}: must hold {height} x {width} pixels, and holds {len(pixels)} bytes")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, channels)


def checked(path: Path, pixels: Any) -> Any:
    """Pixels of shape (height, width, channels)."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        sys.exit(f"{path}: {pixels.dtype} of shape {pixels.shape}; 8-bit grey or RGB is read")
    return np.ascontiguousarray(pixels)


def main(paths: list[str]) -> None:
    """Print one line for every image."""
    if not paths:
        sys.exit("usage: python classify.py IMAGE ...")
    labels = (BUNDLE / "labels.txt").read_text("utf-8").splitlines()
    session = onnxruntime.InferenceSession(BUNDLE / "model.onnx", providers=["CPUExecutionProvider"])
    for path in paths:
        feed = {"image": read_image(Path(path))}
        session.run(None, feed)
        start = time.perf_counter()
        label, probability, _ = session.run(None, feed)
        milliseconds = (time.perf_counter() - start) * 1e3
        print(f"{labels[label[0]]}  {100 * probability[0]:.2f} %  {milliseconds:.2f} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
