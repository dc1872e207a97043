import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.budget import Budget, select
from compress.errors import UsageError
from tests.support import element_units

VALUES = {"a.weight": torch.arange(1.0, 11.0), "b.weight": torch.arange(1.0, 31.0) / 100}


def kept(budget: Budget, **options: object) -> dict[str, int]:
    units = element_units(VALUES)
    keep = select(budget, units, units.scores(VALUES), **options)  # type: ignore[arg-type]
    return {name: int(k.sum()) for name, k in keep.items()}


def test_global_sparsity_keeps_the_largest_of_all_layers() -> None:
    # 40 weights, a quarter stays: all 10 of a are larger than any of b, but one weight per layer always stays
    assert {"a": 9, "b": 1} == kept(Budget(sparsity=0.75))


def test_normalised_ranking_compares_weights_of_different_scale() -> None:
    counts = kept(Budget(sparsity=0.5, ranking="normalised"))
    assert sum(counts.values()) == 20
    assert counts["b"] > 10


def test_layer_scope_takes_the_same_fraction_everywhere() -> None:
    assert {"a": 5, "b": 15} == kept(Budget(sparsity=0.5, scope="layer"))


def test_kept_counts_are_exact_per_layer() -> None:
    assert {"a": 3, "b": 15} == kept(Budget(keep={"a": 3, "b": 0.5}))


def test_layers_that_keep_does_not_name_stay_whole() -> None:
    assert {"a": 3, "b": 30} == kept(Budget(keep={"a": 3}))


def test_floor_holds_in_every_layer() -> None:
    assert {"a": 7, "b": 3} == kept(Budget(sparsity=0.75, floor=0.1))


def test_macs_count_positions() -> None:
    units = element_units(VALUES, positions=7)
    keep = select(Budget(macs=140), units, units.scores(VALUES))
    assert 140 == units.macs(keep)


def test_schedule_relaxes_the_kept_fraction() -> None:
    assert 20 == sum(kept(Budget(sparsity=0.75), relax=lambda fraction: fraction * 2).values())


@given(st.floats(0, 0.94))
def test_sparsity_is_reached_to_the_weight(sparsity: float) -> None:
    left = sum(kept(Budget(sparsity=sparsity)).values())
    assert left <= (1 - sparsity) * 40 * (1 + 1e-9) < left + 1


@given(st.floats(1, 19))
def test_compression_is_reached_to_the_weight(compression: float) -> None:
    left = sum(kept(Budget(compression=compression)).values())
    assert left <= 40 / compression * (1 + 1e-9) < left + 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sparsity": 1.5}, "for 90 % write 0.9"),
        ({"sparsity": -0.1}, r"\[0, 1\)"),
        ({"compression": 0.5}, "at least 1"),
        ({"macs": 0.0}, "macs"),
        ({"keep": {"a": 0}}, "keep.a"),
        ({"keep": {"a": 1.5}}, "keep.a"),
        ({"sparsity": 0.5, "floor": 2.0}, "floor"),
        ({"sparsity": 0.5, "macs": 0.5}, "sparsity and macs"),
    ],
)
def test_impossible_budgets_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Budget(**values)  # type: ignore[arg-type]


def test_a_layer_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'c'.*known: a, b"):
        kept(Budget(keep={"c": 1}))


def test_more_than_the_layer_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"11.*has 10 weights"):
        kept(Budget(keep={"a": 11}))


def test_a_goal_below_the_floor_is_refused() -> None:
    with pytest.raises(UsageError, match="ask for less"):
        kept(Budget(compression=40))


def test_without_a_form_everything_stays() -> None:
    assert {"a": 10, "b": 30} == kept(Budget())


def test_drop_keeps_the_fewest_that_hold_the_accuracy() -> None:
    """Accuracy 1 % per weight that stays: 7 points may go, so 7 of 40 weights go, the smallest first."""
    counts = kept(Budget(drop_points=7), accuracy=lambda keep: sum(int(k.sum()) for k in keep.values()) / 100)
    assert {"a": 10, "b": 23} == counts


def test_drop_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="accuracy"):
        kept(Budget(drop_points=7))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_skipped_layers_stay_whole(scope: str) -> None:
    assert {"a": 10, "b": 10} == kept(Budget(sparsity=0.5, scope=scope, skip=("a",)))  # type: ignore[arg-type]
    assert {"a": 2, "b": 30} == kept(Budget(sparsity=0.2, scope=scope, skip=("b*",)))  # type: ignore[arg-type]


def test_a_skip_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="skip names no layer 'conv9'"):
        kept(Budget(sparsity=0.5, skip=("conv9",)))
