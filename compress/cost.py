"""What a network costs: prunable weights and multiply-accumulates, under one convention."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.errors import UsageError

MACS_CONVENTION = (
    "multiply-accumulates of convolution and linear layers at batch 1; "
    "bias, normalisation, activation, pooling and products of two activations are not counted"
)

# Which parameters of which layer are weights; everything else (bias, normalisation, embedding) never counts.
_WEIGHTS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.modules.conv._ConvNd, ("weight",)),
    (nn.Linear, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)


def prunable(model: nn.Module) -> tuple[str, ...]:
    """Name the prunable parameters in the model's order: weights of convolution and linear layers.

    The input projections of ``nn.MultiheadAttention`` are linear layers too.  A shared weight counts once.

    >>> prunable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 5)))
    ('0.weight', '2.weight')
    """
    weights = {
        id(parameter)
        for module in model.modules()
        for kind, names in _WEIGHTS
        if isinstance(module, kind)
        for name in names
        if (parameter := module._parameters.get(name)) is not None
    }
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in weights)


def positions(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Count, for each prunable parameter, the multiply-accumulates of one of its entries at batch 1.

    A convolution uses each weight once per output position (H*W), a transposed one once per input position,
    a linear layer once per leading position.  MACs are therefore the sum of numel * positions.  A weight that
    is not used in evaluation mode has 0; one used in part has the mean of its entries, rounded down.

    Args:
        model: run once in evaluation mode, on its own device, and left as it was.
        input_shape: of one input, without the batch: (C, H, W).

    Raises:
        UsageError: the model does not take this input.

    >>> positions(nn.Conv2d(1, 2, 3), (1, 5, 6))
    {'weight': 12}
    """
    parameters = dict(model.named_parameters())
    return {name: count // parameters[name].numel() for name, count in _counted(model, input_shape).macs.items()}


def execution_order(model: nn.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Name the prunable parameters in the order in which one input meets them; unused ones come last.

    Raises:
        UsageError: the model does not take this input.

    >>> execution_order(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)), (3,))
    ('0.weight', '1.weight')
    """
    counter = _counted(model, input_shape)
    return tuple(dict.fromkeys([*counter.met, *counter.macs]))


def _counted(model: nn.Module, input_shape: Sequence[int]) -> "_Counter":
    """The counter after one input of zeros."""
    parameters = dict(model.named_parameters())
    counter = _Counter({name: parameters[name] for name in prunable(model)})
    some = next(model.parameters(), torch.empty(0))
    example = torch.zeros(1, *input_shape, dtype=some.dtype, device=some.device)
    try:
        with _evaluating(model), torch.no_grad(), counter:
            model(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"the model does not take an input of shape {tuple(example.shape)}: {reason}; "
            "check that model and data belong together"
        ) from error
    return counter


def macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Count the multiply-accumulates of one input, under ``MACS_CONVENTION``.

    >>> macs(nn.Linear(3, 4), (3,))
    12
    """
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() * count for name, count in positions(model, input_shape).items())


def weight_count(model: nn.Module) -> int:
    """Count the prunable weights.

    >>> weight_count(nn.Linear(3, 4))
    12
    """
    return sum(weight.numel() for weight in _weights(model))


def nonzero_count(model: nn.Module) -> int:
    """Count the prunable weights that are not exactly zero."""
    return sum(int(torch.count_nonzero(weight)) for weight in _weights(model))


def _weights(model: nn.Module) -> list[Tensor]:
    parameters = dict(model.named_parameters())
    return [parameters[name].detach() for name in prunable(model)]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up the multiply-accumulates that each weight takes part in.

    It watches the operators rather than the layers, so that a weight handed to a functional call, as
    attention layers do, is seen as well.  A weight is recognised by its storage, through views such as .t().
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.macs = dict.fromkeys(weights, 0)
        self.met: list[str] = []
        self._names = {_storage(weight): name for name, weight in weights.items()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **kwargs or {})
        if func in _MACS:
            operands, count = _MACS[func]
            for operand in operands:
                name = self._names.get(_storage(args[operand]))
                if name is not None:
                    self.macs[name] += count(out, *args)
                    self.met.append(name)
        return out


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    transposed = rest[4]
    # each entry of the weight meets each output position (each input position if transposed) of its filter
    seen = x if transposed else out
    return weight.numel() * (seen.numel() // seen.shape[1])


def _product(out: Tensor, left: Tensor, right: Tensor, *_: Any) -> int:
    return out.numel() * left.shape[-1]


def _sum_and_product(out: Tensor, _added: Tensor, left: Tensor, right: Tensor, *_: Any) -> int:
    return out.numel() * left.shape[-1]


_aten = torch.ops.aten
# operator: which of its operands may be a weight, and the count
_MACS: dict[Any, tuple[tuple[int, ...], Callable[..., int]]] = {
    _aten.convolution.default: ((1,), _convolution),
    _aten.mm.default: ((0, 1), _product),
    _aten.mv.default: ((0,), _product),
    _aten.bmm.default: ((0, 1), _product),
    _aten.addmm.default: ((1, 2), _sum_and_product),
    _aten.addmv.default: ((1,), _sum_and_product),
    _aten.baddbmm.default: ((1, 2), _sum_and_product),
}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator would hide the projections
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes.items():
            module.training = training
