"""CUDA graphs for the training loop: small networks spend most of a step launching kernels one by one."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress.descent import Descent
from compress.method import Batch, State

if TYPE_CHECKING:
    from compress.train import Trainee

EAGER = 3
"""Steps with one state before its graph is recorded; libraries set themselves up in them, and a state that changes at
every step is never worth a graph."""


class Replay:
    """Forward and backward pass of a batch, recorded once per state of the method and replayed after that.

    A recorded step computes the same as the step itself: same kernels, same order. Batches of another shape, states
    that change at every step, and networks that cannot be recorded (the host reads values, as in ``.item()``) run
    step by step.

    Attributes:
        step: computes the gradients of a batch and returns its loss.
        trainee: what the step runs; its state decides how long a recording holds.
        descent: its parameters' gradients are put back after every replay.
    """

    def __init__(self, step: Callable[[Batch], Tensor], trainee: "Trainee", descent: Descent) -> None:
        self.step = step
        self.trainee = trainee
        self.descent = descent
        self._state: State | None = None
        self._eager = 0
        self._regular: tuple[torch.Size, torch.Size] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._possible = True

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of a batch on the GPU; gradients are left where the step itself leaves them."""
        if self.trainee.state is not self._state:
            self._state, self._eager, self._graph = self.trainee.state, 0, None
        shapes = batch[0].shape, batch[1].shape
        if self._graph is None and self._possible and self._eager >= EAGER and shapes == self._regular:
            self._record(batch)
        if self._graph is not None and shapes == self._regular:
            return self._replayed(batch)
        self._regular = self._regular or shapes
        self._eager += 1
        return self.step(batch)

    def _record(self, batch: Batch) -> None:
        self._batch = (batch[0].clone(), batch[1].clone())  # in the same layout
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            graph.capture_begin()
            try:
                self._loss = self.step(self._batch)
            finally:
                graph.capture_end()
        except RuntimeError:
            self._possible = False
            self.descent.optimizer.zero_grad(set_to_none=True)
            return
        self._graph = graph
        self._effective = self.trainee.effective
        self._grads = [(p, p.grad) for group in self.descent.optimizer.param_groups for p in group["params"]]

    def _replayed(self, batch: Batch) -> Tensor:
        assert self._graph is not None
        for static, now in zip(self._batch, batch, strict=True):
            static.copy_(now)
        self._graph.replay()
        self.trainee.effective = self._effective
        for parameter, grad in self._grads:
            parameter.grad = grad
        return self._loss
