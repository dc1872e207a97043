"""Parts in memory: order, normalisation, augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from compress.data import Augment, TensorSplit
from compress.data.base import drawn_apart
from compress.errors import UsageError

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def _split(count: int = 10, augment: Augment | None = None, dtype: torch.dtype = torch.uint8) -> TensorSplit:
    numbers = torch.randint(256, (count, 3, 5, 4), generator=Generator().manual_seed(1)).to(dtype)
    return TensorSplit(numbers, torch.arange(count), MEAN, STD, augment or Augment())


def _all(split: TensorSplit, seed: int | None, size: int = 4, augment: bool = False) -> tuple[Tensor, Tensor]:
    generator = None if seed is None else Generator().manual_seed(seed)
    batches = list(split.batches(size, generator=generator, augment=augment))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_without_a_generator_the_order_is_the_stored_one_and_the_last_batch_is_smaller() -> None:
    batches = list(_split().batches(4))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert list(range(10)) == torch.cat([y for _, y in batches]).tolist()


def test_with_a_generator_each_image_comes_once_in_an_order_that_is_a_function_of_it() -> None:
    _, first = _all(_split(100), seed=5)
    _, again = _all(_split(100), seed=5)
    _, other = _all(_split(100), seed=6)
    assert list(range(100)) == sorted(first.tolist())
    assert list(range(100)) != first.tolist()
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_two_epochs_of_one_generator_differ() -> None:
    generator = Generator().manual_seed(5)
    first, second = (torch.cat([y for _, y in _split(100).batches(9, generator=generator)]) for _ in range(2))
    assert first.tolist() != second.tolist()


def test_eight_bit_images_are_divided_by_255_and_normalised() -> None:
    split = _split()
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    expected = (split.images.numpy() / 255.0 - mean) / std  # in float64
    x, _ = _all(split, seed=None)
    assert torch.float32 == x.dtype
    # float32 keeps 24 bits; the values are below 4 and three operations round
    np.testing.assert_allclose(expected, x.numpy(), rtol=0, atol=1e-6)


def test_floating_point_images_are_not_divided() -> None:
    split = _split(dtype=torch.float32)
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    x, _ = _all(split, seed=None)
    # values up to 510: 24 bits of those
    np.testing.assert_allclose((split.images.double().numpy() - mean) / std, x.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_batches_are_contiguous_and_their_own(dtype: torch.dtype) -> None:
    split = _split(dtype=dtype, augment=Augment(shift=1, flip=True))
    before = split.images.clone()
    for augment in (False, True):
        for x, y in split.batches(4, generator=Generator().manual_seed(0), augment=augment):
            assert x.is_contiguous()
            assert torch.int64 == y.dtype
            x.zero_()
            y.zero_()
    for x, y in split.batches(4):
        x.zero_()
        y.zero_()
    assert torch.equal(before, split.images)
    assert list(range(10)) == split.labels.tolist()


def test_raw_is_what_was_stored_channels_last() -> None:
    split = _split()
    raw = split.raw(2, 5)
    assert raw is not None
    images, labels = raw
    assert images.shape == (3, 5, 4, 3)
    assert np.uint8 == images.dtype
    assert split.images[4, 2, 1, 3].item() == images[2, 1, 3, 2]
    assert labels.tolist() == [2, 3, 4]
    assert _split(dtype=torch.float32).raw(0, 2) is None


def test_every_augmented_image_is_one_of_the_possible_crops() -> None:
    """A plain loop enumerates all crops of all mirrorings; each must also occur."""
    shift = 1
    split = _split(count=1, augment=Augment(shift=shift, flip=True))
    padded = np.pad(split.images[0].numpy(), ((0, 0), (shift, shift), (shift, shift)))
    possible = set()
    for top in range(2 * shift + 1):
        for left in range(2 * shift + 1):
            crop = padded[:, top : top + 5, left : left + 4]
            possible |= {crop.tobytes(), crop[:, :, ::-1].tobytes()}
    assert len(possible) == 18
    batch = split.images.expand(600, -1, -1, -1)
    drawn = split.augmentation(batch, Generator().manual_seed(0))
    # 600 draws of 18 equally likely crops miss one of them with probability 18 * (17/18)^600 < 1e-13
    assert possible == {image.tobytes() for image in drawn.numpy()}


def test_augmentation_is_a_function_of_the_generator_and_off_unless_asked_for() -> None:
    split = _split(50, Augment(shift=1, flip=True))
    x, y = _all(split, seed=3, augment=True)
    again, _ = _all(split, seed=3, augment=True)
    assert torch.equal(x, again)
    plain, plain_y = _all(split, seed=3)
    in_order, _ = _all(split, seed=None)
    assert torch.equal(plain, in_order[plain_y])
    assert not torch.equal(x, in_order[y])


def test_no_augmentation_changes_nothing_and_draws_nothing() -> None:
    split = _split(20)
    assert torch.equal(_all(split, seed=3, augment=True)[0], _all(split, seed=3)[0])
    generator = Generator().manual_seed(0)
    before = generator.get_state()
    split.augmentation(split.images, generator)
    assert torch.equal(before, generator.get_state())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="batch size must be 1 or more, got 0"):
        next(_split().batches(0))
    with pytest.raises(ValueError, match="pass a generator"):
        next(_split().batches(4, augment=True))
    with pytest.raises(UsageError, match="0 or more pixels, got -1"):
        Augment(shift=-1)


@given(count=st.integers(1, 200), share=st.floats(0, 0.99), seed=st.integers(0, 2**31))
def test_held_out_and_train_are_disjoint_and_exhaustive(count: int, share: float, seed: int) -> None:
    taken = min(int(share * count), count - 1)
    for held_out in (taken, taken / count):
        train, apart = drawn_apart(count, held_out, seed)
        assert taken == len(apart)
        assert list(range(count)) == sorted(train.tolist() + apart.tolist())
        assert train.tolist() == sorted(train.tolist())


def test_the_draw_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = drawn_apart(1000, 100, seed=7)[1]
    torch.manual_seed(2)
    assert torch.equal(first, drawn_apart(1000, 100, seed=7)[1])
    assert not torch.equal(first, drawn_apart(1000, 100, seed=8)[1])


@pytest.mark.parametrize("held_out", [-1, 10, 11, -0.1, 1.0, 1.5, 0.96, float("nan")])
def test_a_held_out_part_that_leaves_nothing_is_refused(held_out: float) -> None:
    with pytest.raises(UsageError, match="held-out"):
        drawn_apart(10, held_out, seed=0)
