import torch

from compress.budget import Budget
from compress.method import State
from compress.methods.han import Han
from tests.support import view_of


def test_one_threshold_in_units_of_each_layers_deviation() -> None:
    """Deviations sqrt(5) and sqrt(0.025): in these units (0.45, 1.34) and (0.63, 1.26), and q lies between."""
    wide, narrow = torch.tensor([1.0, -1.0, 3.0, -3.0]), torch.tensor([0.1, -0.1, 0.2, -0.2])
    for kept, expected in ((6, [[False, False, True, True], [True] * 4]), (4, [[False, False, True, True]] * 2)):
        view = view_of({"a.weight": wide, "b.weight": narrow}, Budget(compression=8 / kept))
        masks = Han().finish(view, State()).masks
        assert expected == [masks["a.weight"].tolist(), masks["b.weight"].tolist()]


def test_the_deviation_is_around_the_mean_and_of_what_is_left() -> None:
    """(1, 3) deviates by 1, (2.2, -1.8) by 2: (1, 3) and (1.1, 0.9); the zeros in force count in neither."""
    values = {"a.weight": torch.tensor([1.0, 3.0, 0.0, 0.0]), "b.weight": torch.tensor([2.2, -1.8])}
    masks = {"a.weight": torch.tensor([True, True, False, False]), "b.weight": torch.tensor([True, True])}
    after = Han().finish(view_of(values, Budget(sparsity=0.5)), State(masks)).masks
    assert [True, True, False, False] == after["a.weight"].tolist()
    assert [True, False] == after["b.weight"].tolist()
