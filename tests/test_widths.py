"""Channel counts in multiples: chosen so, with live channels, within the budget."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress import cost
from compress.budget import Budget, select
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups, compact
from compress.errors import UsageError
from compress.method import View
from tests.conftest import Project, invoke, report_of
from tests.support import FunctionProbe

SHAPE = (1, 12, 12)


def network() -> nn.Module:
    """Blocks of 24, 32, 20 and 6 channels: 0, 2, 4 and 8."""
    layers = [
        nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.Conv2d(32, 20, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Identity(), nn.Linear(20 * 9, 6), nn.ReLU(), nn.Linear(6, 4),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


MODEL = network()
GROUPS = channel_groups(MODEL, torch.zeros(2, *SHAPE))
POSITIONS, WEIGHTS, MACS = cost.positions(MODEL, SHAPE), cost.weight_count(MODEL), cost.macs(MODEL, SHAPE)


def units(multiple: int) -> ChannelUnits:
    return ChannelUnits.of(GROUPS, dict(MODEL.named_parameters()), POSITIONS, WEIGHTS, MACS, multiple)


def counts(keep: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: int(kept.sum()) for name, kept in keep.items()}


def scores(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, generator=generator) for name, size in units(8).blocks.items()}


BUDGETS = [
    Budget(macs=0.4), Budget(macs=0.4, ranking="balanced", floor=0.2), Budget(sparsity=0.7, scope="layer"),
    Budget(compression=2.5, skip=("2",)), Budget(drop_points=40), Budget(keep={"0": 11, "2": 0.5, "4": 17}),
]  # fmt: skip


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.describe().replace(" ", "-"))
@pytest.mark.parametrize("seed", range(3))
def test_what_compaction_leaves_is_in_multiples_and_alive(budget: Budget, seed: int) -> None:
    """Nothing is brought back: every row of the small network has weights."""
    model, ranked, rounded = network(), scores(seed), units(8)
    keep = select(budget, rounded, ranked, accuracy=lambda keep: rounded.weights(keep) / WEIGHTS)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.uniform_(parameter, 0.1, 1.0)  # no rectifier closes
        for name, mask in rounded.masks(keep).items():
            model.get_parameter(name).mul_(mask)
    small = compact(model, torch.rand(2, *SHAPE), round_to=8).model
    for name in "0248":
        weight = small.get_parameter(f"{name}.weight")
        assert bool(weight.flatten(1).any(1).all()), name
        assert len(weight) % 8 == 0 or len(weight) == {"4": 20, "8": 6}.get(name), (name, len(weight))
    if budget.macs:
        assert cost.macs(small, SHAPE) <= budget.macs * MACS
    assert cost.weight_count(small) == rounded.weights(keep) < WEIGHTS


def test_counts_that_are_asked_for_are_rounded_up() -> None:
    keep = select(Budget(keep={"0": 11, "2": 0.5, "4": 17, "8": 2}), units(8), scores(0))
    assert {"0": 16, "2": 16, "4": 20, "8": 6} == counts(keep)
    best = scores(0)["0"].topk(16).indices
    assert sorted(best.tolist()) == keep["0"].nonzero()[:, 0].tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.25, 0.95), st.sampled_from(["raw", "normalised", "balanced"]))
def test_no_further_step_fits(seed: int, macs: float, ranking: str) -> None:
    """The room that whole steps leave is used: the next step of any block costs more than is allowed."""
    rounded, ranked = units(8), scores(seed)
    keep = select(Budget(macs=macs, ranking=ranking), rounded, ranked)  # type: ignore[arg-type]
    assert rounded.macs(keep) <= macs * MACS
    for name, kept in keep.items():
        width = int(kept.sum())
        if width < len(kept):
            wider = ranked[name] >= ranked[name].sort(descending=True).values[min(width + 8, len(kept)) - 1]
            assert rounded.macs({**keep, name: wider}) > macs * MACS, name


def test_a_multiple_of_one_is_no_multiple() -> None:
    ranked = scores(1)
    first, second = (select(Budget(macs=0.4), units(multiple), ranked) for multiple in (1, 8))
    assert any(count % 8 for count in counts(first).values())
    assert counts(first) != counts(second)


def test_a_goal_below_one_multiple_in_every_layer_is_refused() -> None:
    select(Budget(macs=0.02), units(1), scores(0))
    with pytest.raises(UsageError, match="round_channels"):
        select(Budget(macs=0.02), units(8), scores(0))


def test_a_methods_own_threshold_is_rounded_up() -> None:
    ranked, rounded = scores(2), units(8)
    view = View({}, (), rounded, Budget(), {}, lambda kept: kept, FunctionProbe())
    masks, order = view.above(ranked, 0.5, {}), ranked["2"].argsort(descending=True)
    kept = int((ranked["2"] > 0.5).sum())
    assert kept % 8
    found = masks["2.weight"].flatten(1).any(1)
    assert order[: -(-kept // 8) * 8].sort().values.tolist() == found.nonzero()[:, 0].tolist()


def test_rows_are_counted_and_not_the_units_that_make_them() -> None:
    """Two halves that are multiplied go together: four channels are eight rows."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 24, 3), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.conv(x).chunk(2, 1)
            return self.fc((value * torch.sigmoid(gate)).mean((2, 3)))

    model = Gated().eval()
    groups, values = channel_groups(model, torch.zeros(2, *SHAPE)), dict(model.named_parameters())
    gated = ChannelUnits.of(groups, values, cost.positions(model, SHAPE), 1, 1, 8)
    assert ({"conv": 12}, 4) == (dict(gated.blocks), gated.step("conv"))
    assert {"conv": 8} == counts(select(Budget(keep={"conv": 5}), gated, {"conv": torch.rand(12)}))


def test_a_run_ships_no_dead_channel(user: Project, tmp_path: Path) -> None:
    """A convolution of 4 channels and a layer of 12; another multiple prunes again."""
    step = ("--method", "magnitude", "--units", "channel", "--macs", 0.85, "--epochs", 0, "--finetune-epochs", 0)
    words = user.words(*step, "--format", "onnx", "--no-app", "--out", tmp_path / "run")
    assert 0 == (ended := invoke(*words, "--round-channels", 4)).exit_code, ended.output
    found = report_of(tmp_path / "run")
    assert {"conv": 4, "fc1": 8} == {
        layer["name"]: layer["out_after"] for layer in found["compaction"]["layers"] if layer["name"] != "fc2"
    }
    assert found["pruned"]["macs"] <= 0.85 * found["dense"]["macs"]
    assert found["pruned"]["nonzero"] == found["pruned"]["weights"]
    assert 0 == (ended := invoke(*words, "--round-channels", 6)).exit_code, ended.output
    assert "multiply-accumulates" not in ended.stderr
    again = {stage["name"].split()[0]: stage["resumed"] for stage in report_of(tmp_path / "run")["stages"]}
    assert (True, False) == (again["dense"], again["prune-0"])


SPLIT = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(1, 12, 3), nn.Linear(6, num_classes), nn.Linear(6, num_classes)

    def forward(self, x):
        first, second = torch.relu(self.conv(x)).mean((2, 3)).chunk(2, 1)
        return self.one(first) + self.other(second)
"""


def test_what_compaction_has_to_bring_back_is_told(user: Project, tmp_path: Path) -> None:
    """Two halves of 4 or 6 channels in one convolution: 4 and 6 make 10, which is no multiple of 4."""
    (tmp_path / "split.py").write_text(SPLIT)
    step = ("--method", "magnitude", "--units", "channel", "--macs", 0.9, "--epochs", 0, "--finetune-epochs", 0)
    words = user.words(*step, "--round-channels", 4, "--format", "onnx", "--no-app", "--out", tmp_path / "run")
    words[words.index("--model") + 1] = f"{tmp_path / 'split.py'}:Net"
    ended = invoke(*words)
    assert 0 == ended.exit_code, ended.output
    assert "1.000 of the dense network's multiply-accumulates stay, more than the budget (macs 0.9)" in ended.stderr
