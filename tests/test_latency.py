"""Budgets of time: the goal in words, the search on a target whose times are known, and a whole run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import cost, latency
from compress.budget import Budget, Goal
from compress.errors import RunError, UsageError
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


class Clock:
    """A target whose time is a function of the multiply-accumulates."""

    def __init__(self, time: Any) -> None:
        self.time = time
        self.networks: dict[str, nn.Module] = {}
        self.measured = 0

    def write(self, model: nn.Module, path: Path) -> Path:
        self.networks[path.name] = model
        return path

    def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
        self.measured += 1
        times = [self.time(cost.macs(self.networks[path.name], SHAPE)) for path in paths]
        found = [
            Measurement(path.name, "clock", "C", 1, "measured", latency_ms=Latency(ms, ms, ms, 1, 0.0))
            for path, ms in zip(paths, times, strict=True)
        ]
        return found, Speedup(times[0] / times[1], 1, 9)


def searched(clock: Clock, budget: Budget, monkeypatch: pytest.MonkeyPatch, multiple: int = 8) -> dict[str, Any]:
    monkeypatch.setattr(latency.targets, "find", lambda target: clock)
    model = network()
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
    dense = cost.macs(network(), SHAPE)
    clock = Clock(lambda macs: 5.0 * macs / dense)
    found = searched(clock, Budget(latency=asked, ranking="normalised"), monkeypatch, multiple=1)
    goal = Goal.read(asked).share(5.0)
    assert 0.9 * goal <= found["ratio"] <= 1.02 * goal
    assert found["time"] == pytest.approx(5.0 * found["ratio"])
    assert clock.measured == latency.ROUNDS * len(found["tried"])
    assert len(found["tried"]) <= latency.SEARCHES


def test_time_decides_and_not_the_count_of_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a target with a fixed cost, half the time needs fewer than half of the operations."""
    dense = cost.macs(network(), SHAPE)
    clock = Clock(lambda macs: 1.0 + 4.0 * macs / dense)
    found = searched(clock, Budget(latency="0.5x", ranking="normalised"), monkeypatch, multiple=1)
    assert found["macs"] / dense < 0.4
    assert 0.45 <= found["ratio"] <= 0.51


def test_one_lucky_measurement_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = cost.macs(network(), SHAPE)

    class Moody(Clock):
        def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
            found, speedup = super().measure(paths, how, target)
            return found, Speedup(4 * speedup.value, 1, 9) if speedup and self.measured % 3 == 0 else speedup

    found = searched(Moody(lambda macs: macs / dense), Budget(latency="0.5x", ranking="normalised"), monkeypatch, 1)
    assert found["macs"] / dense == pytest.approx(found["ratio"])


def test_widths_are_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = cost.macs(network(), SHAPE)
    found = searched(Clock(lambda macs: macs / dense), Budget(latency="0.5x"), monkeypatch)
    assert found["keep"]
    assert all(count % 8 == 0 for count in found["keep"].values())


def test_a_time_out_of_reach_says_how_far_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = cost.macs(network(), SHAPE)
    clock = Clock(lambda macs: 4.0 + macs / dense)
    with pytest.raises(UsageError, match=r"the fastest of \d candidates took 0\.8\d of the dense network's time"):
        searched(clock, Budget(latency="0.5x"), monkeypatch)


def test_a_target_that_measures_no_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Clock):
        def measure(self, paths: list[Path], how: Timing, target: str) -> tuple[list[Measurement], Speedup | None]:
            return [Measurement(path.name, "clock", "C", 1, "measured", max_abs=0.0) for path in paths], None

    with pytest.raises(RunError, match="cannot hold a latency budget: dense: it measures no time"):
        searched(Silent(lambda macs: 1.0), Budget(latency="0.5x"), monkeypatch)


def test_elements_have_no_time() -> None:
    with pytest.raises(UsageError, match='write units = "channel", not element'):
        build({"prune": [{"method": "magnitude", "budget": {"latency": "0.5x"}}]})
