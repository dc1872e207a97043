"""Budgets of time: the goal in words, and the search on a target whose times are known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from compress import cost, latency, targets
from compress.budget import Budget, Goal
from compress.errors import RunError, UsageError
from compress.latency import laboratory
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


@dataclass(frozen=True)
class Asked:
    """What the second step of a recipe asked for.

    Attributes:
        name: under which the answer is kept.
        bench: where it was to be measured.
        notes: that the run was left.
    """

    name: str
    bench: latency.Bench
    notes: list[str]


def asked_for(monkeypatch: pytest.MonkeyPatch, answer: Mapping[str, Any] | None = None, **recipe: Any) -> Asked:
    first = {"method": "pfec", "units": "channel", "budget": {"macs": 0.5}, "round_channels": 16}
    second = {"method": "pfec", "units": "channel", "budget": {"latency": "0.5x"}}
    names: list[str] = []
    benches: list[latency.Bench] = []
    notes: list[str] = []

    def decide(name: str, choose: Any) -> Any:
        names.append(name)
        return choose()

    def search(model: nn.Module, dense: nn.Module, budget: Budget, bench: latency.Bench) -> dict[str, Any]:
        benches.append(bench)
        return {"keep": {"0": 16}, **(answer or {})}

    monkeypatch.setattr(latency, "search", search)
    run: Any = SimpleNamespace(
        recipe=build({"prune": [first, second], **recipe}),
        key="network",
        directory=SimpleNamespace(decide=decide, notes=notes),
        display=Display(quiet=True),
        write=latency.no_writer,
        data=SimpleNamespace(input_shape=SHAPE),
        model=lambda payload: network(),
        payloads={"dense": {}},
        latencies=[],
    )
    assert Budget(keep={"0": 16}) == latency.counts(run, 1, {})
    return Asked(names[0], benches[0], notes)


def test_widths_are_those_that_compaction_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds as an earlier step does; widths between would be filled up again."""
    assert 16 == asked_for(monkeypatch).bench.multiple


def test_what_was_measured_with_other_threads_or_images_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[dict[str, Any]] = [{}, {"validate": {"threads": 2}}, {"export": {"batch": 4}}]
    names = [asked_for(monkeypatch, **change).name for change in changes]
    assert 3 == len(set(names))
    assert names[0] == asked_for(monkeypatch, validate={"seconds": 3.0}).name


def test_that_nothing_has_to_go_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (note,) = asked_for(monkeypatch, {"table": {}}).notes
    assert note.startswith("prune-1: the network already takes no more than latency budget 0.5x on local")
    # neither where a table was measured, nor where an older version kept none
    assert [] == asked_for(monkeypatch, {"table": {"0": {}}}).notes == asked_for(monkeypatch).notes


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
