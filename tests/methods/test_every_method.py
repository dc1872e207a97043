"""The battery that every file in compress/methods passes; a new method is covered by being there."""

import dataclasses
import io
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from compress import cost, methods
from compress.budget import Budget
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups, compact
from compress.descent import Optimization
from compress.errors import UsageError
from compress.masks import Masks, nonzero
from compress.method import Outcome, PruningMethod, State, View
from compress.probe import TaskProbe
from compress.recipe_text import build
from compress.rounds import Plan, prune, training
from compress.scoring import left
from compress.train import Task, evaluate, evaluating
from compress.units import ElementUnits, Units
from tests.support import TinyNormedNet, tiny_task

KINDS = ("element", "channel")
every = pytest.mark.parametrize("name", methods.names())


def on(*kinds: str, budget: bool = False) -> pytest.MarkDecorator:
    """Every method with every kind of unit that it prunes; ``budget``: only those that meet one."""
    found = {name: methods.find(name) for name in methods.names()}
    return pytest.mark.parametrize(
        ("name", "kind"),
        [(n, k) for n, m in found.items() for k in kinds if k not in m.refuses and (m.meets_budget or not budget)],
    )


both_units = on(*KINDS)


def units_of(task: Task, kind: str) -> Units:
    positions = cost.positions(task.model, (1, 8, 8))
    weights, macs = cost.weight_count(task.model), cost.macs(task.model, (1, 8, 8))
    values = dict(task.model.named_parameters())
    if kind == "channel":
        groups = channel_groups(task.model, torch.randn(2, 1, 8, 8))
        return ChannelUnits.of(groups, values, positions, weights, macs)
    return ElementUnits({name: values[name].shape for name in positions}, positions, weights, macs)


def pruned(name: str, kind: str, budget: Budget) -> tuple[Task, dict[str, Any], Units]:
    task = tiny_task(network=TinyNormedNet)
    units = units_of(task, kind)
    some = Optimization(2, batch_size=16, lr=3e-3)
    plan = Plan("prune-0", methods.build(name, {}), units, budget, some, some)
    return task, prune(task, plan, {}, cost.prunable(task.model)), units


def view_of(task: Task, units: Units, budget: Budget) -> View:
    values, scales = dict(task.model.named_parameters()), ("norm1.weight", "norm2.weight")
    return View(values, cost.prunable(task.model), units, budget, {}, lambda kept: kept, TaskProbe(task), scales)


@every
def test_defaults_construct_and_the_docstring_cites_a_paper(name: str) -> None:
    method = methods.find(name)
    method()
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi", method.__doc__ or "")
    assert methods.summaries()[name]


@on("element", budget=True)
def test_element_budget_is_reached_to_the_weight(name: str, kind: str) -> None:
    task, masks, _ = pruned(name, kind, Budget(sparsity=0.8))
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert {n: task.model.get_parameter(n).shape for n in masks} == {n: m.shape for n, m in masks.items()}
    left = sum(int(masks[name].sum()) for name in cost.prunable(task.model))
    assert int(0.2 * cost.weight_count(task.model) * (1 + 1e-9)) == left
    assert cost.nonzero_count(task.model) <= left


@on("channel", budget=True)
def test_channel_budget_is_met_and_compaction_removes_every_pruned_channel(name: str, kind: str) -> None:
    task, masks, units = pruned(name, kind, Budget(macs=0.5))
    gone = {n: int((~mask.flatten(1).any(1)).sum()) for n, mask in masks.items() if mask.dim() > 1}
    with torch.no_grad():
        smaller = compact(task.model, torch.randn(2, 1, 8, 8))
    assert cost.macs(smaller.model, (1, 8, 8)) <= 0.5 * units.dense_macs
    widths = {layer.name: (layer.out_before, layer.out_after) for layer in smaller.layers}
    for parameter, count in gone.items():
        before, after = widths[parameter.removesuffix(".weight")]
        assert before - count >= after
    assert sum(gone.values()) > 0


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.find(n).meets_budget])
def test_counts_per_layer_are_a_budget_as_well(name: str) -> None:
    kind = next(kind for kind in KINDS if kind not in methods.find(name).refuses)
    _, masks, units = pruned(name, kind, Budget(keep={"conv2": 2}))
    assert 2 == int(left(units, masks)["conv2"].sum())
    assert units.blocks["conv1"] == int(left(units, masks)["conv1"].sum())


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights of a network that tells the four classes apart."""
    task = tiny_task(network=TinyNormedNet)
    training(task, "dense", Optimization(10, batch_size=16, lr=1e-2), {})
    assert evaluate(task, task.data.held_out) > 0.9
    return {key: value.clone() for key, value in task.model.state_dict().items()}


def dropped(
    name: str, kind: str, points: float, start: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[float, float, float]:
    """Held-out accuracy at the end of a method's training, that once its units are gone, and the share that is gone."""
    task = tiny_task(network=TinyNormedNet)
    task.model.load_state_dict(start)
    method, whole = methods.find(name), list[float]()

    def finish(self: PruningMethod, view: View, state: State, found: Any = method.finish) -> Outcome:
        whole.append(view.probe.accuracy(view.values))
        outcome: Outcome = found(self, view, state)
        return outcome

    monkeypatch.setattr(method, "finish", finish)
    units, some, none = units_of(task, kind), Optimization(2, batch_size=16, lr=3e-3), Optimization(0)
    plan = Plan("prune-0", method(), units, Budget(drop_points=points), some, none)
    stays = left(units, prune(task, plan, {}, cost.prunable(task.model)))
    gone = sum(int((~kept).sum()) for kept in stays.values()) / sum(units.blocks.values())
    return whole[0], evaluate(task, task.data.held_out), gone


@on(*KINDS, budget=True)
def test_an_accuracy_drop_is_a_budget_that_holds_before_retraining(
    name: str, kind: str, trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, gone = dropped(name, kind, 20, trained, monkeypatch)
    assert 0 < gone < 1
    assert before - 0.2 <= after


def test_a_larger_drop_is_seen(trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, _ = dropped("magnitude", "element", 50, trained, monkeypatch)
    assert before - 0.5 <= after < before - 0.2


@both_units
def test_compaction_keeps_the_outputs(name: str, kind: str) -> None:
    task, _, _ = pruned(name, kind, Budget(sparsity=0.7))
    images = torch.randn(16, 1, 8, 8)
    smaller = compact(task.model, images[:2]).model
    with evaluating(task.model), evaluating(smaller):
        # float32 sums in another order
        torch.testing.assert_close(smaller(images), task.model(images), rtol=1e-4, atol=1e-5)


@both_units
def test_same_seed_same_masks(name: str, kind: str) -> None:
    first, second = (pruned(name, kind, Budget(sparsity=0.6))[1] for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)


@both_units
def test_state_survives_a_weights_only_checkpoint(name: str, kind: str) -> None:
    task = tiny_task(network=TinyNormedNet)
    view = view_of(task, units_of(task, kind), Budget(sparsity=0.6))
    with torch.no_grad():
        state = methods.find(name)().init(view, {})
    buffer = io.BytesIO()
    torch.save(dataclasses.asdict(state), buffer)
    buffer.seek(0)
    loaded = State(**torch.load(buffer, weights_only=True))
    assert state.numbers == loaded.numbers
    assert all(torch.equal(state.tensors[key], loaded.tensors[key]) for key in state.tensors)
    assert state.tensors.keys() == loaded.tensors.keys()


@both_units
def test_penalty_is_finite_and_differentiable(name: str, kind: str) -> None:
    task = tiny_task(network=TinyNormedNet)
    view = view_of(task, units_of(task, kind), Budget(sparsity=0.6))
    method: PruningMethod = methods.find(name)()
    with torch.no_grad():
        state = method.init(view, {})
    penalty = torch.as_tensor(method.penalty(view, state))
    assert bool(penalty.isfinite())
    if penalty.requires_grad:
        penalty.backward()
        grads = [p.grad for p in task.model.parameters() if p.grad is not None]
        assert grads
        assert all(bool(g.isfinite().all()) for g in grads)


@both_units
def test_zeros_in_force_stay(name: str, kind: str) -> None:
    task, masks, units = pruned(name, kind, Budget(sparsity=0.5))
    values = dict(task.model.named_parameters())
    before: Masks = nonzero(values, cost.prunable(task.model))
    some = Optimization(1, batch_size=16)
    plan = Plan("prune-1", methods.build(name, {}), units, Budget(sparsity=0.8), some, some)
    after = prune(task, plan, masks, cost.prunable(task.model))
    assert not any(bool((after[n] & ~before[n]).any()) for n in before if n in after)
    assert not any(bool((task.model.get_parameter(n) != 0)[~before[n]].any()) for n in before)


@every
def test_units_it_cannot_prune_are_refused_with_the_reason(name: str) -> None:
    method = methods.find(name)
    assert set(method.refuses) < set(KINDS)
    for kind, reason in method.refuses.items():
        with pytest.raises(UsageError, match=re.escape(reason)):
            build({"prune": [{"method": name, "units": kind}]})


@every
def test_recipe_round_trips_with_every_knob_written_out(name: str) -> None:
    kind = next(kind for kind in KINDS if kind not in methods.find(name).refuses)
    recipe = build({"prune": [{"method": name, "units": kind, "budget": {"sparsity": 0.5}}]})
    table = recipe.to_dict()
    assert {f.name for f in dataclasses.fields(methods.find(name))} <= table["prune"][0].keys()
    assert table == build(table).to_dict()
