"""Data sets in files: torchvision's, and folders of images."""

import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator
from torchvision import datasets

from compress.data import Augment, Data, Reading, load
from compress.errors import UsageError

RNG = np.random.default_rng(0)


def _write_idx(folder: Path, part: str, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    header = struct.pack(">4i", 0x0803, *images.shape)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x0801, len(labels)) + labels.tobytes())


def test_fashion_mnist_is_read_from_the_root_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the default root is in the user's cache
    folder = tmp_path / "compress" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = RNG.integers(256, size=(30, 28, 28), dtype=np.uint8)
    labels = (np.arange(30) % 10).astype(np.uint8)
    _write_idx(folder, "train", images, labels)
    _write_idx(folder, "t10k", images[:8], labels[:8])
    data = load("fashion-mnist", held_out=10)
    assert (len(data.train), len(data.held_out), len(data.test)) == (20, 10, 8)
    assert (data.classes[0], data.classes[9]) == ("T-shirt/top", "Ankle boot")
    raw = data.test.raw(0, 8)
    assert raw is not None
    assert np.array_equal(images[:8, :, :, None], raw[0])
    assert labels[:8].tolist() == raw[1].tolist()


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_keeps_its_layout(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(256, size=(12, 32, 32, 3), dtype=np.uint8)

    class Stand:
        """Has the attributes of torchvision's class, whose real files are checked by their MD5."""

        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            self.data = pixels if train else pixels[:5]
            self.targets = [index % 3 for index in range(len(self.data))]
            self.classes = ["a", "b", "c"]

    monkeypatch.setattr(datasets, kind, Stand)
    data = load(name, root=tmp_path, held_out=2)
    assert data.input_shape == (3, 32, 32)
    raw = data.test.raw(0, 5)
    assert raw is not None
    assert np.array_equal(pixels[:5], raw[0])
    assert raw[1].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_no_files_and_no_network_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", offline)
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", offline)
    with pytest.raises(UsageError, match=r"not found under .* and not downloaded .*--data-root") as caught:
        load(name, root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of four training and two validation images, each class of its own brightness."""
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = RNG.integers(60, size=(40, 50, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def _load(folder: Path, **options: Any) -> Data:
    return load(f"imagefolder:{folder}", reading=Reading(image_size=16), **options)


def _epoch(data: Data, seed: int) -> torch.Tensor:
    generator = Generator().manual_seed(seed)
    return torch.cat([x for x, _ in data.train.batches(4, generator=generator, augment=True)])


def test_an_image_folder_is_cropped_and_normalised(folder: Path) -> None:
    data = _load(folder, held_out=0.25)
    assert (len(data.train), len(data.held_out), len(data.test)) == (9, 3, 6)
    assert data.classes == ("ant", "bee", "cat")
    assert data.input_shape == (3, 16, 16)
    x, y = next(data.test.batches(6))
    assert y.tolist() == [0, 0, 1, 1, 2, 2]
    raw = data.test.raw(0, 6)
    assert raw is not None
    assert raw[0].shape == (6, 16, 16, 3)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    expected = (torch.from_numpy(raw[0]).permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(expected, x, rtol=0, atol=1e-6)  # float32 rounding
    assert x.is_contiguous()


def test_random_crops_follow_the_generator_only(folder: Path) -> None:
    data = _load(folder, augment=Augment(flip=True))
    torch.manual_seed(1)
    first = _epoch(data, 3)
    torch.manual_seed(2)
    assert torch.equal(first, _epoch(data, 3))
    assert not torch.equal(first, _epoch(data, 4))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12's, of any process with threads
def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    here = _epoch(_load(folder), 3)
    reading = Reading(workers=1, image_size=16)
    assert torch.equal(here, _epoch(load(f"imagefolder:{folder}", reading=reading), 3))


def test_val_is_held_out_where_there_is_a_test_folder(folder: Path) -> None:
    before = _load(folder).fingerprint
    (folder / "val").rename(folder / "test")
    (folder / "val").mkdir()
    for name in ("ant", "bee", "cat"):
        (folder / "val" / name).mkdir()
        (folder / "train" / name / "0.png").rename(folder / "val" / name / "0.png")
    data = _load(folder)
    assert (len(data.train), len(data.held_out), len(data.test)) == (9, 3, 6)
    assert before != data.fingerprint


def test_wrong_folders_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs .*nothing/train .*found: no such folder"):
        _load(folder / "nothing")
    with pytest.raises(UsageError, match="found: ant, bee, cat"):
        _load(folder / "train")
    (folder / "val" / "cat").rename(folder / "val" / "dog")
    with pytest.raises(UsageError, match="train and val have different classes: cat, dog"):
        _load(folder)
    (folder / "val" / "dog").rename(folder / "val" / "cat")
    for picture in (folder / "val" / "cat").iterdir():
        picture.unlink()
    with pytest.raises(UsageError, match=r"no valid file.* cat") as caught:
        _load(folder)
    assert "\n" not in str(caught.value)
