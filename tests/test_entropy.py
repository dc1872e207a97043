"""The entropy coder: nothing lost, as short as Huffman's code can be, and its size known without writing it."""

import heapq

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from compress.entropy import code_lengths, codes, decode, encode, size_bytes

Array = npt.NDArray[np.float32]

few = st.sampled_from([0.0, 0.0, 0.0, 0.0, -1.5, 0.25, 3.0])
any_value = st.floats(width=32, allow_nan=False).map(lambda x: x + 0.0)
weights = st.one_of(st.lists(few, max_size=300), st.lists(any_value, max_size=40)).map(
    lambda x: np.array(x, np.float32)
)


@given(weights, st.integers(0, 5000))
def test_nothing_is_lost_and_the_size_is_that_of_the_stream(found: Array, gap: int) -> None:
    spaced = np.concatenate([np.zeros(gap, np.float32), found, np.zeros(gap % 7, np.float32), found])
    stream = encode(spaced)
    assert np.array_equal(spaced, decode(stream, spaced.size))
    assert len(stream) == size_bytes([spaced])


def test_infinities_and_shapes() -> None:
    some = np.array([[0.0, np.inf], [-np.inf, 1e-40]], np.float32)
    assert np.array_equal(some.reshape(-1), decode(encode(some), 4))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=60).filter(lambda counts: sum(c > 0 for c in counts) > 1))
def test_codes_are_prefix_free_and_as_short_as_huffman_s(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts))
    words = [f"{code:0{length}b}" for code, length in zip(codes(lengths), lengths, strict=True) if length]
    assert not any(a != b and b.startswith(a) for a in words for b in words)
    assert 1.0 == sum(2.0 ** -len(word) for word in words)  # Kraft: no bit is wasted
    # The cost of the best code is the sum over all merges of the two rarest.
    heap, cost = [c for c in counts if c], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    assert cost == int((np.array(counts) * lengths).sum())


def test_shared_values_make_it_smaller_than_fixed_width() -> None:
    """Of 1,000 weights in 10,000, 900 have one value: less than a bit and a half each, not 4."""
    generator = np.random.default_rng(0)
    dense = np.zeros(10_000, np.float32)
    places = generator.choice(10_000, 1_000, replace=False)
    dense[places] = np.where(generator.random(1_000) < 0.9, 0.5, generator.integers(1, 16, 1_000)).astype(np.float32)
    gaps_bytes = 1_000 * 5.5 / 8  # a geometric run of mean 9 has an entropy of 4.7 bits
    assert size_bytes([dense]) < gaps_bytes + 1_000 * 1.5 / 8 + 150
