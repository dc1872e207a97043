"""The proof: the narrowed model computes what the original computes, on several random inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.compaction.inputs import Example
from compress.errors import CompactionError, first_line

# float64 keeps 16 digits, float32 7; a few hundred layers of rounding cost up to 4 of them, in float32 2
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
# the error must also be small against what the output moves between inputs: a bias of 1000 would hide anything
VISIBLE = 1e-3
# an output that moves less than this many roundings of its size is constant
CONSTANT = 1e3


class NothingShown(CompactionError):
    """The output does not depend on the input, so that no comparison shows anything."""


def prove(original: nn.Module, narrow: nn.Module, inputs: Sequence[Example]) -> float:
    """The error max |narrow - original| / max |original| over all inputs; both models in evaluation mode.

    A batch size that the original itself does not accept is left out.

    Raises:
        CompactionError: the models differ by the number type's tolerance (1e-9 for float64) or more, the output is
            not finite, or it does not depend on the input, so that a comparison shows nothing.
    """
    dtype = next((t.dtype for t in original.parameters() if t.dtype.is_floating_point), torch.float64)
    tolerance = TOLERANCES[dtype]
    error = scale = 0.0
    seen: list[list[Tensor]] = []
    for index, sample in enumerate(inputs):
        try:
            expected = sample.run(original)
        except Exception as cause:  # the user's own code runs here
            if index == 0:
                raise CompactionError(
                    f"the model does not run on the example in {str(dtype)[6:]}: {first_line(cause)}"
                ) from cause
            continue
        try:
            found = sample.run(narrow)
        except Exception as cause:
            raise CompactionError(f"the narrowed model does not run: {first_line(cause)}") from cause
        error = max(error, largest_difference(expected, found))
        scale = max([scale, *(float(tensor.abs().max()) for tensor in expected if tensor.numel())])
        seen.append(expected)
    moved = spread(seen)
    if not error < tolerance * scale:
        found_error = f"{error / scale:.1e}" if scale else f"{error:.1e}"
        raise CompactionError(
            f"the narrowed model differs by {found_error} of the output's size; only below {tolerance:.0e} is exact"
        )
    if moved <= CONSTANT * torch.finfo(dtype).eps * scale or error > VISIBLE * moved:
        raise NothingShown(
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
