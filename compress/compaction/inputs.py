"""What a model is called with: example inputs in any form, and random ones like them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from compress.errors import UsageError

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any] | tuple[Sequence[Any], Mapping[str, Any]]
"""One tensor; a tuple of positional inputs; a dictionary of keyword inputs; or (positional, keywords)."""


@dataclass(frozen=True)
class Example:
    """The arguments of one call; tensors may be nested in tuples, lists and dictionaries."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, inputs: ExampleInputs) -> "Example":
        """Accept every form of `ExampleInputs`; UsageError if there is no tensor in it."""
        if isinstance(inputs, Tensor):
            example = cls((inputs,), {})
        elif isinstance(inputs, Mapping):
            example = cls((), dict(inputs))
        elif not isinstance(inputs, Sequence) or isinstance(inputs, str):
            example = cls((inputs,), {})
        elif len(inputs) == 2 and isinstance(inputs[0], (tuple, list)) and isinstance(inputs[1], Mapping):
            example = cls(tuple(inputs[0]), dict(inputs[1]))
        else:
            example = cls(tuple(inputs), {})
        if not example.tensors:
            kinds = ", ".join(type(leaf).__name__ for leaf in tree_leaves((example.args, example.kwargs))) or "nothing"
            raise UsageError(
                f"example_inputs must be a tensor, a tuple of inputs or a dictionary of keyword inputs; got {kinds}"
            )
        return example

    def ordered(self, signature: inspect.Signature) -> "Example":
        """The same call as the signature orders it, keywords and dictionaries by their keys; TypeError if none is."""
        bound = signature.bind(*self.args, **self.kwargs)
        return Example(tuple(_sorted(value) for value in bound.args), _sorted(bound.kwargs))

    @property
    def leaves(self) -> list[Any]:
        """Tensors and everything else, in order."""
        return tree_leaves((self.args, self.kwargs))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def batch(self) -> int:
        """Length of the first tensor's first axis; 1 for a scalar."""
        first = self.tensors[0]
        return first.shape[0] if first.dim() and first.shape[0] else 1

    def map(self, change: Callable[[Tensor], Tensor]) -> "Example":
        """The same call with every tensor changed."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, self.kwargs))
        return Example(args, kwargs)

    def repeated(self, times: int) -> "Example":
        """The batch several times over."""
        return self.map(lambda tensor: torch.cat([tensor] * times) if tensor.dim() else tensor)

    def reference(self, dtype: torch.dtype) -> "Example":
        """On the CPU, floating-point tensors in a reference copy's number type."""
        cpu = self.map(lambda tensor: tensor.detach().cpu())
        return cpu.map(lambda tensor: tensor.to(dtype) if tensor.dtype.is_floating_point else tensor)

    def run(self, model: nn.Module) -> list[Tensor]:
        """Call a model on copies of the tensors; every floating-point tensor it returns."""
        own = self.map(Tensor.clone)
        with torch.no_grad():
            result = model(*own.args, **own.kwargs)
        return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point]

    def any_batch(self, model: nn.Module) -> dict[str, Any]:
        """`dynamic_shapes` of torch.export: the first axis of every tensor is free where the model allows it."""
        bound = inspect.signature(model.forward).bind(*self.args, **self.kwargs).arguments
        free = {0: torch.export.Dim.AUTO}
        spec: dict[str, Any] = tree_map(
            lambda leaf: free if isinstance(leaf, Tensor) and leaf.dim() else None, dict(bound)
        )
        return spec


def _sorted(value: Any) -> Any:
    """Dictionaries with their keys in order, at any depth of plain containers."""
    if type(value) is dict:
        return {key: _sorted(value[key]) for key in sorted(value, key=str)}
    return type(value)(_sorted(item) for item in value) if type(value) in (list, tuple) else value


def random_inputs(example: Example, *, seed: int = 0) -> list[Example]:
    """The example, then random inputs: standard normal, the example's mean and spread, another batch size.

    Whole numbers are drawn from 0 to the example's largest.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = example.batch

    def draw(tensor: Tensor, extra: int, *, like_example: bool) -> Tensor:
        shape = list(tensor.shape)
        if shape and shape[0] == batch:
            shape[0] += extra
        if not tensor.dtype.is_floating_point:
            high = int(tensor.max()) + 1 if tensor.numel() else 1
            return torch.randint(0, max(high, 1), shape, generator=generator).to(tensor.dtype)
        noise = torch.randn(shape, generator=generator, dtype=tensor.dtype)
        return noise * tensor.std(correction=0) + tensor.mean() if like_example else noise

    def variant(extra: int, *, like_example: bool) -> Example:
        return example.map(lambda tensor: draw(tensor, extra, like_example=like_example))

    return [
        example,
        variant(0, like_example=False),
        variant(0, like_example=True),
        variant(1, like_example=False),
    ]
