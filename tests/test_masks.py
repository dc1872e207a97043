import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.masks import burn, keep_top, nonzero, rank


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 45))
def test_keep_top_keeps_exactly_the_count_even_with_ties(scores: list[int], count: int) -> None:
    kept = keep_top(torch.tensor(scores, dtype=torch.float32), count)
    assert min(count, len(scores)) == int(kept.sum())


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_no_dropped_score_beats_a_kept_one(scores: list[float]) -> None:
    values = torch.tensor(scores)
    kept = keep_top(values, len(scores) // 2)
    assert values[kept].min() >= values[~kept].max()


def test_equal_scores_are_ranked_by_index() -> None:
    assert [[1, 2], [0, 3]] == rank(torch.tensor([[2.0, 2.0], [5.0, 2.0]])).tolist()


def test_burning_writes_positive_zeros() -> None:
    burnt = burn({"w": torch.tensor([-1.0, -2.0])}, {"w": torch.tensor([False, True])})["w"]
    assert [False, True] == torch.signbit(burnt).tolist()
    assert [0.0, -2.0] == burnt.tolist()


def test_gradient_of_a_dropped_weight_is_zero() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    burn({"w": w}, {"w": torch.tensor([False, True])})["w"].square().sum().backward()
    assert w.grad is not None
    assert [0.0, 8.0] == w.grad.tolist()


def test_nonzero_reads_only_the_named_tensors() -> None:
    values = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.0])}
    assert {"a": [False, True]} == {name: mask.tolist() for name, mask in nonzero(values, ("a",)).items()}
