"""Resize and Upsample: torch's own interpolation where it means the same, else the same sum by index."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.onnx_import.table import Call, Numbers, axes_of, operator, whole

Places = npt.NDArray[np.float64]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@operator("Upsample", numbers=(1,))
def upsample(call: Call, x: Tensor, scales: Numbers | None = None) -> Tensor:
    """The predecessor of Resize: scales are an input or, before opset 9, an attribute."""
    factors = [float(s) for s in (scales if scales is not None else call.get("scales"))]
    return _resized(call, x, _scaled(x, factors), factors, "asymmetric", "floor")


@operator("Resize", numbers=(1, 2, 3))
def resize(
    call: Call, x: Tensor, roi: Numbers | None = None, scales: Numbers | None = None, sizes: Numbers | None = None
) -> Tensor:
    """Another number of positions along some axes."""
    if call.opset < 11:  # the only other input then is the scales
        return upsample(call, x, roi)
    for attribute, plain in (("antialias", 0), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        if call.get(attribute, plain) != plain:
            raise call.refused(f"{attribute} = {call.get(attribute)!r} is not supported")
    along = call.get("axes")
    axes = list(range(x.dim())) if along is None else axes_of(call, np.array(along), x.dim())
    assert axes is not None  # they were given
    factors = [1.0] * x.dim()
    if sizes is not None and sizes.size:
        wanted = list(x.shape)
        for axis, size in zip(axes, whole(sizes), strict=True):
            wanted[axis] = size
        # a free size is that of the batch, which nothing resizes
        pairs = zip(wanted, x.shape, strict=True)
        factors = [1.0 if isinstance(h, torch.SymInt) or w == h else w / h for w, h in pairs]
    elif scales is not None and scales.size:
        for axis, factor in zip(axes, scales.reshape(-1).tolist(), strict=True):
            factors[axis] = float(factor)
        wanted = _scaled(x, factors)
    else:
        raise call.refused("neither scales nor sizes are given")
    where = call.get("coordinate_transformation_mode", "half_pixel")
    return _resized(call, x, wanted, factors, where, call.get("nearest_mode", "round_prefer_floor"))


def _scaled(x: Tensor, factors: Sequence[float]) -> list[int]:
    return [s if f == 1.0 else math.floor(int(s) * f) for s, f in zip(x.shape, factors, strict=True)]


def _resized(
    call: Call, x: Tensor, wanted: Sequence[int], factors: Sequence[float], where: str, nearest: str
) -> Tensor:
    axes = [axis for axis, factor in enumerate(factors) if factor != 1.0]
    if not axes:
        return x
    mode = call.get("mode", "nearest")
    new = [int(wanted[axis]) for axis in axes]
    old = [int(x.shape[axis]) for axis in axes]
    places = [
        places_of(call, where, size, length, factors[axis])
        for axis, size, length in zip(axes, new, old, strict=True)
    ]  # fmt: skip
    spatial = x.dim() in (3, 4, 5) and min(axes) >= 2
    sizes = [int(n) for n in wanted[2:]] if spatial else []
    if mode == "nearest":
        return _nearest(call, x, axes, places, sizes, nearest)
    if mode == "linear":
        return _linear(x, axes, places, sizes)
    if mode == "cubic" and spatial and x.dim() == 4 and call.get("cubic_coeff_a", -0.75) == -0.75:
        for corners in (False, True):
            if all(_same(p, _torch_places(n, len(p), corners)) for p, n in zip(places, old, strict=True)):
                return F.interpolate(x, sizes, mode="bicubic", align_corners=corners)
    raise call.refused(f"mode {mode!r} with {where!r} on axes {axes} is not supported")


def places_of(call: Call, where: str, size: int, length: int, factor: float) -> Places:
    """Where each new position lies among the old ones."""
    x = np.arange(size, dtype=np.float64)
    if where in ("half_pixel", "pytorch_half_pixel"):
        if where == "pytorch_half_pixel" and size == 1:
            return np.zeros(1)
        return (x + 0.5) / factor - 0.5
    if where == "half_pixel_symmetric":
        centre = length / 2 * (1 - size / (factor * length))
        return centre + (x + 0.5) / factor - 0.5
    if where == "align_corners":
        return x * (length - 1) / (size - 1) if size > 1 else np.zeros(1)
    if where == "asymmetric":
        return x / factor
    raise call.refused(f"coordinate_transformation_mode {where!r} is not supported")


def _torch_places(length: int, size: int, corners: bool) -> Places:
    """Where torch's interpolation to a given size reads."""
    x = np.arange(size, dtype=np.float64)
    if corners:
        return x * (length - 1) / (size - 1) if size > 1 else np.zeros(1)
    return (x + 0.5) * length / size - 0.5


def _same(a: Places, b: Places) -> bool:
    return bool(np.allclose(a, b, rtol=0, atol=1e-6))


_ROUNDINGS: dict[str, Callable[[Places], Places]] = {
    "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(
    call: Call, x: Tensor, axes: Sequence[int], places: Sequence[Places], sizes: Sequence[int], rounding: str
) -> Tensor:
    if rounding not in _ROUNDINGS:
        raise call.refused(f"nearest_mode {rounding!r} is not supported")
    picked: list[npt.NDArray[np.int64]] = []
    for axis, place in zip(axes, places, strict=True):
        # a place that is whole but for rounding must not fall on the wrong side
        tidy = np.where(np.abs(place - np.round(place)) < 1e-6, np.round(place), place)
        picked.append(np.clip(_ROUNDINGS[rounding](tidy), 0, int(x.shape[axis]) - 1).astype(np.int64))
    for mode, shift in (("nearest", 0.0), ("nearest-exact", 0.5)):
        reads = [
            np.floor((np.arange(len(p)) + shift) * int(x.shape[axis]) / len(p))
            for axis, p in zip(axes, picked, strict=True)
        ]
        if sizes and all(np.array_equal(p, r) for p, r in zip(picked, reads, strict=True)):
            return F.interpolate(x, list(sizes), mode=mode)
    for axis, chosen in zip(axes, picked, strict=True):
        x = x.index_select(axis, torch.tensor(chosen))
    return x


def _linear(x: Tensor, axes: Sequence[int], places: Sequence[Places], sizes: Sequence[int]) -> Tensor:
    for corners in (False, True):
        torchs = [_torch_places(int(x.shape[axis]), len(p), corners) for axis, p in zip(axes, places, strict=True)]
        if sizes and all(_same(p, t) for p, t in zip(places, torchs, strict=True)):
            return F.interpolate(x, list(sizes), mode=_LINEAR[len(sizes)], align_corners=corners)
    for axis, place in zip(axes, places, strict=True):
        last = int(x.shape[axis]) - 1
        inside = np.clip(place, 0, last)
        low = np.floor(inside).astype(np.int64)
        share = torch.tensor(inside - low, dtype=x.dtype).reshape([-1] + [1] * (x.dim() - 1 - axis))
        high = torch.tensor(np.minimum(low + 1, last))
        x = x.index_select(axis, torch.tensor(low)) * (1 - share) + x.index_select(axis, high) * share
    return x
