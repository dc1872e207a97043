"""The user's own data: what is taken, and what is said when something else comes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.utils.data import IterableDataset, TensorDataset

from compress.data import Augment, Data, load
from compress.errors import UsageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(20, 6, 5), dtype=np.uint8)
RGB = RNG.integers(256, size=(20, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def _load(value: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Data:
    monkeypatch.setattr("compress.data.loading.resolve", lambda *args, **kwargs: lambda: value)
    return load("mine.py:factory", **options)


def _stored(data: Data) -> Tensor:
    """All images of the test part, before normalisation."""
    raw = data.test.raw(0, len(data.test))
    assert raw is not None
    return torch.from_numpy(raw[0])


@pytest.mark.parametrize("images", [RGB, RGB.transpose(0, 3, 1, 2), torch.from_numpy(RGB)])
def test_eight_bit_layouts_are_told_apart(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _load({"train": (images, LABELS), "test": [images, LABELS.tolist()]}, monkeypatch, held_out=4)
    assert data.input_shape == (3, 6, 5)
    assert torch.equal(torch.from_numpy(RGB), _stored(data))
    assert data.classes == ("0", "1", "2", "3")
    assert (len(data.train), len(data.held_out), len(data.test)) == (16, 4, 20)


def test_mean_and_std_are_measured_on_the_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _load({"train": (RGB, LABELS), "test": (RGB[:3], LABELS[:3])}, monkeypatch)
    pixels = RGB.astype(float) / 255
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), data.mean, rtol=1e-12)  # float64 both
    np.testing.assert_allclose(pixels.std((0, 1, 2)), data.std, rtol=1e-12)
    flat = np.full((4, 6, 5), 7, dtype=np.uint8)
    assert _load({"train": (flat, LABELS[:4]), "test": (flat, LABELS[:4])}, monkeypatch).std == (1.0,)


def test_floating_point_images_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.normal(size=(20, 2, 6, 5))
    data = _load({"train": (images, LABELS), "test": (images, LABELS)}, monkeypatch)
    x, y = next(data.test.batches(20))
    assert torch.equal(torch.from_numpy(images).float(), x)
    assert LABELS.tolist() == y.tolist()
    assert (data.mean, data.std) == ((0.0, 0.0), (1.0, 1.0))
    assert data.test.raw(0, 1) is None


def test_the_optional_keys_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(x: Tensor, generator: Generator) -> Tensor:
        return x * 2

    given = {
        "train": (GREY, LABELS),
        "held_out": (GREY[:7], LABELS[:7]),
        "test": (GREY, LABELS),
        "classes": ["a", "b", "c", "d"],
        "mean": 0.0,
        "std": np.array([1 / 255]),
        "augment": double,
        "loss": None,
    }
    data = _load(given, monkeypatch, augment=Augment(flip=True))
    assert data.classes == ("a", "b", "c", "d")
    assert (len(data.train), len(data.held_out)) == (20, 7)
    x, _ = next(data.train.batches(20, generator=Generator().manual_seed(0), augment=True))
    doubled = {(image * 2).tobytes() for image in GREY} | {(image[:, ::-1] * 2).tobytes() for image in GREY}
    # 8-bit numbers times 255 / 255: whole up to rounding
    assert {image.round().to(torch.uint8).numpy().tobytes() for image in x[:, 0]} <= doubled
    assert data.loss is None


def test_own_loss_and_metric_free_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    several = RNG.integers(2, size=(20, 4)).astype(np.float32)
    given = {
        "train": (GREY, several),
        "test": (GREY, several),
        "metric": lambda o, y: o,
        "loss": lambda o, y: o,
    }
    data = _load(given, monkeypatch)
    assert torch.equal(torch.from_numpy(several), next(data.test.batches(20))[1])
    assert data.classes == ()
    with pytest.raises(UsageError, match="float32 labels of shape"):
        _load({**given, "metric": None}, monkeypatch)


def test_the_fingerprint_follows_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"train": (GREY, LABELS), "test": (GREY, LABELS)}
    changed = GREY.copy()
    changed[3, 2, 1] ^= 1
    first = _load(given, monkeypatch).fingerprint
    assert len(first) == 64
    assert first == _load(given, monkeypatch, held_out=3, seed=4).fingerprint
    assert first != _load({**given, "test": (changed, LABELS)}, monkeypatch).fingerprint


def _floats(value: float) -> np.ndarray[Any, Any]:
    return np.full((20, 3, 6, 5), value)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([1, 2], "returned a list; a mapping with train and test is expected"),
        ({"train": (GREY, LABELS)}, "returned no test"),
        ({"train": (GREY, LABELS), "test": None}, "returned no test"),
        ({"train": (GREY, LABELS), "tset": 1}, "unknown key tset; did you mean test"),
        ({"train": (GREY,), "test": (GREY, LABELS)}, "train has 1 entries; .images, labels. is expected"),
        ({"train": (GREY, LABELS[:5]), "test": (GREY, LABELS)}, "20 images and 5 labels"),
        ({"train": (GREY, 3), "test": (GREY, LABELS)}, "20 images and one label"),
        ({"train": (GREY, LABELS / 2), "test": (GREY, LABELS)}, "float64 labels of shape .20,."),
        (
            {"train": (GREY, LABELS), "test": (GREY, LABELS + 1)},
            "test has labels 1 to 4; 4 classes are 0 to 3",
        ),
        ({"train": (GREY, LABELS), "test": (GREY, LABELS), "classes": "abcd"}, "classes is a str"),
        ({"train": (GREY, LABELS), "test": (GREY, LABELS), "classes": ["a"]}, "labels 0 to 3; 1 classes"),
        (
            {"train": (GREY, LABELS), "test": (GREY, LABELS), "mean": "x"},
            "mean is 'x'; one number per channel",
        ),
        ({"train": (GREY, LABELS), "test": (GREY, LABELS), "mean": [0, 0]}, "each of 1 channels, got 2"),
        (
            {"train": (GREY, LABELS), "test": (GREY, LABELS), "loss": 3},
            "loss is a int; a function is expected",
        ),
        ({"train": (GREY.astype(int), LABELS), "test": (GREY, LABELS)}, "int64 images.*8-bit .* or floating"),
        ({"train": (GREY / 255, LABELS), "test": (GREY, LABELS)}, r"expected as \(N, C, H, W\)"),
        ({"train": (GREY[0], LABELS), "test": (GREY, LABELS)}, r"shape \(6, 5\)"),
        ({"train": (GREY[:0], LABELS[:0]), "test": (GREY, LABELS)}, "none of them 0"),
        ({"train": (_floats(np.nan), LABELS), "test": (GREY, LABELS)}, "NaN or infinity"),
        ({"train": (RGB[:, :3], LABELS), "test": (RGB, LABELS)}, "both C,H,W and H,W,C are possible"),
        ({"train": (RGB[..., :2], LABELS), "test": (RGB, LABELS)}, "neither end is 1, 3 or 4 channels"),
        (
            {"train": (RGB, LABELS), "test": (GREY, LABELS)},
            r"test has .*\(1, 6, 5\), train has .*\(3, 6, 5\)",
        ),
        ({"train": (["a"], [0]), "test": (GREY, LABELS)}, "no array of numbers"),
        ({"train": ([[1], [1, 2]], [0, 1]), "test": (GREY, LABELS)}, "no array of numbers"),
        (
            {"train": (GREY, LABELS), "test": TensorDataset(torch.ones(2, 1, 6, 5))},
            "all pairs or all Datasets",
        ),
        ({"train": GREY, "test": GREY}, "gives a ndarray; .image, label. is expected"),
    ],
)
def test_wrong_things_are_refused_in_one_line(value: Any, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=line) as caught:
        _load(value, monkeypatch)
    assert str(caught.value).startswith("data mine.py:factory")
    assert "\n" not in str(caught.value)


def test_a_factory_comes_from_a_file_and_its_failure_is_quoted(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def good():\n"
        "    images, labels = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2\n"
        "    return {'train': (images, labels), 'test': (images, labels)}\n"
        "def bad():\n"
        "    return {}['train']\n"
        "def needs(path): ...\n"
    )
    assert load(f"{file}:good", held_out=2).input_shape == (1, 4, 4)
    with pytest.raises(UsageError, match=r"mine.py, line 6: `return {}.'train'.`: KeyError"):
        load(f"{file}:bad")
    with pytest.raises(UsageError, match="needs a value for path"):
        load(f"{file}:needs")
    with pytest.raises(UsageError, match="has no godo; did you mean good"):
        load(f"{file}:godo")


IMAGES = torch.from_numpy(GREY)[:, None]
NUMBERS = torch.from_numpy(LABELS)


def test_datasets_are_streamed_with_the_same_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TensorDataset(IMAGES, NUMBERS)
    given = {"train": whole, "test": whole, "classes": ["a", "b", "c", "d"], "mean": [0.5], "std": [0.5]}
    data = _load(given, monkeypatch, held_out=6, augment=Augment(shift=1))
    assert (len(data.train), len(data.held_out), len(data.test)) == (14, 6, 20)
    x, y = next(data.test.batches(20))
    torch.testing.assert_close((IMAGES / 255 - 0.5) / 0.5, x, rtol=0, atol=1e-6)  # float32 rounding
    assert LABELS.tolist() == y.tolist()
    assert torch.equal(IMAGES.permute(0, 2, 3, 1), _stored(data))
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(seen))  # the global generator has no say, and is left alone
        before = torch.random.get_rng_state()
        batches = list(data.train.batches(5, generator=Generator().manual_seed(seed), augment=True))
        assert torch.equal(before, torch.random.get_rng_state())
        assert [len(b) for _, b in batches] == [5, 5, 4]
        seen.append(torch.cat([a for a, _ in batches]))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


class _Odd(torch.utils.data.Dataset[Any]):
    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.item() if callable(self.item) else self.item


class _Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (_Endless(), "train is a _Endless; .images, labels. or a map-style torch Dataset is expected"),
        (3, "train is a int"),
        (TensorDataset(IMAGES[:0], NUMBERS[:0]), "train is empty"),
        (TensorDataset(IMAGES), "gives a tuple; .image, label. is expected"),
        (TensorDataset(IMAGES[:, 0], NUMBERS), r"uint8 images of shape \(6, 5\)"),
        (TensorDataset(IMAGES, NUMBERS + 4), "labels 4 to 4; 4 classes"),
        (_Odd((IMAGES[0], 1.5)), "gives the label 1.5; a whole number"),
        (_Odd((IMAGES[0], "cat")), "gives the label 'cat'; a whole number"),
        (_Odd(("picture", 1)), "images of type str; add transforms.PILToTensor"),
        (
            _Odd(lambda: Path("no_such_picture").read_bytes()),
            "first image could not be read: .*FileNotFoundError",
        ),
    ],
)
def test_wrong_datasets_are_refused_in_one_line(dataset: Any, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"train": dataset, "test": TensorDataset(IMAGES, NUMBERS), "classes": ["a", "b", "c", "d"]}
    with pytest.raises(UsageError, match=line) as caught:
        _load(given, monkeypatch)
    assert "\n" not in str(caught.value)


def test_a_dataset_must_tell_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    part = TensorDataset(IMAGES, NUMBERS)
    with pytest.raises(UsageError, match="return their names under classes"):
        _load({"train": part, "test": part}, monkeypatch)


def test_datasets_of_different_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "train": TensorDataset(IMAGES, NUMBERS),
        "test": TensorDataset(IMAGES[:, :, 1:], NUMBERS),
        "classes": list("abcd"),
    }
    with pytest.raises(UsageError, match=r"test has .*\(1, 5, 5\), train has .*\(1, 6, 5\)"):
        _load(given, monkeypatch)
