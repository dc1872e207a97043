from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from compress.budget import Budget
from compress.compaction import compact
from compress.cost import prunable
from compress.descent import Optimization
from compress.errors import RunError
from compress.masks import Values, nonzero
from compress.method import Outcome, PruningMethod, State, View
from compress.methods.admm import ADMM
from compress.methods.gradual import Gradual
from compress.methods.magnitude import Magnitude
from compress.rounds import Plan, prune, training
from compress.train import Task
from tests.support import TinyNet, TinyNormedNet, channel_view, element_units, tiny_task


def plan(task: Task, method: PruningMethod, sparsity: float = 0.75, rounds: int = 1) -> Plan:
    weights = {name: value for name, value in task.model.named_parameters() if value.dim() > 1}
    some = Optimization(2, batch_size=16)
    return Plan("prune-0", method, element_units(weights), Budget(sparsity=sparsity), some, some, rounds)


def zeros(task: Task) -> float:
    weights = [value for value in task.model.parameters() if value.dim() > 1]
    return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("method", [ADMM(), Magnitude(), Gradual()])
def test_the_budget_is_met_to_the_weight(method: PruningMethod) -> None:
    task = tiny_task()
    masks = prune(task, plan(task, method), {}, prunable(task.model))
    total = sum(mask.numel() for mask in masks.values())
    assert total // 4 == sum(int(mask.sum()) for mask in masks.values())
    assert zeros(task) >= 0.75


def test_rounds_tighten_evenly_on_a_log_scale() -> None:
    task = tiny_task()
    sparsities: list[float] = []
    prune(
        task,
        plan(task, Magnitude(), 0.75, rounds=2),
        {},
        prunable(task.model),
        report=lambda e: sparsities.append(e.sparsity),
    )
    assert 0.5 == pytest.approx(sparsities[3], abs=0.01)  # sqrt(1/4) of the weights after the first round
    assert 0.75 == pytest.approx(sparsities[-1], abs=0.01)


def test_a_later_step_tightens_from_where_the_earlier_one_ended() -> None:
    """From 1/4 to 1/16 in two rounds: 1/8 after the first, not the root of 1/16."""
    task = tiny_task()
    masks = prune(task, plan(task, Magnitude(), 0.75), {}, prunable(task.model))
    sparsities: list[float] = []
    prune(
        task,
        plan(task, Magnitude(), 1 - 1 / 16, rounds=2),
        masks,
        prunable(task.model),
        report=lambda e: sparsities.append(e.sparsity),
    )
    assert 1 - 1 / 8 == pytest.approx(sparsities[3], abs=0.01)


@pytest.mark.parametrize(
    ("budget", "before", "starts"),
    [
        (Budget(sparsity=0.75), None, [1.0, 0.5]),
        (Budget(sparsity=1 - 1 / 16), 0.75, [0.25, 0.125]),
        (Budget(drop_points=0.0), 0.75, [0.25, 0.25]),  # of the units there are, as the budget counts them
    ],
)
def test_a_schedule_begins_with_what_is_left_when_its_round_begins(
    budget: Budget, before: float | None, starts: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    @dataclass(frozen=True)
    class Asks(Magnitude):
        def finish(self, view: View, state: State) -> Outcome:
            seen.append(view.start)
            return super().finish(view, state)

    task = tiny_task()
    masks = prune(task, plan(task, Magnitude(), before), {}, prunable(task.model)) if before else {}
    # an accuracy that falls with the first unit that goes: nothing may go
    monkeypatch.setattr("compress.probe.TaskProbe.accuracy", lambda self, values: zeros_of(values))
    step = plan(task, Asks(), rounds=2)
    if budget.drop_points is not None:  # the dense network was wider
        step = replace(step, units=replace(step.units, dense_weights=10 * step.units.dense_weights))
    prune(task, replace(step, budget=budget), masks, prunable(task.model))
    assert starts == pytest.approx(seen, abs=0.01)


def zeros_of(values: Values) -> float:
    return -sum(int((value == 0).sum()) for value in values.values())


def test_earlier_zeros_stay() -> None:
    task = tiny_task()
    masks = prune(task, plan(task, Magnitude(), 0.5), {}, prunable(task.model))
    after = prune(task, plan(task, ADMM(), 0.75), masks, prunable(task.model))
    assert not any(bool((after[name] & ~masks[name]).any()) for name in masks)


@pytest.mark.parametrize("stop", range(1, 10))
def test_interrupted_anywhere_it_ends_with_the_same_bits(stop: int, tmp_path: Any) -> None:
    whole = tiny_task()
    prune(whole, plan(whole, ADMM(), rounds=2), {}, prunable(whole.model))
    saves = 0

    def save(snapshot: dict[str, Any]) -> None:
        nonlocal saves
        torch.save(snapshot, tmp_path / "s.pt")
        saves += 1
        if saves == stop:
            raise KeyboardInterrupt

    first = tiny_task()
    with pytest.raises(KeyboardInterrupt):
        prune(first, plan(first, ADMM(), rounds=2), {}, prunable(first.model), save=save)
    resumed = tiny_task()
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    prune(resumed, plan(resumed, ADMM(), rounds=2), {}, prunable(resumed.model), saved=saved)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_method_may_set_values() -> None:
    @dataclass(frozen=True)
    class Sets(PruningMethod):
        def finish(self, view: View, state: State) -> Outcome:
            ones = {name: torch.ones_like(value) for name, value in view.values.items() if value.dim() > 1}
            return Outcome({name: value > 0 for name, value in ones.items()}, ones)

    task = tiny_task()
    nothing = Optimization(0)
    p = plan(task, Sets())
    prune(task, Plan("p", Sets(), p.units, p.budget, nothing, nothing), {}, prunable(task.model))
    assert bool((task.model.get_parameter("fc.weight") == 1).all())


def test_a_layer_that_lost_everything_is_refused() -> None:
    @dataclass(frozen=True)
    class Kills(PruningMethod):
        def finish(self, view: View, state: State) -> Outcome:
            return Outcome({"fc.weight": torch.zeros(4, 54, dtype=torch.bool)})

    task = tiny_task()
    with pytest.raises(RunError, match=r"fc\.weight lost every weight"):
        prune(task, plan(task, Kills()), {}, prunable(task.model))


def test_plain_training_prunes_nothing() -> None:
    task = tiny_task()
    training(task, "dense", Optimization(1, batch_size=16), {})
    assert 0 == zeros(task)


@pytest.mark.parametrize("network", [TinyNet, TinyNormedNet])
def test_retraining_what_compaction_leaves_is_retraining_under_masks(network: type[nn.Module]) -> None:
    """The same batches, the same steps: what is dead has no part in either."""
    task = tiny_task(network=network)
    view = channel_view(task.model, Budget(macs=0.4))
    some = Optimization(3, batch_size=16, optimizer="sgd", lr=0.1, weight_decay=1e-3)
    apart = Plan("prune-0", Magnitude(), view.units, view.budget, some, some, apart=True)
    masks = prune(task, apart, {}, prunable(task.model))
    images = next(iter(task.data.held_out.batches(16)))[0]
    narrow = compact(task.model.eval(), images).model
    assert sum(w.numel() for w in narrow.parameters()) < sum(w.numel() for w in task.model.parameters())
    kept = nonzero(dict(narrow.named_parameters()), prunable(narrow))
    before = narrow(images)
    training(task, "retrain", some, masks)
    training(replace(task, model=narrow), "retrain", some, kept)
    after = task.model.eval()(images)
    torch.testing.assert_close(narrow.eval()(images), after, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, after, atol=1e-2)  # it did learn
