"""The one training loop: every method, and plain training, run through `fit`."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress import cost
from compress.data import Data, Split
from compress.descent import Descent, Optimization
from compress.errors import RunError
from compress.masks import Masks, Values
from compress.method import Batch, Clock, PruningMethod, State, View
from compress.replay import Replay

TEMPERATURE = 4.0
"""Softens the teacher's answers."""


@dataclass(frozen=True)
class Task:
    """A model on its data, on one device.

    Attributes:
        model: trained in place.
        data: the three splits.
        device: where the model and the tensors live.
        autocast: dtype of the forward pass's autocast, None for plain float32.
        seed: every random draw derives from it.
        dense_weights: prunable weights of the dense model, the reference of sparsity; None takes the model's own.
        teacher: what a distilled phase imitates, in evaluation mode.
        graphs: whether steps are recorded as CUDA graphs where they can be.
    """

    model: nn.Module
    data: Data
    device: torch.device
    autocast: torch.dtype | None
    seed: int
    dense_weights: int | None = None
    teacher: nn.Module | None = None
    graphs: bool = False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The data's loss, in float32; cross-entropy unless it brings its own."""
        criterion: Callable[[Tensor, Tensor], Tensor] = self.data.loss or nn.functional.cross_entropy
        return criterion(outputs.float(), targets)

    def distance(self, outputs: Tensor, images: Tensor) -> Tensor:
        """T^2 KL(softmax(teacher / T) || softmax(outputs / T)) at T = 4 (Hinton et al. 2015, arXiv:1503.02531).

        Raises:
            ValueError: there is no teacher.
        """
        if self.teacher is None:
            raise ValueError("a distilled phase needs a teacher")
        with torch.no_grad():
            wanted = self.teacher(images).float().div(TEMPERATURE).log_softmax(1)
        found = outputs.float().div(TEMPERATURE).log_softmax(1)
        return TEMPERATURE**2 * nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Epoch:
    """One line of the log."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    sparsity: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on from the end of an epoch, as a weights-only checkpoint can hold it."""

    epoch: int
    model: dict[str, Tensor]
    descent: dict[str, Any]
    state: dict[str, Any]


class Trainee(nn.Module):
    """The model as a method sees it: the forward pass runs on ``method.effective(values)``.

    This module is what DistributedDataParallel wraps, so that all gradients and buffers go through it.
    """

    def __init__(self, model: nn.Module, method: PruningMethod, state: State) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.state = state
        self.effective: Values = {}

    def forward(self, inputs: Tensor) -> Tensor:
        values: Values = dict(self.model.named_parameters())
        if not self.method.trains:  # gradients are wanted, but the parameters are not to learn
            values = {name: value.detach().requires_grad_() for name, value in values.items()}
        self.effective = self.method.effective(values, self.state, training=True)
        for value in self.effective.values():
            if value.requires_grad and not value.is_leaf:
                value.retain_grad()  # methods read the gradient of the weight that was used, dropped ones included
        outputs: Tensor = functional_call(self.model, dict(self.effective), (inputs,))
        return outputs

    def grads(self, scale: float = 1.0) -> Values:
        """Gradients of the effective weights of the last backward pass, the loss scale taken out."""
        found = {name: value.grad for name, value in self.effective.items() if value.grad is not None}
        # A leaf of training is a parameter itself: the scaler has unscaled it already.
        done = {name for name in found if self.effective[name].is_leaf and self.method.trains}
        return {name: grad if name in done or scale == 1 else grad / scale for name, grad in found.items()}


def derive(seed: int, *path: object) -> int:
    """A seed of its own for every place that draws: a 63-bit hash, so an epoch can be repeated alone."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model; convolutions run faster with channels last (1.3x to 2x on the CPUs tried)."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def fit(
    task: Task,
    optimization: Optimization,
    method: PruningMethod,
    masks: Masks,
    view: View,
    *,
    stage: str,
    snapshot: Snapshot | None = None,
    save: Callable[[Snapshot], None] = lambda snapshot: None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> State:
    """Train for ``optimization.epochs`` epochs and return the method's state; the model is changed in place.

    Args:
        task: model, data, device.
        optimization: epochs, batch size, optimizer and its schedule.
        method: its hooks are called at every step.
        masks: masks in force at the start.
        view: the method's view; values and gradients are filled in.
        stage: name of the phase; part of every seed.
        snapshot: where an interrupted run of the same phase stood; continues bit for bit.
        save: called with a snapshot after every epoch.
        report: called with the figures of every epoch.
        tick: called with the fraction of the epoch that is done.

    Raises:
        RunError: the loss is not finite.
    """
    if task.autocast is torch.float16 and not method.trains:
        # without a step no loss scale adapts: gradients that overflow would reach the scores
        task = replace(task, autocast=None)
    view = replace(view, values=dict(task.model.named_parameters()))
    with torch.no_grad():
        state = method.init(view, masks)
    if snapshot:
        task.model.load_state_dict(snapshot.model)
        state = load_state(snapshot.state, state, task.device)
    trainee = Trainee(task.model, method, state)
    learning = task.model.parameters() if method.trains else ()
    descent = Descent.of(optimization, learning, state.trainable, task.device, task.autocast)
    if snapshot:
        descent.load_state_dict(snapshot.descent)
    weights = cost.prunable(task.model)
    backward = _backward(task, trainee, view, descent)
    for epoch in range(snapshot.epoch if snapshot else 0, optimization.epochs):
        started = time.monotonic()
        loss = _epoch(task, trainee, descent, backward, view, epoch, stage, tick)
        with torch.no_grad():
            values = method.effective(view.values, trainee.state, training=False)
        accuracy, sparsity = evaluate(task, task.data.held_out, values), _sparsity(values, weights, task.dense_weights)
        seconds = time.monotonic() - started
        metrics = trainee.state.metrics
        report(Epoch(stage, epoch + 1, optimization.epochs, loss, accuracy, sparsity, seconds, metrics))
        save(Snapshot(epoch + 1, task.model.state_dict(), descent.state_dict(), asdict(trainee.state)))
    return trainee.state


def _epoch(
    task: Task,
    trainee: Trainee,
    descent: Descent,
    backward: Callable[[Batch], Tensor],
    view: View,
    epoch: int,
    stage: str,
    tick: Callable[[float], None],
) -> float:
    """One pass over the training set; returns the mean loss, penalty left out."""
    optimization = descent.optimization
    torch.manual_seed(derive(task.seed, stage, epoch, "dropout"))
    generator = torch.Generator().manual_seed(derive(task.seed, stage, epoch, "batches"))
    method = trainee.method
    whole, rest = divmod(len(task.data.train), optimization.batch_size)
    # A last batch of one image is left out: batch normalisation cannot train on it.
    per_epoch = whole + (rest > 1) or 1
    task.model.train(method.trains)
    total = torch.zeros((), device=task.device)
    for index, batch in enumerate(task.data.train.batches(optimization.batch_size, generator=generator, augment=True)):
        if index == per_epoch:
            break
        step, steps = epoch * per_epoch + index, optimization.epochs * per_epoch
        lr = descent.start(step / steps)
        loss = backward(batch)
        scale = descent.step()
        with torch.no_grad():
            now = replace(view, grads=trainee.grads(scale))
            trainee.state = _apply(
                method.update(now, trainee.state, Clock(step + 1, steps, per_epoch, lr)), view.values
            )
        total += loss
        if index % 50 == 0 or index == per_epoch - 1:
            tick((index + 1) / per_epoch)
            if not torch.isfinite(total):
                raise RunError(
                    f"the loss became {float(total)} in {stage}, epoch {epoch + 1}, by step {index + 1} of "
                    f"{per_epoch}; the state of the last whole epoch is kept. Lower the learning rate "
                    "(--set train.lr=...), then run the same command again"
                )
    return float(total) / per_epoch


def _backward(task: Task, trainee: Trainee, view: View, descent: Descent) -> Callable[[Batch], Tensor]:
    """A step's first half: gradients of loss + penalty of a batch; returns the loss alone."""
    share = descent.optimization.distill

    def step(batch: Batch) -> Tensor:
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
        with torch.autocast(task.device.type, dtype=task.autocast, enabled=task.autocast is not None):
            outputs = trainee(images)
            distance = task.distance(outputs, images) if share else 0.0
        loss = (1 - share) * task.loss(outputs, labels) + share * distance
        total: Tensor = loss + trainee.method.penalty(view, trainee.state)
        descent.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return Replay(step, trainee, descent) if task.graphs else step


def _apply(answer: State | tuple[State, Values], values: Values) -> State:
    if isinstance(answer, State):
        return answer
    state, new = answer
    for name, value in new.items():
        values[name].copy_(value)
    return state


@contextmanager
def evaluating(model: nn.Module, *, record: bool = False) -> Iterator[None]:
    """Evaluation mode, without gradients unless they are to be recorded; the former mode restored."""
    training = model.training
    model.eval()
    try:
        with nullcontext() if record else torch.inference_mode():
            yield
    finally:
        model.train(training)


def evaluate(task: Task, split: Split, values: Values | None = None, batch_size: int = 500) -> float:
    """Score of the model on a split, in float32: top-1 accuracy, or the data's own metric.

    Args:
        task: model, data, device.
        split: what to read, without augmentation.
        values: parameters to use instead of the model's own.
        batch_size: images at once.

    Returns:
        Mean over the samples; for accuracy a fraction.
    """
    metric = task.data.metric or top1
    total, count = 0.0, 0
    with evaluating(task.model):
        for images, labels in split.batches(batch_size):
            images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
            outputs = functional_call(task.model, dict(values), (images,)) if values else task.model(images)
            total += float(metric(outputs, labels).sum())
            count += len(labels)
    return total / max(count, 1)


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for every sample whose largest output is the target, else 0."""
    return (outputs.argmax(1) == targets).float()


def load_state(saved: Mapping[str, Any], fresh: State, device: torch.device) -> State:
    """A method's state from its checkpointed form, on the device; trainables go into those of a fresh state."""
    trainable = {name: fresh.trainable[name] for name in saved["trainable"]}
    with torch.no_grad():
        for name, value in saved["trainable"].items():
            trainable[name].copy_(value)
    moved = {part: {n: t.to(device) for n, t in saved[part].items()} for part in ("masks", "tensors")}
    return State(**{**saved, **moved, "trainable": trainable})


def _sparsity(values: Values, weights: tuple[str, ...], dense_weights: int | None) -> float:
    whole = dense_weights or sum(values[name].numel() for name in weights)
    return 1 - sum(int(values[name].detach().count_nonzero()) for name in weights) / max(whole, 1)
