"""The proof: the narrowed model computes what the original computes, on several random inputs."""

from collections.abc import Callable, Sequence
from typing import Any

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
    """The largest max |narrow - original| / max |original| of any output over all inputs; both models in eval mode.

    A batch size that the original itself does not accept is left out.

    Raises:
        CompactionError: the models differ by the number type's tolerance (1e-9 for float64) or more, the output is
            not finite, or it does not depend on the input, so that a comparison shows nothing. It names the layer
            where a difference or a failure is first seen.
    """
    dtype = next((t.dtype for t in original.parameters() if t.dtype.is_floating_point), torch.float64)
    errors: list[float] = []
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
        if seen and len(expected) != len(seen[0]):
            continue  # one result per sample: another batch size has other results
        try:
            found = sample.run(narrow)
        except Exception as cause:
            where = first_difference(original, narrow, sample)
            raise CompactionError(f"the narrowed model does not run{where}: {first_line(cause)}") from cause
        now = differences(expected, found)
        errors = [max(pair) for pair in zip(errors or [0.0] * len(now), now, strict=True)]
        seen.append(expected)
    return _judged(errors, seen, dtype, lambda: first_difference(original, narrow, inputs[0]))


def _judged(errors: list[float], seen: list[list[Tensor]], dtype: torch.dtype, where: Callable[[], str]) -> float:
    """The largest relative error, every output measured by its own size; raises what `prove` raises."""
    scales = [max(float(t.abs().max()) if t.numel() else 0.0 for t in same) for same in zip(*seen, strict=True)]
    moves = [spread(same) for same in zip(*seen, strict=True)]
    tolerance, rounding = TOLERANCES[dtype], CONSTANT * torch.finfo(dtype).eps
    worst = max((error / scale if scale else error for error, scale in zip(errors, scales, strict=True)), default=0.0)
    if not worst < tolerance:
        raise CompactionError(
            f"the narrowed model differs by {worst:.1e} of the output's size{where()}; only below {tolerance:.0e} is "
            "exact"
        )
    outputs = list(zip(errors, scales, moves, strict=True))
    hidden = any(error > max(VISIBLE * moved, rounding * scale) for error, scale, moved in outputs)
    if hidden or all(moved <= rounding * scale for _, scale, moved in outputs):
        raise NothingShown(
            f"the output changes by only {max(moves, default=0.0):.1e} between inputs (its size is "
            f"{max(scales, default=0.0):.1e}), so a comparison shows nothing: the network is dead or its last layer is "
            "zero; train it or prune less"
        )
    return worst


def first_difference(original: nn.Module, narrow: nn.Module, sample: Example) -> str:
    """' (first seen in NAME)': the first layer whose result differs in value or that fails; '' if none does."""
    expected, found = _results(original, sample), _results(narrow, sample)
    if not found:
        return ""  # a rewritten forward pass calls no layers
    for name, result in expected.items():
        if name not in found:
            return f" (first seen in {name})"
        same = result.shape == found[name].shape
        if same and not torch.allclose(result, found[name], rtol=1e-6, atol=1e-9):
            return f" (first seen in {name})"
    return ""


def _results(model: nn.Module, sample: Example) -> dict[str, Tensor]:
    """The first result of every layer, in the order of calls, as far as the model runs."""
    results: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if name and not list(module.children()):

            def keep(_: nn.Module, __: Any, result: Any, name: str = name) -> None:
                if isinstance(result, Tensor):
                    results.setdefault(name, result)

            hooks.append(module.register_forward_hook(keep))
    try:
        sample.run(model)
    except Exception:  # the caller has the error already; how far it got is the answer here
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return results


def differences(expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[float]:
    """The largest |a - b| of every pair of outputs; CompactionError if shapes differ or a number is not finite."""
    shapes = ([tuple(t.shape) for t in expected], [tuple(t.shape) for t in found])
    if shapes[0] != shapes[1]:
        raise CompactionError(f"the output's shape changed from {shapes[0]} to {shapes[1]}")
    if not all(bool(tensor.isfinite().all()) for tensor in (*expected, *found)):
        raise CompactionError("the output is not finite (NaN or infinity): nothing can be compared")
    return [float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(expected, found, strict=True)]


def spread(outputs: Sequence[Tensor]) -> float:
    """The largest change of any element of one output over all samples of all inputs."""
    rows = [t.flatten(1) if t.dim() > 1 else t.reshape(1, -1) for t in outputs if t.numel()]
    if not rows:
        return 0.0
    samples = torch.cat([row for row in rows if row.shape[1] == rows[0].shape[1]])
    return float((samples.amax(0) - samples.amin(0)).max())
