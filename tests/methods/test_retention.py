import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compress.budget import Budget
from compress.descent import Optimization
from compress.errors import UsageError
from compress.masks import Values
from compress.method import View
from compress.methods.retention import Retention
from compress.retention import knapsack, qubo
from compress.retention.cem import bins_of
from compress.retention.objective import Objective
from compress.retention.pool import Pool, join, part
from compress.retention.search import descend, swapped
from compress.rounds import Phase, run_phases, training
from compress.train import Task
from tests.methods.test_every_method import units_of
from tests.methods.test_every_method import view_of as view_on
from tests.support import FunctionProbe, TinyNormedNet, tiny_task, view_of

BUDGETS = (Budget(sparsity=0.8), Budget(sparsity=0.8, scope="layer"), Budget(macs=0.5))
GUARDED = ("qubo", "knapsack", "scores", "cem")


def linear(values: Values, inputs: Tensor) -> Tensor:
    return inputs @ values["w.weight"]


def linear_view(weights: list[float], kept: int, inputs: Tensor, targets: Tensor) -> View:
    values = {"w.weight": torch.tensor(weights)}
    return view_of(values, Budget(keep={"w": kept}), probe=FunctionProbe(linear, ((inputs, targets),)))


def selected(view: View, masks: Values) -> Tensor:
    return join(view.units, view.units.sums({name: masks[name].float() for name in masks})) > 0


# the pool


def test_the_largest_stay_and_magnitude_starts() -> None:
    view = view_of({"w.weight": torch.tensor([0.5, -5.0, 4.0, -3.0, 2.0, 1.0])}, Budget(keep={"w": 4}))
    pool = Pool.of(view, {}, 0.5)
    assert [False, True, True, False, False, False] == pool.fixed.tolist()  # 4 kept, half of them free
    assert [False, True, True, True, True, False] == pool.start.tolist()
    assert [True, False, False, True, True, True] == pool.open.tolist()
    # of the open ones, two
    assert [True, True, True, False, False, True] == pool.fill(torch.tensor([9.0, 0, 0, 1, 1, 9])).tolist()


def test_places_move_between_layers_only_where_the_budget_counts_weights() -> None:
    values = {"a.weight": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b.weight": torch.tensor([5.0, 4.0, 3.0, 2.0])}
    prefers_b = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
    # 4 stay: globally the largest of each layer is its floor, the other 2 may be anywhere
    for budget, count_of_b in ((Budget(sparsity=0.5), 3), (Budget(sparsity=0.5, scope="layer"), 2)):
        pool = Pool.of(view_of(values, budget), {}, 1.0)
        assert 4 == int(pool.start.sum()) == int(pool.fill(prefers_b).sum())
        assert count_of_b == int(pool.fill(prefers_b)[4:].sum())


def test_the_floor_of_a_layer_is_not_exchanged() -> None:
    values = {"a.weight": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b.weight": torch.tensor([5.0, 4.0, 3.0, 2.0])}
    pool = Pool.of(view_of(values, Budget(sparsity=0.5, floor=0.5)), {}, 1.0)
    assert [True, True, False, False, True, True, False, False] == pool.fixed.tolist()


def test_what_a_mask_or_a_pattern_forbids_takes_no_part() -> None:
    values = {"w.weight": torch.tensor([[0.0, 4.0, 3.0, 2.0]])}
    view = view_of(values, Budget(sparsity=0.75, scope="layer"))
    masks = {"w.weight": torch.tensor([[False, True, True, True]])}
    assert [False, True, True, True] == Pool.of(view, masks, 1.0).open.tolist()
    patterned = replace(view, units=replace(view.units, pattern=(2, 4)))  # type: ignore[type-var]
    assert [False, True, True, False] == Pool.of(patterned, masks, 1.0).open.tolist()


# knapsack


def test_importance_by_hand() -> None:
    """Two samples, inputs (1, 2) and (1, -1), w = (1, 1), targets (4, 1): residuals -1 and -1."""
    view = linear_view([1.0, 1.0], 1, torch.tensor([[1.0, 2.0], [1.0, -1.0]]), torch.tensor([4.0, 1.0]))
    objective = Objective.of(view, {}, 2, 2)
    # a = g w: sample 1 (-1, -2), sample 2 (-1, 1); c = (-1, -1/2), F = (1, 5/2); dense: -c + F/2
    assert [1.5, 1.75] == knapsack.gains(objective, torch.tensor([True, True]), 1.0).tolist()
    # the second dropped, at 0: residuals (1 - 4, 1 - 1) = (-3, 0): a = (-3, -6), (0, 0); c = (-3/2, -3), F = (9/2, 18)
    # kept: -c + F/2 = 3.75; dropped: -c - F/2 = -6, it overshoots in the model
    assert [3.75, -6.0] == knapsack.gains(objective, torch.tensor([True, False]), 0.0).tolist()


def test_knapsack_swaps_the_useless_for_the_useful_first() -> None:
    """Every sample sees one weight; the targets of 1 and 2 are their weights, those of 0 and 3 are 0."""
    view = linear_view([1.0, 0.5, 0.8, 1.2], 2, torch.eye(4), torch.tensor([0.0, 0.5, 0.8, 0.0]))
    pool = Pool.of(view, {}, 1.0)
    assert [True, False, False, True] == pool.start.tolist()
    objective = Objective.of(view, {}, 4, 4)
    # 4 times the importance: 0: -1 + 0.5, 3: -1.44 + 1.04, 1: 0.25 - 0.03, 2: 0.64 - 0.2
    (swaps,) = knapsack.propose(objective, pool, pool.start, 1e-3)
    assert [[2, 0], [1, 3]] == swaps.tolist()
    assert [False, True, True, False] == descend(objective, pool, knapsack.propose, 5).tolist()


def test_single_gradients_are_taken_of_as_many_images_as_asked() -> None:
    view = linear_view([1.0, 1.0], 1, torch.eye(2), torch.zeros(2))
    batches = tuple(view.probe.batches(1, 2)) * 3
    point = Objective(view, {}, batches, 3).point(torch.tensor([True, True]), 1.0)
    assert [2, 1] == [len(some) for some in Objective(view, {}, batches, 3).each(point)]


# qubo


def quadratic(seed: int, size: int, samples: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(samples, size, generator=generator, dtype=torch.float64)
    return a.mean(0), a.T @ a / samples, torch.arange(size) < size // 2


def value(slope: Tensor, gram: Tensor, chosen: Tensor, start: Tensor) -> float:
    move = chosen.double() - start.double()
    return float(slope @ move + 0.5 * move @ gram @ move)


def exhaustive(slope: Tensor, gram: Tensor, start: Tensor) -> float:
    size, count = len(start), int(start.sum())
    subsets = itertools.combinations(range(size), count)
    return min(value(slope, gram, torch.zeros(size).index_fill(0, torch.tensor(s), 1.0), start) for s in subsets)


def test_redundant_units_by_hand() -> None:
    """Units 1 and 2 do the same, 3 does half as much elsewhere, 0 and 4 do nothing: best are 1 and 3."""
    a = torch.tensor([[0.0, -1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -0.5, 0.0]], dtype=torch.float64)
    start = torch.tensor([True, False, False, False, True])
    # each for itself 1 and 2 are worth 1/4, 3 is worth 3/16; but 1 and 2 together are worth -1 + 2^2/4 = 0
    swaps, chosen = qubo.minimise(a.mean(0), a.T @ a / 2, start)
    assert [(1, 0), (3, 4)] == swaps
    assert [False, True, False, True, False] == chosen.tolist()
    assert -7 / 16 == value(a.mean(0), a.T @ a / 2, chosen, start)


@pytest.mark.parametrize("seed", range(5))
def test_the_quadratic_falls_with_every_swap_to_where_no_swap_helps(seed: int) -> None:
    slope, gram, start = quadratic(seed, 14)
    swaps, chosen = qubo.minimise(slope, gram, start)
    path = [swapped(start, [torch.tensor(swaps[:n], dtype=torch.int64).view(-1, 2)]) for n in range(len(swaps) + 1)]
    values = [value(slope, gram, z, start) for z in path]
    assert torch.equal(path[-1], chosen)
    assert all(after < before for before, after in itertools.pairwise(values))
    assert int(start.sum()) == int(chosen.sum())
    inside, outside = chosen.nonzero().flatten().tolist(), (~chosen).nonzero().flatten().tolist()
    others = [swapped(chosen, [torch.tensor([[i, j]])]) for i in outside for j in inside]
    assert all(value(slope, gram, z, start) >= values[-1] - 1e-12 for z in others)


@pytest.mark.parametrize("seed", range(5))
def test_equals_exhaustive_search_without_interaction(seed: int) -> None:
    slope, gram, start = quadratic(seed, 12)
    diagonal = gram.diagonal().diag()
    _, chosen = qubo.minimise(slope, diagonal, start)
    assert exhaustive(slope, diagonal, start) == pytest.approx(value(slope, diagonal, chosen, start))


def test_close_to_exhaustive_search_with_interaction() -> None:
    """An optimum among swaps is not always the optimum; on random problems of 10 units it mostly is."""
    equal = 0
    for seed in range(30):
        slope, gram, start = quadratic(seed, 10)
        found = value(slope, gram, qubo.minimise(slope, gram, start)[1], start)
        assert found <= 0
        equal += found == pytest.approx(exhaustive(slope, gram, start), abs=1e-12)
    assert equal >= 20


def test_the_proposal_is_the_minimum_of_the_model_around_the_dense_network() -> None:
    """mean d + 1/2 mean d^2 over the samples, d = a (z - 1): the smallest weight is not the one to go."""
    inputs = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    view = linear_view([0.6, 0.5, 0.4], 2, inputs, torch.tensor([2.0, 0.2, 1.9, -1.1]))
    pool = Pool.of(view, {}, 1.0)
    objective = Objective.of(view, {}, 4, 4)
    contributions = torch.cat(list(objective.each(objective.point(pool.start, 1.0)))).double()

    def model(z: Tensor) -> float:
        change = contributions @ (z.double() - 1)
        return float(change.mean() + 0.5 * change.square().mean())

    (swaps,) = qubo.proposing(8)(objective, pool, pool.start, 1.0)
    found = swapped(pool.start, [swaps])
    pairs = [torch.tensor([i != gone for i in range(3)]) for gone in range(3)]
    assert min(map(model, pairs)) == pytest.approx(model(found))
    assert [True, False, True] == found.tolist()


# the method


def trained(kind: str, budget: Budget) -> tuple[Task, View]:
    task = tiny_task(network=TinyNormedNet)
    training(task, "dense", Optimization(2, 16, lr=3e-3), {})
    return task, view_on(task, units_of(task, kind), budget)


def run(task: Task, view: View, method: Retention) -> Values:
    return run_phases(task, [Phase("prune", method, Optimization(1, 16, lr=1e-2), 1.0, True)], {}, view)


@pytest.mark.parametrize("kind", ["element", "channel"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("optimiser", GUARDED)
def test_never_worse_than_magnitude_on_the_calibration_images(optimiser: str, budget: Budget, kind: str) -> None:
    task, view = trained(kind, budget)
    method = Retention(optimiser=optimiser, samples=64, curvature=32, iterations=2)
    pool, objective = Pool.of(view, {}, method.share), Objective.of(view, {}, 64, 32)
    with torch.no_grad():
        before = objective.loss(pool.start)
        reference = part(view.units, pool.start)
    dense = {name: value.clone() for name, value in view.values.items()}
    keep = selected(view, run(task, view, method))
    with torch.no_grad():
        after = replace(objective, view=replace(view, values=dense)).loss(keep)
    assert after <= before
    assert view.units.weights(reference) == view.units.weights(part(view.units, keep))
    if len(pool.groups) > 1:  # else places may move to layers where a weight is used more often
        assert view.units.macs(reference) == view.units.macs(part(view.units, keep))
    assert bool(keep[pool.fixed].all())


def test_interaction_is_worth_something_on_a_network() -> None:
    """At 80 % sparsity the quadratic model's swaps more than halve what magnitude costs."""
    _, view = trained("element", Budget(sparsity=0.8))
    pool, objective = Pool.of(view, {}, 0.5), Objective.of(view, {}, 64, 64)
    with torch.no_grad():
        dense, before = objective.loss(torch.ones_like(pool.start)), objective.loss(pool.start)
        after = objective.loss(descend(objective, pool, qubo.proposing(512), 10))
    assert after - dense < 0.5 * (before - dense)


def test_the_random_control_keeps_as_many_and_others() -> None:
    task, view = trained("element", Budget(sparsity=0.8, scope="layer"))
    pool = Pool.of(view, {}, 0.5)
    keep = selected(view, run(task, view, Retention(optimiser="random")))
    for group in pool.groups:
        assert int(pool.start[group].sum()) == int(keep[group].sum())
    assert bool(keep[pool.fixed].all())
    assert int((keep & ~pool.start).sum()) > 0.2 * int(pool.start.sum())


@pytest.mark.parametrize("kind", ["element", "channel"])
def test_the_gradient_of_a_score_is_its_units_contribution(kind: str) -> None:
    _, view = trained(kind, Budget(sparsity=0.6))
    method = Retention(optimiser="scores")
    with torch.no_grad():
        state = method.init(view, {})
    batch = next(view.probe.batches(1, 16))
    frozen = {name: value.detach() for name, value in view.values.items()}
    with torch.enable_grad():
        used = method.effective(frozen, state, training=True)
        view.probe.loss(used, batch).backward()
    pool, objective = Pool.of(view, {}, method.share), Objective(view, {}, (batch,), 1)
    assert torch.equal(selected(view, {n: v != 0 for n, v in used.items()}), pool.start)  # magnitude's at first
    # g at the weights used, w as they are: dropped units too
    expected = objective.mean(objective.point(pool.start, 0.0)) * pool.open
    torch.testing.assert_close(state.trainable["scores"].grad, expected, rtol=1e-4, atol=1e-6)  # other sums
    assert int((expected[pool.open & ~pool.start] != 0).sum()) > 0 or kind == "channel"


def test_scores_learn_in_training_only() -> None:
    task, view = trained("element", Budget(sparsity=0.8))
    before = {name: value.detach().clone() for name, value in view.values.items()}
    masks = run(task, view, Retention(optimiser="scores"))
    assert all(torch.equal(before[n][m], task.model.get_parameter(n)[m]) for n, m in masks.items())  # frozen weights
    with pytest.raises(UsageError, match="epochs"):
        Retention(optimiser="scores").check(view.budget, 0)


def test_bins_are_layers_and_tenths_of_their_open_units() -> None:
    values = {"a.weight": torch.arange(20.0) + 1, "b.weight": torch.arange(3.0) + 30}
    view = view_of(values, Budget(sparsity=0.5, scope="layer"))
    bins = bins_of(view.units, Pool.of(view, {}, 1.0))
    assert [9, 9, 8, 8] == bins[:4].tolist()
    assert [0, 0] == bins[18:20].tolist()
    assert [16, 13, 10] == bins[20:].tolist()  # the second layer's, of 3 units


@pytest.mark.parametrize(
    "knobs", [{"share": 1.5}, {"optimiser": "best"}, {"samples": 0}, {"iterations": 0}, {"candidates": 0}]
)
def test_impossible_knobs_are_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="retention"):
        Retention(**knobs)  # type: ignore[arg-type]
