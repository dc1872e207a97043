"""The shipped MNIST is the original, the drawn digits can be learnt."""

import gzip
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Generator

from compress.data import Augment, Reading, embedded, load, names
from compress.errors import UsageError


def test_mnist_is_the_published_one(tmp_path: Path) -> None:
    fake = tmp_path / "MNIST" / "raw"  # a copy under the root is not read: the embedded files are
    fake.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (fake / name).write_bytes(b"not a digit")
    data = load("mnist", root=tmp_path, held_out=5000, seed=1)
    assert (len(data.train), len(data.held_out), len(data.test)) == (55_000, 5_000, 10_000)
    assert data.input_shape == (1, 28, 28)
    assert tuple("0123456789") == data.classes
    _, labels = next(data.test.batches(10_000))
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    both = torch.cat([part.labels for part in (data.train, data.held_out)])  # type: ignore[attr-defined]
    assert both.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    train, apart = (next(part.batches(60_000))[0] for part in (data.train, data.held_out))
    x = torch.cat([train, apart]).double()
    assert x.mean().abs() < 1e-3  # the published mean and std have four digits
    assert (x.std() - 1).abs() < 1e-3


def test_the_test_set_does_not_depend_on_the_held_out_part() -> None:
    first, second = (load("synthetic", held_out=h, seed=s) for h, s in ((10, 0), (0.5, 1)))
    assert torch.equal(next(first.test.batches(500))[0], next(second.test.batches(500))[0])
    assert first.fingerprint == second.fingerprint
    assert (len(first.train), len(second.train)) == (1990, 1000)


@pytest.mark.parametrize("damage", ["cut", "other content", "missing"])
def test_a_damaged_file_is_named_with_both_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    source = Path(embedded.__file__).parent / "mnist"
    copy = tmp_path / "mnist"
    copy.mkdir()
    for name in embedded._MNIST_SHA256:
        (copy / name).symlink_to(source / name)
    victim = copy / "t10k-labels-idx1-ubyte.gz"
    content = victim.read_bytes()
    victim.unlink()
    changed = {"cut": content[:-1], "other content": gzip.compress(gzip.decompress(content) + b"\0")}
    if damage in changed:
        victim.write_bytes(changed[damage])
    monkeypatch.setattr(embedded, "files", lambda package: tmp_path)
    with pytest.raises(UsageError, match="reinstall") as caught:
        load("mnist")
    assert str(victim) in str(caught.value)
    if damage in changed:
        assert embedded._MNIST_SHA256[victim.name] in str(caught.value)
        assert sha256(changed[damage]).hexdigest() in str(caught.value)


def test_drawn_digits_are_learnt_in_seconds_by_a_linear_layer() -> None:
    data = load("synthetic", held_out=200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(784, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = Generator().manual_seed(0)
    for _ in range(8):
        for x, y in data.train.batches(64, generator=generator):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x.flatten(1)), y).backward()
            optimizer.step()
    x, y = next(data.test.batches(500))
    accuracy = (model(x.flatten(1)).argmax(1) == y).double().mean()
    assert accuracy > 0.9  # a guess gives 0.1
    assert y.unique().shape == (10,)


def test_normalisation_can_be_chosen_and_is_checked() -> None:
    data = load("synthetic", reading=Reading(mean=(0.5,), std=(0.25,)))
    raw = data.test.raw(0, 4)
    assert raw is not None
    expected = (torch.from_numpy(raw[0]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(expected, next(data.test.batches(4))[0], rtol=0, atol=1e-6)
    assert (data.mean, data.std) == ((0.5,), (0.25,))
    with pytest.raises(UsageError, match="one value for each of 1 channels, got 3 and 1"):
        load("synthetic", reading=Reading(mean=(0.5, 0.5, 0.5)))
    with pytest.raises(UsageError, match="std above 0"):
        load("synthetic", reading=Reading(std=(0.0,)))


def test_batches_come_on_the_device_asked_for() -> None:
    # meta is a device that every machine has
    data = load("synthetic", device="meta", augment=Augment(shift=2, flip=True))
    generator = Generator().manual_seed(0)  # stays on the CPU, so that every device draws the same
    x, y = next(data.train.batches(4, generator=generator, augment=True))
    assert {x.device.type, y.device.type} == {"meta"}
    assert tuple(x.shape) == (4, 1, 28, 28)


def test_a_wrong_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match=r"data mnst: no built-in of this name; did you mean.* mnist"):
        load("mnst")


def test_listing_names_needs_no_torch() -> None:
    code = "import sys, compress.data; compress.data.names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert all(line and "\n" not in line for line in names().values())
