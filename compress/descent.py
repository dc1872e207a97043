"""How weights move: the optimizer of a phase, its learning rate, and the loss scale of float16."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from compress.schedule import learning_rate


@dataclass(frozen=True)
class Optimization:
    """How one phase is trained; the learning rate follows ``schedule`` over the whole phase."""

    epochs: int
    batch_size: int = 128
    lr: float = 1e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    weight_decay: float = 0.0
    momentum: float = 0.9
    warmup: float = 0.0
    distill: float = 0.0
    """Share of the loss that is distance from the teacher's answers; 0 trains on the labels alone."""


@dataclass(frozen=True)
class Descent:
    """The optimizer, and the loss scale that keeps float16 gradients from vanishing (off for other types)."""

    optimization: Optimization
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @classmethod
    def of(
        cls,
        optimization: Optimization,
        parameters: Iterable[Tensor],
        trainable: Mapping[str, Tensor],
        device: torch.device,
        autocast: torch.dtype | None,
    ) -> "Descent":
        """Fresh ones for a phase; a method's trainables form a group of their own, without weight decay."""
        scaler = torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)
        return cls(optimization, _optimizer(optimization, parameters, trainable), scaler)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def start(self, progress: float) -> float:
        """Begin a step at this fraction of the phase: set the learning rate and return it, clear the gradients."""
        asked = self.optimization
        lr = asked.lr * learning_rate(asked.schedule, progress, asked.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        return lr

    def step(self) -> float:
        """One step on unscaled gradients, of what has one; returns the loss scale that was in force."""
        scale = float(self.scaler.get_scale())
        if any(tensor.grad is not None for group in self.optimizer.param_groups for tensor in group["params"]):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return scale


def _optimizer(
    asked: Optimization, parameters: Iterable[Tensor], trainable: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(parameters)}]
    if trainable:
        groups.append({"params": list(trainable.values()), "weight_decay": 0.0})
    if asked.optimizer == "sgd":
        momentum = asked.momentum
        return torch.optim.SGD(
            groups, asked.lr, momentum=momentum, weight_decay=asked.weight_decay, nesterov=momentum > 0, fused=True
        )
    kind = torch.optim.Adam if asked.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, asked.lr, weight_decay=asked.weight_decay, fused=True)
