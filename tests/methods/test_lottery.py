from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.budget import Budget
from compress.cost import prunable
from compress.descent import Optimization
from compress.errors import UsageError
from compress.method import State
from compress.methods.lottery import Lottery
from compress.rounds import Plan, prune
from tests.support import element_units, tiny_task, view_of


def test_every_layer_at_the_same_rate_and_the_output_at_half_of_it() -> None:
    """A rate of 1/2: 4 of 8 go, and 1 of the 4 of the output layer, however small its weights are."""
    hidden, output = torch.arange(1.0, 9.0), torch.tensor([0.4, 0.1, 0.3, 0.2])
    view = view_of({"hidden.weight": hidden, "output.weight": output}, Budget(sparsity=5 / 12))
    masks = Lottery().finish(view, State()).masks
    assert [False] * 4 + [True] * 4 == masks["hidden.weight"].tolist()
    assert [True, False, True, True] == masks["output.weight"].tolist()
    # Again 1/2, of what is left: 2 of 4, and none of 3, for the first would go at a rate of 2/3.
    values = {"hidden.weight": hidden * masks["hidden.weight"], "output.weight": output * masks["output.weight"]}
    again = Lottery().finish(view_of(values, Budget(sparsity=7 / 12)), State(masks)).masks
    assert [False] * 6 + [True] * 2 == again["hidden.weight"].tolist()
    assert torch.equal(masks["output.weight"], again["output.weight"])


def test_after_every_round_the_survivors_are_where_training_began() -> None:
    task = tiny_task()
    begin = {name: value.detach().clone() for name, value in task.model.named_parameters()}
    weights = {name: value for name, value in task.model.named_parameters() if value.dim() > 1}
    with torch.no_grad():  # as dense training would
        for value in task.model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    units, some = element_units(weights), Optimization(1, batch_size=16)
    plan = Plan("p", Lottery(), units, Budget(sparsity=0.75), replace(some, epochs=0), some, rounds=3, rewind=begin)
    rewound: list[dict[str, Tensor]] = []

    def save(saved: dict[str, Any]) -> None:
        if saved["snapshot"] is None and saved["phase"] % 2:  # a method's phase has just ended
            rewound.append({name: value.clone() for name, value in saved["model"].items()})

    masks = prune(task, plan, {}, prunable(task.model), save=save)
    assert 3 == len(rewound)
    total = sum(value.numel() for value in weights.values())
    for number, values in enumerate(rewound, 1):
        alive = {name: values[name] != 0 for name in weights}
        assert int(total * 0.25 ** (number / 3)) == sum(int(mask.sum()) for mask in alive.values())
        assert all(torch.equal(values[n], begin[n] * alive.get(n, torch.ones_like(begin[n]))) for n in begin)
    assert all(torch.equal(masks[name], rewound[-1][name] != 0) for name in weights)
    assert not torch.equal(task.model.get_parameter("fc.weight"), rewound[-1]["fc.weight"])  # and then retrained


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(UsageError, match="output_rate"):
        Lottery(output_rate=0.0)
