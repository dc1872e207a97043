"""Budgets of time: the goal in words, the search on a target whose times are known, and a whole run."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress import cost, latency, targets
from compress.budget import Budget, Goal
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups
from compress.errors import RunError, UsageError
from compress.latency import laboratory, table
from compress.progress import Display
from compress.recipe_text import build
from compress.targets import Latency, Measurement, Speedup, Timing

SHAPE = (3, 16, 16)


def network(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.ReLU(),
        nn.Conv2d(width, width, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 144, 4),
    ).eval()


DENSE = cost.macs(network(), SHAPE)


class Clock:
    """A target whose time is a function of the network."""

    def __init__(self, time: Any) -> None:
        self.time = time
        self.times: dict[str, float] = {}
        self.measured = 0

    def write(self, model: nn.Module, path: Path) -> Path:
        self.times[path.name] = self.time(model)
        return path

    def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
        self.measured += 1
        assert not how.fresh, "nothing is asked but the time"
        times = [self.times[path.name] for path in paths]
        found = [
            Measurement(
                path.name, "clock", "C", 1, "measured", latency_ms=Latency(ms, ms, ms, 1, 0.0),
                speedup=Speedup(times[0] / ms, 1, 9),
            )
            for path, ms in zip(paths, times, strict=True)
        ]  # fmt: skip
        return found, found[1].speedup


def share(model: nn.Module) -> float:
    """Of the dense network's multiply-accumulates."""
    return cost.macs(model, SHAPE) / DENSE


def searched(
    clock: Clock, asked: str, monkeypatch: pytest.MonkeyPatch, multiple: int = 8, **how: Any
) -> dict[str, Any]:
    monkeypatch.setattr(targets, "find", lambda target: clock)
    model, budget = network(), Budget(latency=asked, **how)
    return latency.search(model, model, budget, latency.Bench("clock", clock.write, SHAPE, multiple=multiple))


@pytest.mark.parametrize("text", ["0.5", "2", "x", "-1ms", "0ms", "1x", "1.5x", "2 s", ""])
def test_a_goal_in_other_words_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"0\.5x, or a time, 2ms"):
        Budget(latency=text)


def test_a_goal_is_a_share_or_a_time() -> None:
    assert Goal.read("0.5x").share(8.0) == 0.5
    assert Goal.read("2ms").share(8.0) == 0.25


@pytest.mark.parametrize("asked", ["0.5x", "0.25x", "2.5ms"])
def test_the_search_lands_just_below_what_was_asked(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(Clock(lambda model: 5.0 * share(model)), asked, monkeypatch, multiple=4)
    goal = Goal.read(asked).share(5.0)
    assert 0.9 * goal <= found["ratio"] <= 1.02 * goal
    assert found["time"] == pytest.approx(5.0 * found["ratio"])
    assert len(found["tried"]) <= latency.SEARCHES


def test_time_decides_and_not_the_count_of_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a target with a fixed cost, half the time needs fewer than half of the operations."""
    found = searched(Clock(lambda model: 1.0 + 4.0 * share(model)), "0.5x", monkeypatch, multiple=4)
    assert share_of(found) < 0.4
    assert 0.45 <= found["ratio"] <= 0.51


def share_of(found: dict[str, Any]) -> float:
    return float(found["macs"]) / DENSE


def test_the_layer_that_takes_the_time_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution that this target runs badly; the same count of operations would also go elsewhere."""
    found = searched(Clock(lambda model: 0.1 * share(model) + layers(model)[1] / 64), "0.6x", monkeypatch)
    assert found["keep"]["2"] < found["keep"]["0"] == 64
    found = searched(Clock(lambda model: 0.1 * share(model) + layers(model)[0] / 64), "0.6x", monkeypatch)
    assert found["keep"]["0"] < found["keep"]["2"] == 64


def layers(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_no_channel_goes_that_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that computes blocks of 16 channels: widths between two blocks would lose channels and save no time."""
    found = searched(Clock(lambda model: sum(-(-width // 16) for width in layers(model))), "0.7x", monkeypatch)
    assert all(width % 16 == 0 for width in found["keep"].values())
    rows = found["table"]["0"]
    assert dict(zip(rows["widths"], rows["saved"], strict=True))[56] == 0.0
    assert dict(zip(rows["widths"], rows["saved"], strict=True))[48] == pytest.approx(1 / 8)


def test_one_lucky_measurement_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moody(Clock):
        def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
            found, _ = super().measure(paths, how, target)
            if self.measured % 3 == 0:
                found = [replace(m, speedup=Speedup(4 * m.speedup.value, 1, 9)) for m in found if m.speedup]
            return found, None

    found = searched(Moody(share), "0.5x", monkeypatch, multiple=4)
    assert share_of(found) == pytest.approx(found["ratio"])


def test_widths_are_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(Clock(share), "0.5x", monkeypatch)
    assert found["keep"]
    assert all(count % 8 == 0 for count in found["keep"].values())


def test_skip_and_floor_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(Clock(share), "0.6x", monkeypatch, skip=("0",), floor=0.5)
    assert found["keep"]["0"] == 64
    assert 32 <= found["keep"]["2"] < 64


def test_a_time_out_of_reach_says_how_far_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"the fastest of \d candidates took 0\.8\d of the dense network's time"):
        searched(Clock(lambda model: 4.0 + share(model)), "0.5x", monkeypatch)


def test_a_network_that_is_fast_enough_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lambda model: 5.0 * share(model))
    found = searched(clock, "6ms", monkeypatch)
    assert {"0": 64, "2": 64} == found["keep"]
    assert {} == found["table"]
    assert clock.measured == 3, "no other network was measured"


def test_a_block_of_zeros_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses nothing, so that nothing else has to."""
    model = network()
    with torch.no_grad():
        for value in model[2].parameters():  # type: ignore[index]
            value.zero_()
    clock = Clock(lambda model: sum(layers(model)))
    monkeypatch.setattr(targets, "find", lambda target: clock)
    budget = Budget(latency="0.75x")
    assert {"0": 64, "2": 8} == latency.search(model, model, budget, latency.Bench("c", clock.write, SHAPE))["keep"]


def test_what_cannot_be_reached_still_loses_no_channel_for_nothing() -> None:
    rows = {"a": table.Row((8, 16), (0.0, 0.0)), "b": table.Row((8, 16), (0.2, 0.0))}
    lost = dict.fromkeys(rows, np.array([3.0, 0.0]))
    assert {"a": 16, "b": 8} == table.narrowest(rows, lost, 0.9)


def test_counts_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter(Clock):
        UNIT = "instructions"

        def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
            super().measure(paths, how, target)
            counts = [round(self.times[path.name]) for path in paths]
            return [
                Measurement(p.name, "counter", "C", 1, "measured", instructions=n)
                for p, n in zip(paths, counts, strict=True)
            ], None

    clock = Counter(lambda model: 1e6 * share(model))
    found = searched(clock, "0.5x", monkeypatch)
    assert found["ratio"] == pytest.approx(share_of(found), rel=1e-3)
    assert clock.measured == 1 + 2 + len(found["tried"]), "as it is, 14 networks of one block in two turns, candidates"


def test_a_device_holds_few_large_networks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    class Device(Clock):
        def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
            held.append(len(paths) - 1)
            return super().measure(paths, how, target)

    size = 4 * sum(value.numel() for value in network().parameters())
    monkeypatch.setattr(laboratory, "TOGETHER_BYTES", 3 * size)
    few = searched(Device(share), "0.5x", monkeypatch)
    assert max(held) == 3
    monkeypatch.setattr(laboratory, "TOGETHER_BYTES", size // 2)
    held.clear()
    assert few == searched(Device(share), "0.5x", monkeypatch)
    assert max(held) == 1


@pytest.mark.parametrize(
    ("asked", "on", "said"),
    [
        ("0.5x", (), "needs a target to measure on"),
        ("0.5x", ("qemu-aarch64", "local"), "qemu-aarch64, only compares outputs"),
        ("2ms", ("mcu:cortex-m7",), "counts instructions; write a share"),
    ],
)
def test_a_target_that_cannot_hold_a_budget_is_known_at_once(asked: str, on: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        latency.check(Budget(latency=asked), on)
    latency.check(Budget(sparsity=0.5), on)


def test_targets_that_hold_a_budget_pass() -> None:
    for asked, target in (("0.5x", "local"), ("2ms", "web"), ("2ms", "c:portable"), ("0.5x", "mcu")):
        latency.check(Budget(latency=asked), (target, "qemu-aarch64"))


def chosen_for(monkeypatch: pytest.MonkeyPatch, **recipe: Any) -> tuple[str, latency.Bench]:
    """What the second step of a recipe asks, and under which name its answer is kept."""
    first = {"method": "pfec", "units": "channel", "budget": {"macs": 0.5}, "round_channels": 16}
    second = {"method": "pfec", "units": "channel", "budget": {"latency": "0.5x"}}
    names: list[str] = []
    asked: list[latency.Bench] = []

    def decide(name: str, choose: Any) -> Any:
        names.append(name)
        return choose()

    def search(model: nn.Module, dense: nn.Module, budget: Budget, bench: latency.Bench) -> dict[str, Any]:
        asked.append(bench)
        return {"keep": {"0": 16}}

    monkeypatch.setattr(latency, "search", search)
    run: Any = SimpleNamespace(
        recipe=build({"prune": [first, second], **recipe}),
        key="network",
        directory=SimpleNamespace(decide=decide),
        display=Display(quiet=True),
        write=latency.no_writer,
        data=SimpleNamespace(input_shape=SHAPE),
        model=lambda payload: network(),
        payloads={"dense": {}},
        latencies=[],
    )
    assert Budget(keep={"0": 16}) == latency.counts(run, 1, {})
    return names[0], asked[0]


def test_widths_are_those_that_compaction_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds as an earlier step does; widths between would be filled up again."""
    assert 16 == chosen_for(monkeypatch)[1].multiple


def test_what_was_measured_with_other_threads_or_images_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[dict[str, Any]] = [{}, {"validate": {"threads": 2}}, {"export": {"batch": 4}}]
    names = [chosen_for(monkeypatch, **change)[0] for change in changes]
    assert 3 == len(set(names))
    assert names[0] == chosen_for(monkeypatch, validate={"seconds": 3.0})[0]


def test_a_network_without_channels_to_remove_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    clock = Clock(lambda model: 1.0)
    with pytest.raises(UsageError, match="no channel that can be removed"):
        latency.search(model, model, Budget(latency="0.5x"), latency.Bench("clock", clock.write, SHAPE))


def test_a_target_that_measures_no_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Clock):
        def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
            return [Measurement(path.name, "clock", "C", 1, "measured", max_abs=0.0) for path in paths], None

    with pytest.raises(RunError, match="cannot hold a latency budget: dense: it measures no time"):
        searched(Silent(lambda model: 1.0), "0.5x", monkeypatch)


def test_elements_have_no_time() -> None:
    with pytest.raises(UsageError, match='write units = "channel", not element'):
        build({"prune": [{"method": "magnitude", "budget": {"latency": "0.5x"}}]})


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
    rows = table.measured(units, dict.fromkeys(units.blocks, 1), 8, measure)
    assert [list(each) for each in asked] == [["0"], ["2"], ["12"]]
    assert list(rows) == list(units.blocks)
    assert rows["4"] == table.Row((8, 16), (0.1, 0.0))


def units_of(model: nn.Module) -> ChannelUnits:
    values = dict(model.named_parameters())
    return ChannelUnits.of(channel_groups(model, torch.zeros(2, *SHAPE)), values, cost.positions(model, SHAPE), 1, 1)


def test_a_long_table_is_thinned_and_filled_in() -> None:
    units = units_of(network())

    def measure(networks: Sequence[Mapping[str, int]]) -> list[float]:
        assert len(networks) <= table.CANDIDATES
        return [1 - width / 64 for each in networks for width in each.values()]

    rows = table.measured(units, dict.fromkeys(units.blocks, 1), 1, measure)
    assert rows["0"].widths == tuple(range(1, 65))
    assert rows["0"].saved == pytest.approx([1 - width / 64 for width in range(1, 65)])


def test_noise_never_makes_a_wider_layer_save_more() -> None:
    units = units_of(network())
    noisy = iter([0.3, 0.1, 0.2, -0.1, 0.0, 0.05, 0.01] * 2)
    rows = table.measured(units, dict.fromkeys(units.blocks, 1), 8, lambda asked: [next(noisy) for _ in asked])
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
