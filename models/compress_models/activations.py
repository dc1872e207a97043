"""The activations that the small networks can be built with."""

from collections.abc import Callable

import torch
from torch import Tensor

from compress_models.errors import SpecError, nearest

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "sigmoid": torch.sigmoid}


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Find an activation by name: relu or sigmoid.

    Raises:
        SpecError: another name.
    """
    if name not in _ACTIVATIONS:
        raise SpecError(f"no activation {name}; {nearest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]
