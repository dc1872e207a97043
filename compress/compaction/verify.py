"""The proof: the narrowed model computes what the original computes, in float64, on several random inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.errors import CompactionError

Inputs = tuple[Tensor, ...]

# float64 keeps 16 digits; a few hundred layers of rounding leave at least 12
TOLERANCE = 1e-9
# the error must also be small against what the output moves between inputs: a bias of 1000 would hide anything
VISIBLE = 1e-3
# an output that moves less than this part of its size is constant up to rounding
CONSTANT = 1e-13


def random_inputs(example: Inputs, *, seed: int = 0) -> list[Inputs]:
    """The example, then random inputs: standard normal, the example's mean and spread, another batch size.

    Whole numbers are drawn from 0 to the example's largest.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = example[0].shape[0] if example[0].dim() else 0

    def draw(tensor: Tensor, extra: int, *, like_example: bool) -> Tensor:
        shape = list(tensor.shape)
        if shape and shape[0] == batch:
            shape[0] += extra
        if not tensor.dtype.is_floating_point:
            high = int(tensor.max()) + 1 if tensor.numel() else 1
            return torch.randint(0, max(high, 1), shape, generator=generator).to(tensor.dtype)
        noise = torch.randn(shape, generator=generator, dtype=tensor.dtype)
        return noise * tensor.std(correction=0) + tensor.mean() if like_example else noise

    kinds = ((0, False), (0, True), (1, False))
    return [example, *(tuple(draw(t, extra, like_example=like) for t in example) for extra, like in kinds)]


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Every floating-point tensor the model returns."""
    with torch.no_grad():
        result = model(*(tensor.clone() for tensor in inputs))
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point]


def prove(original: nn.Module, narrow: nn.Module, inputs: Sequence[Inputs]) -> float:
    """The error max |narrow - original| / max |original| over all inputs; both models float64, evaluation mode.

    A batch size that the original itself does not accept is left out.

    Raises:
        CompactionError: the models differ by `TOLERANCE` or more, the output is not finite, or it does not
            depend on the input, so that a comparison shows nothing.
    """
    error = scale = 0.0
    seen: list[list[Tensor]] = []
    for index, sample in enumerate(inputs):
        try:
            expected = outputs(original, sample)
        except Exception as cause:  # the user's own code runs here
            if index == 0:
                raise CompactionError(
                    f"the model does not run on the example in float64: {first_line(cause)}"
                ) from cause
            continue
        try:
            found = outputs(narrow, sample)
        except Exception as cause:
            raise CompactionError(f"the narrowed model does not run: {first_line(cause)}") from cause
        error = max(error, largest_difference(expected, found))
        scale = max([scale, *(float(tensor.abs().max()) for tensor in expected if tensor.numel())])
        seen.append(expected)
    moved = spread(seen)
    if not error < TOLERANCE * scale:
        found_error = f"{error / scale:.1e}" if scale else f"{error:.1e}"
        raise CompactionError(
            f"the narrowed model differs by {found_error} of the output's size; only below {TOLERANCE:.0e} is exact"
        )
    if moved <= CONSTANT * scale or error > VISIBLE * moved:
        raise CompactionError(
            f"the output changes by only {moved:.1e} between inputs (its size is {scale:.1e}), so a comparison "
            "shows nothing: the network is dead or its last layer is zero; train it or prune less"
        )
    return error / scale


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest |a - b| over pairs of outputs; CompactionError if their shapes differ or a number is not finite."""
    shapes = ([tuple(t.shape) for t in expected], [tuple(t.shape) for t in found])
    if shapes[0] != shapes[1]:
        raise CompactionError(f"the output's shape changed from {shapes[0]} to {shapes[1]}")
    if not all(bool(tensor.isfinite().all()) for tensor in (*expected, *found)):
        raise CompactionError("the output is not finite (NaN or infinity): nothing can be compared")
    return max((float((a - b).abs().max()) for a, b in zip(expected, found, strict=True) if a.numel()), default=0.0)


def spread(seen: Sequence[Sequence[Tensor]]) -> float:
    """The largest change of any output element over all samples of all inputs."""
    largest = 0.0
    for same in zip(*seen, strict=True):
        rows = [tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1) for tensor in same]
        samples = torch.cat([row for row in rows if row.shape[1] == rows[0].shape[1]])
        if samples.numel():
            largest = max(largest, float((samples.amax(0) - samples.amin(0)).max()))
    return largest


def first_line(cause: BaseException) -> str:
    """An error's message, without what follows its first line."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
