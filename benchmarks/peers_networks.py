"""Torch-Pruning's networks, as factories that a recipe names: pretrained, pruned by the peer, ready to be fine-tuned.

Pruned as its documentation shows: a dependency graph, global ranking by group L1 norm, repeated small steps until the
multiply-accumulates are at most the share asked for. Only the first convolution of every residual block is pruned: on
the other channels the peer fails, because the shortcuts of these networks pad with zeros.
"""

import copy
import functools

import torch
from torch import nn

from compress_models import load, load_weights

STEPS = 200


@functools.cache
def pruned(name: str, weights: str, share: float) -> nn.Module:
    """A CIFAR network cut down by Torch-Pruning to a share of its multiply-accumulates; the same object every time."""
    import torch_pruning as tp  # a dependency of the benchmarks only

    model = load(name)
    load_weights(model, weights)
    model.eval()
    example = torch.randn(1, 3, 32, 32)
    pruner = tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=1),
        global_pruning=True,
        pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=[m for n, m in model.named_modules() if not _may_go(n, m)],
    )
    whole = tp.utils.count_ops_and_params(model, example)[0]
    for _ in range(STEPS):
        if tp.utils.count_ops_and_params(model, example)[0] <= share * whole:
            break
        pruner.step()
    return model


def _may_go(name: str, module: nn.Module) -> bool:
    return name.endswith(".conv1") or not isinstance(module, nn.Conv2d | nn.Linear)


def resnet20(weights: str, share: float) -> nn.Module:
    """ResNet-20 of the CIFAR family, pruned by the peer."""
    return copy.deepcopy(pruned("resnet20", weights, share))


def resnet56(weights: str, share: float) -> nn.Module:
    """ResNet-56 of the CIFAR family, pruned by the peer."""
    return copy.deepcopy(pruned("resnet56", weights, share))
