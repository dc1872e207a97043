import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.sparsevd import SparseVD, divergence, log_alpha
from tests.support import view_of


def exact(alpha: float, other: float) -> float:
    """KL(alpha) - KL(other) by quadrature: KL = -0.5 log alpha + E log|1 + sqrt(alpha) eps| + constant."""
    eps = torch.linspace(-8, 8, 2_000_001, dtype=torch.float64)
    density = (-0.5 * eps.square()).exp() / math.sqrt(2 * math.pi)

    def divergence(alpha: float) -> float:
        inner = (1 + math.sqrt(alpha) * eps).abs().clamp_min(1e-12).log()
        return -0.5 * math.log(alpha) + float((density * inner).sum() * (eps[1] - eps[0]))

    return divergence(alpha) - divergence(other)


def state_of(log_variance: Tensor, beta: float = 1.0) -> State:
    return State(trainable={"w.weight": log_variance.requires_grad_()}, numbers={"beta": beta})


def test_divergence_by_hand() -> None:
    # alpha = 1: k1 (1 - sigmoid(k2)) + 0.5 log 2 = 0.63576 * 0.133171 + 0.346574
    assert 0.431238 == pytest.approx(float(divergence(torch.tensor(0.0))), abs=1e-6)
    assert [2.0, 0.0] == pytest.approx(log_alpha(torch.tensor([1.0, math.e]), torch.tensor([2.0, 2.0])).tolist())


@pytest.mark.parametrize("log_ratio", [-4.0, -1.0, 0.5, 2.0])
def test_the_fit_is_the_divergence_from_the_log_uniform_prior(log_ratio: float) -> None:
    found = float(divergence(torch.tensor(log_ratio)) - divergence(torch.tensor(0.0)))
    assert exact(math.exp(log_ratio), 1.0) == pytest.approx(found, abs=0.01)  # the fit's own error is below 0.009


def test_penalty_is_of_the_unmasked_weights_and_per_sample() -> None:
    values = {"w.weight": torch.tensor([1.0, 7.0], requires_grad=True)}
    view = view_of(values, Budget())
    state = state_of(torch.zeros(2), beta=0.5)
    masked = State({"w.weight": torch.tensor([True, False])}, state.trainable, numbers=state.numbers)
    view = replace(view, samples=100)
    penalty = SparseVD().penalty(view, masked)
    assert isinstance(penalty, Tensor)
    assert 0.5 * 0.431238 / 100 == pytest.approx(penalty.item(), rel=1e-5)
    penalty.backward()
    assert state.trainable["w.weight"].grad is not None
    assert [True, False] == (state.trainable["w.weight"].grad != 0).tolist()


def test_noise_has_the_learned_deviation_and_evaluation_has_none() -> None:
    values = {"w.weight": torch.ones(200_000), "w.bias": torch.ones(1)}
    state = state_of(torch.full((200_000,), 2 * math.log(0.3)))
    torch.manual_seed(0)
    noisy = {n: v.detach() for n, v in SparseVD().effective(values, state, training=True).items()}
    assert 0.3 == pytest.approx(float(noisy["w.weight"].std()), rel=0.01)
    assert 1.0 == pytest.approx(float(noisy["w.weight"].mean()), abs=0.01)
    assert torch.equal(values["w.bias"], noisy["w.bias"])
    assert torch.equal(values["w.weight"], SparseVD().effective(values, state, training=False)["w.weight"])


def test_beta_waits_and_then_rises() -> None:
    values = {"w.weight": torch.ones(3)}
    method, view = SparseVD(warmup_from=0.25, warmup_to=0.75), view_of(values, Budget())
    state, betas = method.init(view, {}), []
    for step in range(1, 5):
        state = method.update(view, state, Clock(step, 4, 4))
        betas.append(state.numbers["beta"])
    assert [0.0, 0.5, 1.0, 1.0] == betas


def test_ranked_by_noise_and_not_by_size() -> None:
    """log alpha = (4, 2, -1): the largest weight goes first, as it is the noisiest."""
    values = {"w.weight": torch.tensor([2.0, 1.0, 0.5])}
    state = state_of(torch.tensor([4.0, 2.0, -1.0]) + values["w.weight"].square().log())
    assert [False, True, True] == SparseVD().finish(view_of(values, Budget()), state).masks["w.weight"].tolist()
    one = view_of(values, Budget(keep={"w": 1}))
    assert [False, False, True] == SparseVD().finish(one, state).masks["w.weight"].tolist()


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="warmup_from"):
        SparseVD(warmup_from=0.5, warmup_to=0.5)
