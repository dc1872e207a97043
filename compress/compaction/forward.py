"""A rewritten forward pass as a model's own, and as plain data that a checkpoint can hold.

The model keeps its modules, parameters and names; its class becomes a subclass whose `forward` runs the graph.
What only training does and evaluation never reaches (stochastic depth, auxiliary heads) is not in the graph;
dropout and batch normalisation are, and follow `train()` and `eval()`.
"""

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Graph as FxGraph
from torch.fx import Node
from torch.utils._pytree import TreeSpec, tree_unflatten, treespec_dumps, treespec_loads

from compress.compaction.inputs import Example
from compress.errors import CompactionError, UsageError

_ARITHMETIC = {
    f"operator.{function.__name__}": function
    for function in (operator.mul, operator.add, operator.sub, operator.floordiv, operator.mod, operator.getitem,
                     operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.neg)
}  # fmt: skip
# ATen operators that touch more than tensors
_FILES = frozenset({"from_file"})


@dataclass(frozen=True)
class Forward:
    """A forward pass over a model's own parameters.

    graph: ATen operators; attributes are paths into the model. constants: tensors it needs, by name.
    result: how the results are nested. inputs: the example's arguments in order, None for a tensor; what is no
    tensor is part of the graph.
    """

    graph: FxGraph
    constants: Mapping[str, Tensor]
    result: TreeSpec
    inputs: tuple[Any, ...]


def install(model: nn.Module, forward: Forward) -> None:
    """Make a graph the model's forward pass, in place."""
    kind = type(model)
    original = getattr(kind, "_rewritten_from", kind)
    signature = inspect.signature(original.forward)
    code = forward.graph.python_code("self")
    space = dict(code.globals)
    exec(code.src, space)  # torch.fx made this source from a graph of ATen operators
    run = cast(Callable[..., Any], space["forward"])

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        flat = Example((self, *args), kwargs).ordered(signature).leaves[1:]
        if len(flat) != len(forward.inputs):
            raise TypeError(
                f"the rewritten forward takes the {len(forward.inputs)} inputs of its example, got {len(flat)}"
            )
        for given, fixed in zip(flat, forward.inputs, strict=True):
            if not isinstance(given, Tensor) and given != fixed:
                raise TypeError(f"the rewritten forward was made for {fixed!r}, got {given!r}; compact with that value")
        return tree_unflatten(list(run(self, *flat)), forward.result)

    call.__signature__ = signature  # type: ignore[attr-defined]  # exporters ask for the names of the inputs
    call.__doc__ = original.forward.__doc__
    model.__class__ = type(original.__name__, (original,), {
        "forward": call, "_rewritten_from": original, "_forward_graph": forward, "__module__": original.__module__,
    })  # fmt: skip
    some = next(iter(model.parameters()), None)
    for name, value in forward.constants.items():
        dtype = some.dtype if some is not None and value.dtype.is_floating_point else value.dtype
        model.register_buffer(name, value.to(device=some.device if some is not None else None, dtype=dtype), False)


def installed(model: nn.Module) -> Forward | None:
    """The model's rewritten forward pass, if it has one."""
    found: Forward | None = getattr(type(model), "_forward_graph", None)
    return found


def to_data(forward: Forward) -> dict[str, Any]:
    """Plain lists, dictionaries, strings and numbers."""
    numbers: dict[Node, int] = {}
    rows: list[Any] = []
    for node in forward.graph.nodes:
        numbers[node] = len(rows)
        target = _name_of(node.target) if node.op == "call_function" else str(node.target)
        rows.append([node.op, target, _encode(list(node.args), numbers), _encode(dict(node.kwargs), numbers)])
    constants = {name: [str(value.dtype), value.tolist()] for name, value in forward.constants.items()}
    try:
        result = treespec_dumps(forward.result)
    except NotImplementedError as cause:  # torch's own word for a namedtuple or a class it cannot write
        raise CompactionError(
            f"results nested like this cannot be stored ({cause}); return a tuple or dictionary"
        ) from cause
    return {"nodes": rows, "constants": constants, "result": result, "inputs": list(forward.inputs)}


def from_data(data: Mapping[str, Any]) -> Forward:
    """The inverse of `to_data`; UsageError for anything but ATen operators and plain arithmetic."""
    graph, made = FxGraph(), list[Node]()
    for op, target, args, kwargs in data["nodes"]:
        plain_args, plain_kwargs = _decode(args, made), _decode(kwargs, made)
        if op == "call_function":
            made.append(graph.call_function(_function(target), tuple(plain_args), plain_kwargs))
        elif op in ("placeholder", "get_attr", "output"):
            if op == "get_attr" and not _harmless(target):
                raise UsageError(f"the stored forward pass reads {target!r}, which is no attribute of a model")
            made.append(graph.create_node(op, target, tuple(plain_args), plain_kwargs))
        else:
            raise UsageError(f"the stored forward pass holds a {op!r}, which is no part of one")
    constants = {name: torch.tensor(value, dtype=_dtype(dtype)) for name, (dtype, value) in data["constants"].items()}
    return Forward(graph, constants, treespec_loads(data["result"]), tuple(data["inputs"]))


def _name_of(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)  # aten.view.default
    return f"operator.{target.__name__}"


def _function(name: str) -> Callable[..., Any]:
    if name in _ARITHMETIC:
        return _ARITHMETIC[name]
    space, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    known = space == "aten" and packet not in _FILES
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None) if known else None
    if found is None:
        raise UsageError(f"the stored forward pass calls {name!r}; only ATen operators and arithmetic are run")
    return cast(Callable[..., Any], found)


def _harmless(path: str) -> bool:
    *parents, last = path.split(".")
    return not any(part.startswith("__") for part in (*parents, last))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise UsageError(f"the stored forward pass has numbers of type {name!r}, which torch does not know")
    return found


def _encode(value: Any, numbers: Mapping[Node, int]) -> Any:
    if isinstance(value, Node):
        return {"node": numbers[value]}
    if isinstance(value, (list, tuple)):
        return [_encode(item, numbers) for item in value]
    if isinstance(value, dict):
        return {"map": {key: _encode(item, numbers) for key, item in value.items()}}
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    return value


def _decode(value: Any, made: list[Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, made) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "node":
        return made[held]
    if kind == "map":
        return {key: _decode(item, made) for key, item in held.items()}
    if kind == "device":
        return torch.device(held)
    if kind == "slice":
        return slice(*held)
    found = getattr(torch, str(held), None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise UsageError(f"the stored forward pass holds torch.{held}, which is no plain value")
    return found
