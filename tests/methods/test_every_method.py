"""The battery that every file in compress/methods passes; a new method is covered by being there."""

import dataclasses
import io
import re
from typing import Any

import pytest
import torch

from compress import cost, methods
from compress.budget import Budget
from compress.compaction import channel_groups, compact
from compress.descent import Optimization
from compress.masks import Masks, nonzero
from compress.method import PruningMethod, State, View
from compress.probe import TaskProbe
from compress.recipe import build
from compress.rounds import Plan, prune
from compress.train import Task, evaluating
from compress.units import ChannelUnits, ElementUnits, Units
from tests.support import tiny_task

every = pytest.mark.parametrize("name", methods.names())
both_units = pytest.mark.parametrize("kind", ["element", "channel"])


def units_of(task: Task, kind: str) -> Units:
    positions = cost.positions(task.model, (1, 8, 8))
    weights, macs = cost.weight_count(task.model), cost.macs(task.model, (1, 8, 8))
    values = dict(task.model.named_parameters())
    if kind == "channel":
        groups = channel_groups(task.model, torch.randn(2, 1, 8, 8))
        return ChannelUnits.of(groups, values, positions, weights, macs)
    return ElementUnits({name: values[name].shape for name in positions}, positions, weights, macs)


def pruned(name: str, kind: str, budget: Budget) -> tuple[Task, dict[str, Any], Units]:
    task = tiny_task()
    units = units_of(task, kind)
    some = Optimization(2, batch_size=16, lr=3e-3)
    plan = Plan("prune-0", methods.build(name, {}), units, budget, some, some)
    return task, prune(task, plan, {}, cost.prunable(task.model)), units


def view_of(task: Task, units: Units, budget: Budget) -> View:
    values = dict(task.model.named_parameters())
    return View(
        values, cost.prunable(task.model), units, budget, {}, lambda kept: kept, TaskProbe(task), ("norm.weight",)
    )


@every
def test_defaults_construct_and_the_docstring_cites_a_paper(name: str) -> None:
    method = methods.find(name)
    method()
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi", method.__doc__ or "")
    assert methods.summaries()[name]


@every
def test_element_budget_is_reached_to_the_weight(name: str) -> None:
    task, masks, _ = pruned(name, "element", Budget(sparsity=0.8))
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert {n: task.model.get_parameter(n).shape for n in masks} == {n: m.shape for n, m in masks.items()}
    left = sum(int(mask.sum()) for mask in masks.values())
    assert int(0.2 * cost.weight_count(task.model) * (1 + 1e-9)) == left
    assert cost.nonzero_count(task.model) <= left


@every
def test_channel_budget_is_met_and_compaction_removes_every_pruned_channel(name: str) -> None:
    task, masks, units = pruned(name, "channel", Budget(macs=0.5))
    gone = {n: int((~mask.flatten(1).any(1)).sum()) for n, mask in masks.items() if mask.dim() > 1}
    with torch.no_grad():
        smaller = compact(task.model, torch.randn(2, 1, 8, 8))
    assert cost.macs(smaller.model, (1, 8, 8)) <= 0.5 * units.dense_macs
    widths = {layer.name: (layer.out_before, layer.out_after) for layer in smaller.layers}
    for parameter, count in gone.items():
        before, after = widths[parameter.removesuffix(".weight")]
        assert before - count >= after
    assert sum(gone.values()) > 0


@every
@both_units
def test_compaction_keeps_the_outputs(name: str, kind: str) -> None:
    task, _, _ = pruned(name, kind, Budget(sparsity=0.7))
    images = torch.randn(16, 1, 8, 8)
    smaller = compact(task.model, images[:2]).model
    with evaluating(task.model), evaluating(smaller):
        # float32 sums in another order
        torch.testing.assert_close(smaller(images), task.model(images), rtol=1e-4, atol=1e-5)


@every
@both_units
def test_same_seed_same_masks(name: str, kind: str) -> None:
    first, second = (pruned(name, kind, Budget(sparsity=0.6))[1] for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)


@every
@both_units
def test_state_survives_a_weights_only_checkpoint(name: str, kind: str) -> None:
    task = tiny_task()
    view = view_of(task, units_of(task, kind), Budget(sparsity=0.6))
    state = methods.find(name)().init(view, {})
    buffer = io.BytesIO()
    torch.save(dataclasses.asdict(state), buffer)
    buffer.seek(0)
    loaded = State(**torch.load(buffer, weights_only=True))
    assert state.numbers == loaded.numbers
    assert all(torch.equal(state.tensors[key], loaded.tensors[key]) for key in state.tensors)
    assert state.tensors.keys() == loaded.tensors.keys()


@every
@both_units
def test_penalty_is_finite_and_differentiable(name: str, kind: str) -> None:
    task = tiny_task()
    view = view_of(task, units_of(task, kind), Budget(sparsity=0.6))
    method: PruningMethod = methods.find(name)()
    penalty = torch.as_tensor(method.penalty(view, method.init(view, {})))
    assert bool(penalty.isfinite())
    if penalty.requires_grad:
        penalty.backward()
        grads = [p.grad for p in task.model.parameters() if p.grad is not None]
        assert grads
        assert all(bool(g.isfinite().all()) for g in grads)


@every
def test_zeros_in_force_stay(name: str) -> None:
    task, masks, units = pruned(name, "element", Budget(sparsity=0.5))
    values = dict(task.model.named_parameters())
    before: Masks = nonzero(values, cost.prunable(task.model))
    some = Optimization(1, batch_size=16)
    plan = Plan("prune-1", methods.build(name, {}), units, Budget(sparsity=0.8), some, some)
    after = prune(task, plan, masks, cost.prunable(task.model))
    assert not any(bool((after[n] & ~before[n]).any()) for n in before)


@every
def test_recipe_round_trips_with_every_knob_written_out(name: str) -> None:
    recipe = build({"prune": [{"method": name, "budget": {"sparsity": 0.5}}]})
    table = recipe.to_dict()
    assert {f.name for f in dataclasses.fields(methods.find(name))} <= table["prune"][0].keys()
    assert table == build(table).to_dict()
