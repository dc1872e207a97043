"""Recorded steps: the logic with a stand-in for the GPU's graph, and the real thing where there is a GPU."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from compress import machine, replay
from compress.budget import Budget
from compress.data import TensorSplit
from compress.descent import Optimization
from compress.method import Clock, PruningMethod, Retrain, State, View
from compress.methods.admm import ADMM
from compress.train import Task, fit
from tests.support import tiny_task, view_of


class Recorder:
    """Runs what it records; replaying is counted, and sets the loss as a graph would: into the same tensor."""

    made: list["Recorder"]

    def __init__(self) -> None:
        self.replays = 0
        self.made.append(self)

    def capture_begin(self) -> None: ...

    def capture_end(self) -> None: ...

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    Recorder.made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return Recorder.made


def run(task: Task, method: PruningMethod, epochs: int = 3) -> list[float]:
    view = view_of(
        {name: value for name, value in task.model.named_parameters() if value.dim() > 1}, Budget(sparsity=0.5)
    )
    losses: list[float] = []
    fit(
        task, Optimization(epochs, batch_size=16, lr=1e-2), method, {}, view,
        stage="test", report=lambda epoch: losses.append(epoch.loss),
    )  # fmt: skip
    return losses


def test_a_state_that_stays_is_recorded_once(graphs: list[Recorder]) -> None:
    task = tiny_task()
    steps = 3 * -(-len(task.data.train) // 16)
    run(replace(task, graphs=True), Retrain())
    assert len(graphs) == 1
    assert graphs[0].replays == steps - replay.EAGER


def test_a_state_that_changes_at_every_step_is_never_recorded(graphs: list[Recorder]) -> None:
    @dataclass(frozen=True)
    class Restless(PruningMethod):
        def update(self, view: View, state: State, clock: Clock) -> State:
            return replace(state, numbers={"step": clock.step})

    task = tiny_task()
    assert run(replace(task, graphs=True), Restless()) == run(tiny_task(), Restless())
    assert not graphs


def test_a_network_that_cannot_be_recorded_trains_step_by_step(
    graphs: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Recorder) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "capture_begin", refuse)
    monkeypatch.setattr(Recorder, "capture_end", refuse)
    assert run(replace(tiny_task(), graphs=True), Retrain()) == run(tiny_task(), Retrain())
    assert len(graphs) == 1


def moved(split: Any, device: torch.device) -> TensorSplit:
    assert isinstance(split, TensorSplit)
    return replace(split, images=split.images.to(device), labels=split.labels.to(device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", [Retrain(), ADMM()])
def test_recorded_steps_train_as_others_do(method: PruningMethod) -> None:
    device = machine.device("cuda")

    def trained(graphs: bool) -> tuple[list[float], Tensor]:
        task = tiny_task()
        data = task.data
        parts = {name: moved(getattr(data, name), device) for name in ("train", "held_out", "test")}
        task = replace(task, model=task.model.to(device), data=replace(data, **parts), device=device, graphs=graphs)
        return run(task, method, epochs=10), task.model.get_parameter("fc.weight").detach()

    (losses, weight), (expected, other) = trained(True), trained(False)
    assert losses == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(weight, other, rtol=1e-2, atol=1e-3)
