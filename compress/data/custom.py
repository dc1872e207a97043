"""The user's own data set: what a factory returns, checked once, here.

A factory takes no argument and returns a mapping with

    train, test   each (images, labels), or a map-style torch Dataset of (image, label)
    held_out      the same; without it, it is drawn from train
    classes       class names; without them a Dataset's .classes, or numbers up to the largest label of arrays
    mean, std     one number per channel, for inputs in 0..1; measured on train for 8-bit arrays without them,
                  otherwise 0 and 1
    augment       f(x, generator) -> x on a raw training batch (N, C, H, W), after shift and flip
    loss          f(outputs, y) -> scalar tensor
    metric        f(outputs, y) -> one score per image, higher is better

Images of arrays (numpy or torch) are 8-bit, shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4
channels, or floating point, shape (N, C, H, W), taken as they are.  Images of a Dataset are 8-bit or floating
point, shape (C, H, W).  Labels are whole numbers 0 .. classes - 1; with both loss and metric they may be any
numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from compress.data.augment import Chain
from compress.data.base import Data, Request
from compress.data.custom_arrays import from_pairs
from compress.data.custom_datasets import from_datasets
from compress.errors import UsageError, nearest
from compress_models.errors import SpecError
from compress_models.spec import arguments, quote

_PARTS = ("train", "held_out", "test")
_FUNCTIONS = ("augment", "loss", "metric")
_KEYS = (*_PARTS, "classes", "mean", "std", *_FUNCTIONS)


def custom(factory: Callable[..., Any], request: Request) -> Data:
    """Call the user's factory and check what it returns; the module's docstring says what that is.

    Raises:
        UsageError: the factory fails, or what it returns is not as documented.
    """
    given = {key: value for key, value in _called(factory, request).items() if value is not None}
    for key in ("train", "test"):
        if key not in given:
            raise UsageError(f"data {request.name}: returned no {key}; train and test are needed")
    for key in _FUNCTIONS:
        if key in given and not callable(given[key]):
            raise UsageError(f"data {request.name}: {key} is a {type(given[key]).__name__}; a function is expected")
    if "augment" in given:
        request = replace(request, augment=Chain(request.augment, given["augment"]))
    parts = {key: given[key] for key in _PARTS if key in given}
    pairs = [isinstance(part, tuple | list) for part in parts.values()]
    if all(pairs):
        return from_pairs(parts, given, request)
    if any(pairs):
        kinds = ", ".join(f"{key} a {type(part).__name__}" for key, part in parts.items())
        raise UsageError(f"data {request.name}: parts must be all pairs or all Datasets; got {kinds}")
    return from_datasets(parts, given, request, factory)


def _called(factory: Callable[..., Any], request: Request) -> Mapping[str, Any]:
    asked = f"data {request.name}"
    try:
        arguments(asked, factory, {}, {})
        given = factory()
    except SpecError as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        raise UsageError(f"{asked}: its factory failed: {quote(error)}") from error
    if not isinstance(given, Mapping):
        raise UsageError(f"{asked}: returned a {type(given).__name__}; a mapping with train and test is expected")
    for key in given:
        if key not in _KEYS:
            raise UsageError(f"{asked}: returned an unknown key {key}; {nearest(str(key), _KEYS)}")
    return given
