"""What methods ask of the network between training steps: losses, gradients and activations at given weights."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from compress.errors import UsageError
from compress.masks import Values
from compress.method import Batch
from compress.train import Task, derive, evaluate, evaluating


@dataclass(frozen=True)
class TaskProbe:
    """A `compress.method.Probe` of a task; nothing it does changes the model."""

    task: Task

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """At most ``count`` batches of the training set, without augmentation; the same at every call."""
        generator = torch.Generator().manual_seed(derive(self.task.seed, "probe"))
        return itertools.islice(self.task.data.train.batches(size, generator=generator), count)

    def loss(self, values: Values, batch: Batch) -> Tensor:
        """Mean loss with these parameters, in float32; differentiable in them."""
        images, targets = batch
        with evaluating(self.task.model, record=torch.is_grad_enabled()):
            return self.task.loss(functional_call(self.task.model, dict(values), (images,)), targets)

    def grads(self, values: Values, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the mean loss."""
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(self.loss(leaves, batch), list(leaves.values()), allow_unused=True)
        return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), found, strict=True)}

    def per_sample_grads(self, values: Values, batch: Batch) -> dict[str, Tensor]:
        """Gradient of every sample's loss, shape (samples, *parameter) each.

        Raises:
            UsageError: the network cannot be mapped over samples (data-dependent control flow).
        """
        images, targets = batch

        def loss(parameters: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
            outputs = functional_call(self.task.model, parameters, (image[None],))
            return self.task.loss(outputs, target[None])

        plain = {name: value.detach() for name, value in values.items()}
        try:
            with evaluating(self.task.model, record=True):
                found: dict[str, Tensor] = vmap(grad(loss), (None, 0, 0))(plain, images, targets)
        except RuntimeError as error:
            raise UsageError(f"gradients per sample are not to be had from this network: {error}") from None
        return found

    def inputs(self, values: Values, layers: tuple[str, ...], batch: Batch) -> Mapping[str, Tensor]:
        """What enters each of the named layers.

        Raises:
            UsageError: a layer is not called by the forward pass.
        """
        seen: dict[str, Tensor] = {}

        def note(layer: str) -> torch.utils.hooks.RemovableHandle:
            def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                seen[layer] = arguments[0].detach()

            return self.task.model.get_submodule(layer).register_forward_pre_hook(hook)

        handles = [note(layer) for layer in layers]
        try:
            with evaluating(self.task.model):
                functional_call(self.task.model, dict(values), (batch[0],))
        finally:
            for handle in handles:
                handle.remove()
        if missing := set(layers) - set(seen):
            raise UsageError(f"the forward pass does not call {', '.join(sorted(missing))}; choose another method")
        return seen

    def windows(self, values: Values, layers: tuple[str, ...], batch: Batch) -> Mapping[str, Tensor]:
        """What each output position of the named layers is computed from, as views of what enters them.

        Returns:
            Shape (images, *positions, inputs, *kernel); a linear layer has no kernel axes. The sum of a window
            times an output's weights is that output, bias aside.

        Raises:
            UsageError: a layer is not called by the forward pass, or is no such layer.
        """
        inputs = self.inputs(values, layers, batch)
        return {layer: _windows(layer, self.task.model.get_submodule(layer), inputs[layer]) for layer in layers}

    def accuracy(self, values: Values) -> float:
        """Score on the held-out part of the training set."""
        return evaluate(self.task, self.task.data.held_out, values)


def _windows(name: str, layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return x
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.groups > 1:
        raise UsageError(
            f"{name} is {str(layer).partition(chr(10))[0]}; only linear layers and convolutions of one group are read "
            "window by window: choose another method"
        )
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode)
    for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    return x.movedim(1, 1 + len(layer.kernel_size))
