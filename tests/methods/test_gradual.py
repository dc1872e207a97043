from dataclasses import replace

import pytest
import torch

from compress.budget import Budget
from compress.errors import UsageError
from compress.method import Clock, State
from compress.methods.gradual import Gradual
from tests.support import view_of


def test_follows_the_cubic_schedule() -> None:
    """Zhu and Gupta's eq. 1 with s_f = 0.9 on 1000 weights: half way 1 - 0.9 (1 - 1/8) = 0.2125 stay."""
    view = view_of({"w.weight": torch.rand(1000, generator=torch.Generator().manual_seed(0))}, Budget(sparsity=0.9))
    method = Gradual(updates_per_epoch=1, ramp=1.0)
    state = method.update(view, State(), Clock(1, 2, 1))
    assert 212 == int(state.masks["w.weight"].sum())
    assert 100 == int(method.update(view, state, Clock(2, 2, 1)).masks["w.weight"].sum())


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="ramp"):
        Gradual(ramp=0.0)


def test_starts_from_the_sparsity_there_is() -> None:
    """From 0.5 to 0.1, half way: 0.1 + 0.4 / 8 = 0.15 stay."""
    view = view_of({"w.weight": torch.rand(1000, generator=torch.Generator().manual_seed(0))}, Budget(sparsity=0.9))
    method = Gradual(updates_per_epoch=1, ramp=1.0)
    state = method.update(replace(view, start=0.5), State(), Clock(1, 2, 1))
    assert 150 == int(state.masks["w.weight"].sum())
