"""One ranking over all layers: a hand case of each, and what they spare."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.budget import Budget, select
from compress.ranking import comparable
from tests.support import element_units

SCORES = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([10.0, 30.0])}


def ranked(ranking: str, scores: dict[str, torch.Tensor] = SCORES, **positions: int) -> dict[str, list[float]]:
    units = element_units(scores)
    price = {name: positions.get(name, 1) for name in scores}
    found = comparable(
        ranking,  # type: ignore[arg-type]
        scores,
        units,
        lambda keep: sum(int(kept.sum()) * price[name] for name, kept in keep.items()),
    )
    return {name: score.tolist() for name, score in found.items()}


def test_raw_and_normalised() -> None:
    assert ranked("raw") == {"a": [3, 1, 2], "b": [10, 30]}
    assert ranked("normalised") == {"a": [1.5, 0.5, 1.0], "b": [0.5, 1.5]}


def test_balanced_counts_what_the_logarithm_of_a_layer_loses() -> None:
    found = ranked("balanced")
    assert found["a"] == pytest.approx([math.inf, 3 * math.log(6 / 5), 3 * math.log(5 / 3)])
    assert found["b"] == pytest.approx([2 * math.log(4 / 3), math.inf])


def test_balanced_asks_what_a_unit_costs() -> None:
    assert ranked("balanced", a=10)["a"][1] == pytest.approx(ranked("balanced")["a"][1] / 10)


def test_what_is_gone_stays_behind_all_else() -> None:
    found = ranked("balanced", {"a": torch.tensor([0.0, -torch.inf, 2.0])})["a"]
    assert found == [0.0, -math.inf, math.inf]


@pytest.mark.parametrize("ranking", ["raw", "normalised", "balanced"])
def test_the_order_in_a_layer_is_that_of_the_scores(ranking: Any) -> None:
    """Logarithms of ratios and dropped units are scored below 0 by their methods, and dead ones 0."""
    scores = {"a": torch.tensor([-9.0, -1.0, 2.0, 0.0, -4.0, 5.0]), "b": torch.tensor([-3.0, -1.0, -2.0, -4.0])}
    units = element_units(scores)
    for count in range(2, 10):
        kept = select(Budget(sparsity=1 - count / 10, ranking=ranking), units, scores)
        assert sum(int(k.sum()) for k in kept.values()) == count
        for block, score in scores.items():
            assert score[kept[block]].min() > max(score[~kept[block]].tolist(), default=-math.inf)


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20), st.floats(1e-3, 1e3))
def test_balanced_keeps_the_order_in_a_layer_and_knows_no_scale(values: list[float], scale: float) -> None:
    scores = torch.tensor(values)
    found = torch.tensor(ranked("balanced", {"a": scores})["a"])
    again = torch.tensor(ranked("balanced", {"a": scores * scale})["a"])
    order = scores.argsort(descending=True, stable=True)
    assert (found[order].diff().nan_to_num(0) <= 0).all()
    torch.testing.assert_close(again, found, rtol=1e-3, atol=1e-5)


def test_a_layer_of_small_weights_is_not_emptied() -> None:
    values = {"a.weight": torch.arange(1.0, 11.0), "b.weight": torch.arange(1.0, 11.0) / 1000}
    units = element_units(values)
    kept = {
        ranking: int(select(Budget(sparsity=0.7, ranking=ranking), units, units.scores(values))["b"].sum())
        for ranking in ("raw", "balanced")  # type: ignore[arg-type]
    }
    assert kept == {"raw": 1, "balanced": 3}
