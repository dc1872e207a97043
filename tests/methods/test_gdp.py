import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compress import cost
from compress.budget import Budget
from compress.descent import Optimization
from compress.errors import UsageError
from compress.masks import Masks
from compress.method import Clock, State, View
from compress.methods.gdp import GDP, order_statistics
from compress.rounds import Plan, prune, training
from compress.train import Epoch, evaluate
from tests.support import TinyNet, TinyNormedNet, element_units, tiny_task, view_of
from tests.test_units import channel_units


def after(method: GDP, view: View, *steps: dict[str, Tensor], masks: Masks | None = None) -> State:
    """The state after mini-batches with these gradients."""
    state = State(masks=masks or {})
    for step, grads in enumerate(steps, 1):
        state = method.update(replace(view, grads=grads), state, Clock(step, len(steps), len(steps)))
    return state


def test_weights_below_c_times_their_layers_mean_go() -> None:
    """Two mini-batches; a: |g| sums to (4, 2, 6), mean 4; b: a thousand times that of (1, 3), mean 2000."""
    values = {"a.weight": torch.ones(3), "b.weight": torch.ones(2)}
    first = {"a.weight": torch.tensor([3.0, -1.0, 2.0]), "b.weight": torch.tensor([500.0, 2000.0])}
    second = {"a.weight": torch.tensor([-1.0, 1.0, -4.0]), "b.weight": torch.tensor([-500.0, 1000.0])}
    view = view_of(values, Budget(sparsity=0.4))  # 3 of 5 stay
    state = after(GDP(), view, first, second)
    # r = (1, 0.5, 1.5) and (0.5, 1.5): a weight of both layers goes, whatever the scale of their gradients
    assert [True, False, True] == state.masks["a.weight"].tolist()
    assert [False, True] == state.masks["b.weight"].tolist()
    assert 0.5 == state.metrics["threshold"]
    assert state.masks == GDP().finish(view, state).masks


@pytest.mark.parametrize(("criterion", "score"), [("grad", 2 / 3), ("taylor", 4 / 5), ("fisher", 2 / 5)])
def test_criteria(criterion: str, score: float) -> None:
    """g = 1 and 2, w = 3 and 1: |g| 1, 2; |g w| 3, 2; g^2 1, 4; the second against the mean is the larger or not."""
    values = {"a.weight": torch.tensor([3.0, 1.0])}
    view = view_of(values, Budget(keep={"a": 1}))
    method = GDP(criterion=criterion)  # type: ignore[arg-type]  # a parameter of the test
    state = after(method, view, {"a.weight": torch.tensor([-1.0, 2.0])})
    assert score == pytest.approx(state.metrics["threshold"])  # the smaller of the two is what goes
    assert [criterion == "taylor", criterion != "taylor"] == state.masks["a.weight"].tolist()


def test_a_filter_is_judged_by_the_mean_of_its_weights() -> None:
    view = filters(Budget(keep={"conv1": 2}))
    grads = {name: torch.ones_like(value) for name, value in view.values.items()}
    grads["conv1.weight"] = torch.tensor([1.0, 4.0, 2.0, 3.0]).view(4, 1, 1, 1).expand(4, 1, 3, 3)
    grads["conv1.bias"] = torch.tensor([100.0, 0.0, 0.0, 0.0])  # no prunable weight, and does not count
    state = after(GDP(), view, grads)
    scores = GDP().scores(view, replace(state, masks={}))
    assert [0.4, 1.6, 0.8, 1.2] == pytest.approx(scores["conv1"].tolist())  # over a mean of 2.5
    assert [False, True, False, True] == state.masks["conv1.bias"].tolist()


def test_the_count_rule_by_hand() -> None:
    """At eta = 0.5 a filter of 9 goes once 5 of its weights are below c: the fifth smallest ranks it."""
    view = filters(Budget(keep={"conv1": 3}))
    grads = {name: torch.ones_like(value) for name, value in view.values.items()}
    most = torch.tensor([8.0] + [1.0] * 8), torch.tensor([2.0] * 5 + [0.1] * 4)
    grads["conv1.weight"] = torch.stack([most[0], most[1], most[1], most[1]]).view(4, 1, 3, 3)
    assert float(most[0].mean()) > float(most[1].mean())
    assert not bool(after(GDP(rule="count"), view, grads).masks["conv1.weight"][0].any())
    assert bool(after(GDP(rule="mean"), view, grads).masks["conv1.weight"][0].all())


def test_the_rank_of_the_count_rule_is_the_largest_c_at_which_the_filter_stays() -> None:
    view = filters(Budget())
    amounts = {name: torch.rand(value.shape) for name, value in view.values.items()}
    amounts = {name: amounts[name] for name in view.prunable}
    for eta in (0.0, 0.29, 0.5, 0.9):
        for block, scores in order_statistics(view.units, amounts, eta).items():
            below = (amounts[f"{block}.weight"].flatten(1) < scores[:, None]).sum(1)
            through = (amounts[f"{block}.weight"].flatten(1) <= scores[:, None]).sum(1)
            size = amounts[f"{block}.weight"][0].numel()
            assert bool((below <= eta * size).all())  # not more than eta: it stays at c = score
            assert bool((through > eta * size).all())  # but at no larger c


def test_the_mean_is_over_what_an_earlier_step_left() -> None:
    values = {"a.weight": torch.tensor([1.0, 1.0, 0.0])}
    view = view_of(values, Budget(keep={"a": 1}))
    masks = {"a.weight": torch.tensor([True, True, False])}
    state = after(GDP(), view, {"a.weight": torch.tensor([1.0, 3.0, 50.0])}, masks=masks)
    assert [False, True, False] == state.masks["a.weight"].tolist()
    assert 0.5 == state.metrics["threshold"]  # 1 over a mean of 2


def test_the_threshold_adapts_to_a_drop_in_accuracy() -> None:
    task = tiny_task(network=TinyNormedNet)
    none, some = (Optimization(epochs, batch_size=16, lr=0.01, optimizer="adam") for epochs in (0, 4))
    training(task, "dense", some, {})
    dense, dropped, logs = evaluate(task, task.data.held_out), [], list[Epoch]()
    units, prunable = channel_units(task.model), cost.prunable(task.model)
    for points in (0.0, 20.0):
        own = replace(task, model=copy.deepcopy(task.model))
        plan = Plan("prune-0", GDP(), units, Budget(drop_points=points), replace(some, epochs=1), none)
        masks = prune(own, plan, {}, prunable, report=logs.append)
        assert dense - evaluate(own, own.data.held_out) <= points / 100 + 1e-9
        dropped.append(sum(int((~mask).sum()) for mask in masks.values()))
    assert dropped[0] <= dropped[1]
    assert 0 < dropped[1]
    assert logs[0].metrics["threshold"] <= logs[1].metrics["threshold"]


def test_impossible_knobs_and_steps_without_epochs_are_refused() -> None:
    with pytest.raises(UsageError, match=r"eta in \[0, 1\)"):
        GDP(eta=1.0)
    with pytest.raises(UsageError, match="set epochs = 1"):
        GDP().check(Budget(), 0)


def filters(budget: Budget) -> View:
    model = TinyNet()
    values = {name: value.detach() for name, value in model.named_parameters()}
    prunable = tuple(name for name in values if name.startswith("conv") and name.endswith("weight"))
    return replace(view_of(values, budget), prunable=prunable, units=channel_units(model))


def test_order_statistics_of_single_weights_are_the_weights() -> None:
    values = {"a.weight": torch.rand(2, 3), "b.weight": torch.rand(4)}
    found = order_statistics(element_units(values), values, 0.7)
    assert values["a.weight"].flatten().tolist() == found["a"].tolist()
    assert values["b.weight"].tolist() == found["b"].tolist()
