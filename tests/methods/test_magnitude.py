import torch

from compress.budget import Budget
from compress.method import State
from compress.methods.magnitude import Magnitude
from tests.support import view_of


def test_drops_the_smallest() -> None:
    view = view_of({"w.weight": torch.tensor([0.5, -3.0, 1.0, -0.1])}, Budget(keep={"w": 2}))
    assert [False, True, True, False] == Magnitude().finish(view, State()).masks["w.weight"].tolist()
