"""The table of what every width saves, and the widths chosen from it: against all combinations."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress import cost
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups
from compress.latency import table
from tests.test_latency import SHAPE, network


def test_blocks_of_one_shape_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six equal convolutions: those between two of their kind cost the same."""
    torch.manual_seed(0)
    middle = [layer for _ in range(6) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), *middle, nn.Flatten(), nn.Linear(16 * 196, 4)).eval()
    asked: list[Mapping[str, int]] = []

    def measure(networks: Sequence[Mapping[str, int]]) -> list[float]:
        asked.extend(networks)
        return [0.1 for _ in networks]

    units = units_of(model)
    rows = table.measured(units, dict.fromkeys(units.blocks, 1), measure)
    assert [list(each) for each in asked] == [["0"], ["2"], ["12"]]
    assert list(rows) == list(units.blocks)
    assert rows["4"] == table.Row((8, 16), (0.1, 0.0))


def units_of(model: nn.Module, multiple: int = 8) -> ChannelUnits:
    values, groups = dict(model.named_parameters()), channel_groups(model, torch.zeros(2, *SHAPE))
    return ChannelUnits.of(groups, values, cost.positions(model, SHAPE), 1, 1, multiple)


def test_a_long_table_is_thinned_and_filled_in() -> None:
    units = units_of(network(), 1)

    def measure(networks: Sequence[Mapping[str, int]]) -> list[float]:
        assert len(networks) <= table.CANDIDATES
        return [1 - width / 64 for each in networks for width in each.values()]

    rows = table.measured(units, dict.fromkeys(units.blocks, 1), measure)
    assert rows["0"].widths == tuple(range(1, 65))
    assert rows["0"].saved == pytest.approx([1 - width / 64 for width in range(1, 65)])


def test_noise_never_makes_a_wider_layer_save_more() -> None:
    units = units_of(network())
    noisy = iter([0.3, 0.1, 0.2, -0.1, 0.0, 0.05, 0.01] * 2)
    rows = table.measured(units, dict.fromkeys(units.blocks, 1), lambda asked: [next(noisy) for _ in asked])
    assert rows["0"].saved == (0.3, 0.2, 0.2, 0.05, 0.05, 0.05, 0.01, 0.0)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 400), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    st.integers(0, 1000),
)
def test_the_widths_chosen_lose_least(blocks: list[list[tuple[int, float]]], needed: int) -> None:
    """Against all combinations."""
    rows, lost = {}, {}
    for number, options in enumerate(blocks):
        parts = sorted((saved for saved, _ in options), reverse=True)
        rows[str(number)] = table.Row(tuple(range(1, len(parts) + 2)), (*(part / table.STEPS for part in parts), 0.0))
        lost[str(number)] = np.array([*sorted((loss for _, loss in options), reverse=True), 0.0])
    chosen = table.narrowest(rows, lost, needed / table.STEPS)
    figures = [list(zip(rows[block].saved, lost[block], strict=True)) for block in rows]
    enough = [
        sum(loss for _, loss in each)
        for each in itertools.product(*figures)
        if round(sum(saved for saved, _ in each) * table.STEPS) >= needed
    ]
    got = [figures[int(block)][rows[block].widths.index(width)] for block, width in chosen.items()]
    if enough:
        assert round(sum(saved for saved, _ in got) * table.STEPS) >= needed
        assert sum(loss for _, loss in got) == pytest.approx(min(enough))
    else:
        most = [max(row.saved) for row in rows.values()]
        assert [saved for saved, _ in got] == most
        assert sum(loss for _, loss in got) == pytest.approx(
            sum(min(loss for saved, loss in each if saved == best) for each, best in zip(figures, most, strict=True))
        )


def test_what_cannot_be_reached_still_loses_no_channel_for_nothing() -> None:
    rows = {"a": table.Row((8, 16), (0.0, 0.0)), "b": table.Row((8, 16), (0.2, 0.0))}
    lost = dict.fromkeys(rows, np.array([3.0, 0.0]))
    assert {"a": 16, "b": 8} == table.narrowest(rows, lost, 0.9)
