"""The model as a graph of ATen operators, and the one pass over it that runs every operator's rule."""

import copy
import io
import logging
import math
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, nn
from torch.fx import Node
from torch.utils._pytree import TreeSpec, tree_map_only

from compress.compaction.analysis import Analysis
from compress.compaction.ids import Tagged, unlabelled
from compress.compaction.inputs import Example
from compress.compaction.rules import find_rule
from compress.compaction.trace import Trace, concrete
from compress.errors import CompactionError, UsageError, first_line

SYMBOLS = (SymInt, SymFloat, SymBool, int, float, bool)
"""What a node that computes a size holds."""


def hint(size: Any) -> Any:
    """The value of a symbolic size in the example."""
    return size.node.hint if isinstance(size, SymInt | SymFloat | SymBool) else size


@dataclass(frozen=True)
class Graph:
    """The exported graph of a model in evaluation mode; it does not depend on the weights' values.

    result: how the model's results are nested.
    batch: samples in the example.
    typical: a parameter with the model's number type, `dtype`, on its device.
    nodes: ATen operators in execution order.
    leaves: placeholder -> parameter or buffer; tied ones share one name.
    constants: placeholder -> a tensor written in the code.
    owners: parameter or buffer -> the class of the module that holds it.
    fixed: buffers that a saved state would not bring back; they keep their shape.
    """

    result: TreeSpec
    batch: int
    typical: str | None
    dtype: torch.dtype
    nodes: tuple[Node, ...]
    leaves: dict[str, str]
    constants: dict[str, Tensor]
    owners: dict[str, type[nn.Module]]
    fixed: frozenset[str]

    @cached_property
    def calls(self) -> dict[str, int]:
        """How many operators read each parameter or buffer."""
        counts: dict[str, int] = dict.fromkeys(self.leaves.values(), 0)
        for node in self.nodes:
            if node.op == "placeholder" and node.name in self.leaves:
                counts[self.leaves[node.name]] += len(node.users)
        return counts


def reference_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode: what is analysed and what a result is proved on.

    float64, or float32 where two copies in float64 would not fit into memory.
    """
    elements = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    dtype = torch.float64 if 2.5 * 8 * elements < available_memory() else torch.float32
    try:
        return copy.deepcopy(model).to(device="cpu", dtype=dtype).eval()
    except RuntimeError as cause:
        raise UsageError(
            f"the model cannot be copied ({first_line(cause)}); if torch.nn.utils.prune or weight_norm was used, "
            "call prune.remove or remove_weight_norm first"
        ) from cause


def available_memory() -> float:
    """Bytes that could be used without swapping, also by a container's limit; infinite where nothing says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    free = math.inf if kilobytes is None else 1024 * float(kilobytes)
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return min(free, float(limit) - float(used))  # "max" is no number: no limit
    except (OSError, ValueError):
        return free


def load(model: nn.Module, example: Example, *, any_batch: bool = False) -> Graph:
    """Export a reference copy; CompactionError if it cannot be exported.

    Args:
        model: from `reference_copy`.
        example: inputs the model accepts.
        any_batch: keep the first axis of the inputs symbolic where the model allows it; slower.
    """
    names = first_names(model)
    if any_batch:
        example = example.repeated(2)  # torch.export takes a batch of 1 for a constant
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator would hide the projections
    try:
        with quiet():
            free = example.any_batch(model) if any_batch else None
            program = torch.export.export(model, example.args, example.kwargs, dynamic_shapes=free, strict=False)
    except Exception as cause:  # torch.export documents no closed set of errors
        raise CompactionError(
            f"torch.export cannot follow the model in evaluation mode: {first_line(cause)}"
        ) from cause
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    signature = program.graph_signature
    leaves = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {name: program.constants[key] for name, key in signature.inputs_to_lifted_tensor_constants.items()}
    saved = set(model.state_dict())
    typical = next((name for name, p in model.named_parameters() if p.dtype.is_floating_point), None)
    return Graph(
        result=program.call_spec.out_spec,
        batch=example.batch,
        typical=typical,
        dtype=model.get_parameter(typical).dtype if typical is not None else torch.float64,
        nodes=tuple(program.graph.nodes),
        leaves={name: names[target] for name, target in leaves.items()},
        constants={name: value for name, value in constants.items() if isinstance(value, Tensor)},
        owners={name: type(model.get_submodule(name.rpartition(".")[0])) for name in set(names.values())},
        fixed=frozenset(name for name in names.values() if name not in saved),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's own warnings, and the graph it prints where it gives up, are no news to our caller."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def leaf_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def values(model: nn.Module) -> dict[str, Tensor]:
    """What `leaf_tensors` hold, without gradients."""
    return {name: tensor.detach() for name, tensor in leaf_tensors(model).items()}


def first_names(model: nn.Module) -> dict[str, str]:
    """Each parameter's and buffer's name -> the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in leaf_tensors(model).items()}


def analyse(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    *,
    patterns: Mapping[str, Tensor] | None = None,
    blocks: frozenset[str] = frozenset(),
) -> Analysis:
    """Run every operator's rule once, in order.

    Args:
        graph: from `load`.
        tensors: values of parameters and buffers by name.
        patterns: the same in the model's own number type; read for their zeros only.
        blocks: nodes whose results must stay blocks (`Trace.rectangular`).
    """
    trace = Trace(graph.owners, graph.calls, graph.fixed, tensors, graph.batch, patterns or {})
    run = _Run(graph, trace)
    for node in graph.nodes:
        if node.op == "placeholder":
            run.env[node] = run.placeholder(node)
        elif node.op == "get_attr":
            run.env[node] = None  # the body of a higher-order operator, which has no rule
        elif node.op == "call_function":
            run.env[node] = run.call(node)
            if node.name in blocks and isinstance(run.env[node], Tagged):
                trace.rectangular(run.env[node].ids)
        elif node.op == "output":
            torch.fx.map_arg(node.args, lambda result: trace.freeze_all(run.env[result]))
    return trace.finish(run.env)


@dataclass
class _Run:
    """One interpretation: the tagged value of each node, and which nodes may share memory."""

    graph: Graph
    trace: Trace
    env: dict[Node, Any] = field(default_factory=dict)
    memory: dict[Node, Node] = field(default_factory=dict)  # node -> the node whose memory it may look into
    sharers: dict[Node, list[Node]] = field(default_factory=dict)  # the same the other way round

    @cached_property
    def order(self) -> dict[Node, int]:
        return {node: index for index, node in enumerate(self.graph.nodes)}

    def placeholder(self, node: Node) -> Tagged:
        shape = concrete(node.meta["val"]) if isinstance(node.meta["val"], Tensor) else torch.Size()
        if node.name in self.graph.leaves:
            name = self.graph.leaves[node.name]
            ids = torch.zeros((), dtype=torch.int64).expand(shape)
            return Tagged(ids, self.trace.tensors[name], source=name, dtype=node.meta["val"].dtype)
        plain = unlabelled(shape, self.graph.constants.get(node.name))
        return replace(plain, dtype=getattr(node.meta["val"], "dtype", torch.float64))

    def call(self, node: Node) -> Any:
        if isinstance(node.meta.get("val"), SYMBOLS):
            return hint(node.meta["val"])
        self.trace.enter(node)
        if node.target is operator.getitem:
            (source,) = node.all_input_nodes
            self.share(node, source)
            return self.env[source][node.args[1]]
        rule = find_rule(node.target)
        args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda operand: self.env[operand])
        if not rule.takes_parameters:
            args, kwargs = self.trace.open((args, kwargs))
        result = rule.run(self.trace, *args, **kwargs)
        result = with_dtypes(result, node.meta.get("val"))
        for victim in written(node):
            result = self.overwrite(victim, node, result)
        if rule.is_view and isinstance(node.args[0], Node):
            self.share(node, node.args[0])
        return result

    def share(self, node: Node, source: Node) -> Node:
        """Note that a node may look into another's memory; returns the node that owns it."""
        root = self.memory.get(source, source)
        self.memory[node] = root
        self.sharers.setdefault(root, []).append(node)
        return root

    def overwrite(self, victim: Node, node: Node, result: Any) -> Any:
        """An in-place operator: whoever else looks into the same memory no longer holds what was recorded."""
        root = self.share(node, victim)
        sharing = [other for other in (root, *self.sharers[root]) if other in self.env and other is not victim]
        now = self.order[node]
        stale = any(self.order[user] > now for other in sharing for user in other.users)
        if not stale and root.op != "placeholder" and isinstance(result, Tagged):
            self.env[victim] = result
            return result
        return self.spoil([*sharing, victim], node, result)

    def spoil(self, nodes: list[Node], node: Node, result: Any) -> Any:
        """Freeze everything that looks into overwritten memory, and forget its values."""
        operands = [self.env[n] for n in (*nodes, *node.all_input_nodes)]
        self.trace.unknown(result, operands, why="writes into a view of another tensor")
        for other in nodes:
            self.env[other] = tree_map_only(Tagged, forget, self.env[other])
        return tree_map_only(Tagged, forget, result)


def forget(tagged: Tagged) -> Tagged:
    """The same shape, nothing known."""
    return replace(unlabelled(tagged.ids.shape), dtype=tagged.dtype)


def with_dtypes(result: Any, meta: Any) -> Any:
    """Note each result's number type, which the float64 values do not show."""
    if isinstance(result, Tagged):
        return replace(result, dtype=meta.dtype)
    if isinstance(result, tuple):
        return tuple(with_dtypes(*pair) for pair in zip(result, meta, strict=True))
    return result


def written(node: Node) -> list[Node]:
    """The operands an operator writes into, by its schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    operands = [
        node.kwargs.get(argument.name, node.args[index] if index < len(node.args) else None)
        for index, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [operand for operand in operands if isinstance(operand, Node)]
