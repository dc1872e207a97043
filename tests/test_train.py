import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.budget import Budget
from compress.descent import Optimization
from compress.errors import RunError
from compress.masks import Masks, Values
from compress.method import Clock, PruningMethod, Retrain, State, View
from compress.methods.admm import ADMM
from compress.methods.gdp import GDP
from compress.train import Epoch, Snapshot, Task, derive, evaluate, fit
from tests.support import tiny_data, tiny_task, view_of

BUDGET = Budget(sparsity=0.5)


def view(task: Task) -> View:
    return view_of({name: value for name, value in task.model.named_parameters() if value.dim() > 1}, BUDGET)


def run(task: Task, epochs: int = 3, method: PruningMethod | None = None, **hooks: Any) -> State:
    optimization = Optimization(epochs, batch_size=16, lr=1e-2)
    return fit(task, optimization, method or Retrain(), hooks.pop("masks", {}), view(task), stage="test", **hooks)


def test_training_learns() -> None:
    task = tiny_task()
    before = evaluate(task, task.data.test)
    run(task, epochs=8)
    assert evaluate(task, task.data.test) > max(before, 0.9)


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [Retrain(), ADMM()])
def test_a_resumed_run_ends_with_the_same_bits(
    method: PruningMethod, autocast: torch.dtype | None, tmp_path: Any
) -> None:
    whole = tiny_task(autocast=autocast)
    run(whole, method=method)

    def interrupt(snapshot: Snapshot) -> None:
        torch.save(vars(snapshot), tmp_path / "snapshot.pt")
        if snapshot.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_task(autocast=autocast), method=method, save=interrupt)
    snapshot = Snapshot(**torch.load(tmp_path / "snapshot.pt", weights_only=True))
    resumed = tiny_task(seed=0, autocast=autocast)
    nn.init.constant_(resumed.model.get_parameter("fc.weight"), 7.0)
    run(resumed, method=method, snapshot=snapshot)
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_different_seeds_train_differently() -> None:
    one, other = tiny_task(), tiny_task()
    run(one, epochs=1)
    run(replace(other, seed=1), epochs=1)
    assert not same(one.model.state_dict(), other.model.state_dict())


def test_masked_weights_stay_exactly_zero_under_adam() -> None:
    task = tiny_task()
    mask = torch.rand(task.model.get_parameter("fc.weight").shape, generator=torch.Generator().manual_seed(0)) > 0.5
    masks = {"fc.weight": mask}
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Spy(PruningMethod):
        def update(self, view: View, state: State, clock: Clock) -> State:
            seen.append(view.values["fc.weight"].detach().clone())
            return state

    with torch.no_grad():
        task.model.get_parameter("fc.weight").mul_(mask)
    run(task, method=Spy(), masks=masks)
    assert len(seen) == 12
    assert not any(bool(w[~mask].any()) for w in seen)


def test_gradients_are_those_of_the_effective_weights() -> None:
    """A dropped weight has a gradient too: what would change if it came back."""
    found: list[Tensor] = []

    @dataclass(frozen=True)
    class Spy(PruningMethod):
        def update(self, view: View, state: State, clock: Clock) -> State:
            found.append(view.grads["fc.weight"])
            return state

    masks: Masks = {"fc.weight": torch.zeros(4, 54, dtype=torch.bool).index_fill(1, torch.arange(27), True)}
    run(tiny_task(), epochs=1, method=Spy(), masks=masks)
    assert bool(found[0][:, 27:].any())


def test_trainables_and_returned_values_reach_the_model() -> None:
    @dataclass(frozen=True)
    class Scaled(PruningMethod):
        def init(self, view: View, masks: Masks) -> State:
            return State(masks, trainable={"scale": torch.ones(1, requires_grad=True)})

        def effective(self, values: Values, state: State, *, training: bool) -> Values:
            return {**values, "fc.weight": values["fc.weight"] * state.trainable["scale"]}

        def update(self, view: View, state: State, clock: Clock) -> tuple[State, Values]:
            return state, {"conv1.bias": torch.full((4,), 5.0)}

    task = tiny_task()
    state = run(task, epochs=1, method=Scaled())
    assert 1.0 != state.trainable["scale"].item()
    assert [5.0] * 4 == task.model.get_parameter("conv1.bias").tolist()


def test_a_method_that_does_not_train_leaves_the_weights_alone() -> None:
    @dataclass(frozen=True)
    class Reads(PruningMethod):
        trains = False

    task, untouched = tiny_task(), tiny_task()
    run(task, epochs=1, method=Reads())
    assert same(untouched.model.state_dict(), task.model.state_dict())


def test_nan_loss_says_where_and_keeps_the_last_good_state() -> None:
    task = tiny_task()
    saved: list[Snapshot] = []

    @dataclass(frozen=True)
    class Poison(PruningMethod):
        def update(self, view: View, state: State, clock: Clock) -> State | tuple[State, Values]:
            bad = {"fc.bias": torch.full((4,), torch.nan)}
            return (state, bad) if clock.step == 5 else state

    def keep(snapshot: Snapshot) -> None:
        saved.append(replace(snapshot, model={n: v.clone() for n, v in snapshot.model.items()}))

    with pytest.raises(RunError, match="nan in test, epoch 2"):
        run(task, method=Poison(), save=keep)
    assert [1] == [snapshot.epoch for snapshot in saved]
    assert all(bool(v.isfinite().all()) for v in saved[0].model.values())


def test_epochs_are_reported() -> None:
    epochs: list[Epoch] = []
    run(tiny_task(), method=ADMM(), report=epochs.append)
    assert [1, 2, 3] == [epoch.epoch for epoch in epochs]
    assert epochs[-1].loss < epochs[0].loss
    assert "primal_residual" in epochs[-1].metrics


def test_own_loss_and_metric_are_used() -> None:
    task = tiny_task()
    data = replace(
        task.data, loss=lambda out, y: out.square().mean(), metric=lambda out, y: torch.full((len(y),), 0.25)
    )
    task = replace(task, data=data)
    run(task, epochs=5)
    assert 0.25 == evaluate(task, task.data.test)
    images, _ = next(iter(task.data.test.batches(8)))
    assert task.model(images).abs().max().item() < 0.5


def test_derived_seeds_differ_by_place_and_seed() -> None:
    assert 3 == len({derive(0, "a"), derive(0, "b"), derive(1, "a")})
    assert derive(5, "x", 1) == derive(5, "x", 1) < 2**63


def test_distance_by_hand() -> None:
    """Softened: teacher (3/4, 1/4), outputs (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2, times 16."""
    teacher = nn.Linear(1, 2)
    with torch.no_grad():
        teacher.weight.zero_()
        teacher.bias.copy_(torch.tensor([4 * math.log(3), 0.0]))
    distance = replace(tiny_task(), teacher=teacher).distance(torch.zeros(1, 2), torch.zeros(1, 1))
    assert 16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) == pytest.approx(distance.item(), rel=1e-5)


def test_distillation_alone_imitates_the_teacher() -> None:
    teacher = tiny_task(seed=3)
    run(teacher, epochs=8)
    student = replace(tiny_task(), teacher=teacher.model.eval())
    optimization = Optimization(12, batch_size=16, lr=1e-2, distill=1.0)
    fit(student, optimization, Retrain(), {}, view(student), stage="test")
    assert evaluate(student, student.data.test) > 0.9


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher"):
        tiny_task().distance(torch.zeros(1, 4), torch.zeros(1, 1, 8, 8))


def test_a_last_batch_of_one_image_does_not_stop_batch_normalisation() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    task = replace(tiny_task(), model=net, data=tiny_data(count=33))
    run(task, epochs=1)  # batches of 16, 16 and 1
    assert 2 == int(net[2].num_batches_tracked)  # type: ignore[arg-type]


def test_scores_are_never_taken_in_float16() -> None:
    """A loss scale adapts at steps, and a phase that only scores takes none: what overflows would be a score."""
    found = [run(tiny_task(autocast=kind), method=GDP()) for kind in (None, torch.float16)]
    assert same(found[0].tensors, found[1].tensors)
    assert same(found[0].masks, found[1].masks)
