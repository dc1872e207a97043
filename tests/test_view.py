"""What a method's own threshold keeps, where no budget decides."""

import torch

from compress.budget import Budget
from tests.support import view_of


def test_above_keeps_the_floor_of_every_layer_and_wakes_nothing() -> None:
    values = {"a.weight": torch.ones(4), "b.weight": torch.ones(2)}
    scores = {"a": torch.tensor([5.0, 2.0, 1.0, 9.0]), "b": torch.tensor([0.1, 0.2])}
    masks = {"a.weight": torch.tensor([True, True, True, False])}
    kept = view_of(values, Budget()).above(scores, 1.5, masks)
    assert [True, True, False, False] == kept["a.weight"].tolist()  # the largest was zero already
    assert [False, True] == kept["b.weight"].tolist()  # none exceeds the limit; one always stays


def test_only_a_budget_without_a_form_is_free() -> None:
    assert Budget(scope="layer", floor=0.1).free
    assert not any(b.free for b in (Budget(sparsity=0.0), Budget(keep={}), Budget(drop_points=0.0)))
