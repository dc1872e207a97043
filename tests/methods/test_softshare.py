import math
from dataclasses import replace

import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import State
from compress.methods.softshare import MEAN_RATE, SHAPE_RATE, Mixture, SoftShare
from tests.support import view_of

W = "w.weight"
HALVES = Mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 4.0]).log())
"""One half N(0, 1), one half N(1, 1/4)."""


def state_of(means: list[float], deviations: list[float]) -> State:
    trainable = {
        "means": torch.tensor(means) / MEAN_RATE,
        "log_precisions": -2 * torch.tensor(deviations).log() / SHAPE_RATE,
        "logits": torch.zeros(len(means)),
    }
    return State(trainable={name: value.requires_grad_() for name, value in trainable.items()})


def test_mixture_by_hand() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    joint = HALVES.joint(w)
    # N(1; 0, 1) = 0.241971 and N(1; 1, 1/4) = 0.797885, halved
    assert [0.120985, 0.398942] == pytest.approx(joint.detach().exp().flatten().tolist(), abs=1e-6)
    loss = -joint.logsumexp(0).sum()
    assert 0.654066 == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    assert w.grad is not None
    assert 0.232696 == pytest.approx(w.grad.item(), abs=1e-5)  # sum_j r_j (w - mu_j) / sigma_j^2, here r_0 alone


def test_prior_is_least_near_the_expected_deviation() -> None:
    """The mode of Gamma(a, a d^2) is (a - 1) / (a d^2), with a = 5000 of the zero component and 250 of the other."""
    log_precisions = torch.tensor([100 * 4999 / 5000, 100 * 249 / 250]).log().requires_grad_()
    replace(HALVES, log_precisions=log_precisions).prior(0.1).backward()  # type: ignore[no-untyped-call]
    assert log_precisions.grad is not None
    assert [0.0, 0.0] == pytest.approx(log_precisions.grad.tolist(), abs=1e-2)  # of terms of 5000, in float32


def test_penalty_is_tau_per_sample() -> None:
    values = {W: torch.tensor([1.0], requires_grad=True)}
    method, state = SoftShare(tau=0.1, components=2, zero_share=0.5), state_of([1.0], [1.0, 0.5])
    view = replace(view_of(values, Budget()), samples=50)
    prior = float(method.mixture(state).prior(0.02).detach())
    assert 0.1 / 50 * (0.654066 + prior) == pytest.approx(method.penalty(view, state).item(), rel=1e-5)
    masked = replace(state, masks={W: torch.tensor([False])})
    assert 0.1 / 50 * prior == pytest.approx(method.penalty(view, masked).item(), rel=1e-5)


def test_weights_become_zero_or_the_mean_of_the_most_responsible_component() -> None:
    values = {W: torch.tensor([0.05, 0.9, -0.2, -1.3, 0.6])}
    method, state = SoftShare(components=3, zero_share=0.5), state_of([1.0, -1.0], [0.2, 0.2, 0.2])
    free = method.finish(view_of(values, Budget()), state)
    assert [False, True, False, True, True] == free.masks[W].tolist()
    assert free.values is not None
    assert [1.0, 1.0, -1.0, -1.0, 1.0] == pytest.approx(free.values[W].tolist())
    # 0.6 is the least certain of the three, and -0.2 the likeliest of the two others
    for count, expected in ((2, [False, True, False, True, False]), (4, [False, True, True, True, True])):
        outcome = method.finish(view_of(values, Budget(keep={"w": count})), state)
        assert expected == outcome.masks[W].tolist()


def test_starts_over_the_range_of_the_weights() -> None:
    view = view_of({W: torch.tensor([-1.0, 0.3, 2.0])}, Budget())
    with torch.no_grad():
        mixture = SoftShare(components=4).mixture(SoftShare(components=4).init(view, {}))
    assert [0.0, -1.0, 0.5, 2.0] == pytest.approx(mixture.means.tolist())
    assert 1.0 == pytest.approx(float(mixture.log_shares.exp().sum()))
    assert [1.0] * 4 == pytest.approx((-0.5 * mixture.log_precisions).exp().tolist())
    assert math.log(0.99) == pytest.approx(float(mixture.log_shares[0]))


@pytest.mark.parametrize("knob", [{"tau": 0.0}, {"components": 1}, {"zero_share": 1.0}, {"deviation": 0.0}])
def test_impossible_knobs_are_refused(knob: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="softshare needs"):
        SoftShare(**knob)  # type: ignore[arg-type]
