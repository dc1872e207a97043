"""Torch-Pruning on the same network: half of every layer by magnitude, within a time limit.

Another job than ours: it narrows without promising the same function. Counted as done when it ends without an error,
something was cut, and the narrowed network gives outputs of the right shape.
"""

import signal
import time
from typing import Any

import torch
from compaction_measure import SHARE, size
from compaction_models import build
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class OutOfTimeError(BaseException):
    """Not an Exception, which the peer's own code might catch."""


def prune(name: str, limit: int) -> dict[str, Any]:
    """Build the dependency graph, prune in place, run; an error becomes the row's reason."""
    model, example = build(name)
    row: dict[str, Any] = {"image": example.shape[-1], "params_before": size(model), "seconds": {}}
    expected = shapes(model, example)
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(limit)
    started = time.perf_counter()
    try:
        pruner = make_pruner(model, example)
        row["seconds"]["build"] = time.perf_counter() - started
        pruner.step()
        row["seconds"]["prune"] = time.perf_counter() - started - row["seconds"]["build"]
        found = shapes(model, example)
    except OutOfTimeError:
        return row | {"ok": False, "reason": f"no result in {limit} s"}
    finally:
        signal.alarm(0)
    row |= {"params_after": size(model), "kept": size(model) / row["params_before"]}
    if found != expected:
        row |= {"ok": False, "reason": f"output shape {expected} became {found}"}
    elif row["kept"] == 1:
        row |= {"ok": False, "reason": "ended without an error, but cut nothing"}
    return row


def make_pruner(model: nn.Module, example: Tensor) -> Any:
    """MagnitudePruner as its documentation sets it up: output layers left alone, head counts given."""
    import torch_pruning as tp  # the benchmark runs without it

    heads = {module: module.num_heads for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    return tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=SHARE,
        ignored_layers=output_layers(model, example),
        num_heads=heads,
    )


def out_of_time(*_: object) -> None:
    raise OutOfTimeError


@torch.no_grad()
def shapes(model: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    """Shape of every output tensor."""
    return [tuple(leaf.shape) for leaf in tree_leaves(model(example))]


def output_layers(model: nn.Module, example: Tensor) -> list[nn.Module]:
    """Convolutions and linear layers that no other one stands behind: classifiers, feature maps of a backbone."""
    kinds = nn.modules.conv._ConvNd | nn.Linear
    owners = {module.weight: module for module in model.modules() if isinstance(module, kinds)}
    found: dict[nn.Module, None] = {}
    seen = set()
    ahead = [leaf.grad_fn for leaf in tree_leaves(model(example))]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        layer = next((owners[weight] for weight in weights_of(node) if weight in owners), None)
        if layer is None:
            ahead += [before for before, _ in node.next_functions]
        else:
            found[layer] = None
    return list(found)


def weights_of(node: Any) -> list[nn.Parameter]:
    """The parameters an autograd node reads, directly or transposed."""
    inputs = [before for before, _ in node.next_functions if before is not None]
    for before in list(inputs):
        if "TBackward" in before.name():
            inputs += [deeper for deeper, _ in before.next_functions]
    return [before.variable for before in inputs if hasattr(before, "variable")]
