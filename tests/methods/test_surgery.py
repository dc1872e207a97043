import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.surgery import Surgery
from tests.support import view_of

W, MASK = "w.weight", "mask/w.weight"


def test_hysteresis_by_hand() -> None:
    """Threshold 1: at most 0.9 drops, above 1.1 returns, and in between the mask stays as it was."""
    values = {W: torch.tensor([0.90, 0.95, 0.95, 1.05, 1.05, 1.11])}
    before = torch.tensor([True, True, False, True, False, False])
    state = State(tensors={MASK: before}, numbers={"w": 1.0})
    method = Surgery(threshold="deviation", gamma=0.0)
    after = method.update(view_of(values, Budget()), state, Clock(1, 2, 2)).tensors[MASK]
    assert [False, True, False, True, False, True] == after.tolist()


def test_a_dropped_weight_counts_as_zero_and_keeps_learning() -> None:
    w = torch.tensor([3.0, 0.1], requires_grad=True)
    state = State(tensors={MASK: torch.tensor([True, False])}, numbers={"w": 1.0})
    used = Surgery().effective({W: w}, state, training=True)[W]
    assert [3.0, 0.0] == used.tolist()
    used.backward(torch.tensor([5.0, 7.0]))
    assert w.grad is not None
    assert [5.0, 7.0] == w.grad.tolist()  # eq. 3: the gradient of the masked weight, for every weight


def test_zeros_in_force_do_not_learn() -> None:
    w = torch.tensor([3.0, 0.0], requires_grad=True)
    state = State({W: torch.tensor([True, False])}, tensors={MASK: torch.tensor([True, True])})
    Surgery().effective({W: w}, state, training=True)[W].sum().backward()
    assert w.grad is not None
    assert [1.0, 0.0] == w.grad.tolist()


def test_thresholds_of_the_layer_and_of_the_budget() -> None:
    values = {W: torch.tensor([-1.0, 2.0, 3.0, -6.0])}
    # mean 3, deviation sqrt((4 + 1 + 0 + 9) / 4)
    spread = Surgery(threshold="deviation", c=2.0).init(view_of(values, Budget()), {})
    assert 3 + 2 * 3.5**0.5 == pytest.approx(spread.numbers["w"])
    assert 3.0 == Surgery().init(view_of(values, Budget(keep={"w": 2})), {}).numbers["w"]


def test_revisions_become_rare_and_stop() -> None:
    values = {W: torch.tensor([1.0, 3.0])}
    method = Surgery(threshold="deviation", gamma=1.0, stop=0.5)
    view, revised = view_of(values, Budget()), []
    torch.manual_seed(0)
    for step in range(1, 2001):
        state = State(tensors={MASK: torch.tensor([True, True])}, numbers={"w": 2.0})
        after = method.update(view, state, Clock(step, 2000, 2000))
        revised.append(not bool(after.tensors[MASK][0]))
    # sum of 1 / (1 + step) up to 1000 is 6.5, with a deviation of 2.4
    assert 6.5 == pytest.approx(sum(revised[:1000]), abs=5)
    assert not any(revised[1000:])


def test_what_was_dropped_ranks_last_in_the_order_of_the_norms() -> None:
    values = {W: torch.tensor([1.0, 5.0, 4.0, 2.0])}
    state = State(tensors={MASK: torch.tensor([True, False, False, True])}, numbers={"w": 1.5})
    three = Surgery().finish(view_of(values, Budget(keep={"w": 3})), state)
    assert [True, True, False, True] == three.masks[W].tolist()
    free = Surgery().finish(view_of(values, Budget()), state)
    assert [True, False, False, True] == free.masks[W].tolist()


@pytest.mark.parametrize("knob", [{"hysteresis": 1.0}, {"gamma": -1.0}, {"stop": 0.0}, {"updates_per_epoch": 0}])
def test_impossible_knobs_are_refused(knob: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="surgery needs"):
        Surgery(**knob)  # type: ignore[arg-type]
