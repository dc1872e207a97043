"""The app bundle: its model computes what the exported network computes, and every program says the same."""

import dataclasses
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from compress import chromium, web_runtime
from compress.app import stage
from compress.app.bundle import TERMS, _runtime, labels
from compress.app.card import made, markdown
from compress.app.check import prove
from compress.app.graph import AppModel, Preprocessing, build
from compress.app.page import page
from compress.app.templates import PROGRAMS, render
from compress.data import Augment, Data, Reading, load
from compress.errors import GateError
from compress.onnx_file import predict, session
from compress_exporters import Request
from compress_exporters import onnx as onnx_exporter
from tests.browser import HEADERS, LIBRARY, needs_browser, needs_c, needs_node
from tests.conftest import Project, Server, invoke, report_of
from tests.support import tiny_data

WORDS = (
    "prune-and-export", "--model", "lenet300", "--data", "synthetic", "--method", "magnitude", "--sparsity", "0.8",
    "--train-epochs", "2", "--finetune-epochs", "0", "--set", "validate.seconds=0.02", "--set", "validate.repeats=3",
    "--format", "onnx", "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("synthetic", root=None, held_out=0.1, seed=0, device=torch.device("cpu"), augment=Augment(),
                reading=Reading())  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run on drawn digits; with a web page where onnxruntime-web is here."""
    out = tmp_path_factory.mktemp("app") / "run"
    ended = invoke(*WORDS, "--out", out)
    assert 0 == ended.exit_code, ended.output
    return out


@pytest.fixture(scope="module")
def images(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve test images as PGM files, the last one grey levels in RGB and of another size."""
    folder = tmp_path_factory.mktemp("images")
    stored = digits.test.raw(0, 11)
    assert stored is not None
    files = [folder / f"{i}.pgm" for i in range(11)]
    for file, pixels in zip(files, stored[0], strict=True):
        file.write_bytes(b"P5\n28 28\n255\n" + pixels.tobytes())
    large = stored[0][3].repeat(3, axis=0).repeat(2, axis=1).repeat(3, axis=2)
    files.append(folder / "large.ppm")
    files[-1].write_bytes(b"P6 56 84 255\n" + large.tobytes())
    return files


def answer(model: bytes | Path, image: Any) -> tuple[int, float, Any]:
    label, probability, probabilities = session(model).run(None, {"image": image})
    return int(label[0]), float(probability[0]), probabilities[0]


# What the bundle holds


def test_the_bundle_is_complete_and_listed_in_the_report(run: Path) -> None:
    found = {str(path.relative_to(run / "app")) for path in (run / "app").rglob("*") if path.is_file()}
    always = {
        "model.onnx", "labels.txt", "labels.json", "MODEL_CARD.md", "NOTICE.txt", "README.md", "sample.pgm",
        "python/classify.py", "node/classify.js", "node/package.json", "c/classify.c", "android/Classify.kt",
        "ios/Classify.swift",
    }  # fmt: skip
    assert always == found - {"web/index.html"}
    listed = report_of(run)["app"]
    assert found == set(listed["files"])
    assert listed["agreement"]["probability_error"] <= 1e-5
    assert [str(i) for i in range(10)] == (run / "app/labels.txt").read_text().splitlines()
    assert [str(i) for i in range(10)] == json.loads((run / "app/labels.json").read_text())
    assert "not run here" in (run / "app/README.md").read_text()
    for snippet in ("android/Classify.kt", "ios/Classify.swift"):
        assert "NOT RUN HERE" in (run / "app" / snippet).read_text()


def test_the_card_says_what_the_report_says(run: Path) -> None:
    report, card = report_of(run), (run / "app/MODEL_CARD.md").read_text()
    pruned = report["pruned"]
    assert f"{100 * pruned['accuracy']:.2f} %" in card
    assert f"{100 * pruned['accuracy_low']:.2f} to {100 * pruned['accuracy_high']:.2f} %" in card
    assert "magnitude on element units, sparsity 0.8" in card
    assert f"{report['dense']['weights']:,} weights" in card


def test_the_notice_names_the_terms_of_everything_in_the_bundle(run: Path) -> None:
    notice = (run / "app/NOTICE.txt").read_text()
    data = re.escape(report_of(run)["data"]["name"])
    assert re.search(rf"the training data, {data}\. (MNIST's authors give|Its terms are not known)", notice)
    for said in ("sample.pgm", "Apache License 2.0", "Microsoft Corporation"):
        assert said in notice
    assert "weights that training started from" not in notice
    # the page holds onnxruntime-web, whose licence asks for its text
    assert ("THE SOFTWARE IS PROVIDED" in notice) == (run / "app/web/index.html").exists()
    others = {"weights": True, "sample": "sample.ppm", "runtime": "1.30.0", "c99": True}
    assert "mnist. MNIST's authors give" in render("NOTICE.txt.j2", data="mnist", terms=TERMS["mnist"], **others)
    notice = render("NOTICE.txt.j2", data="mine", terms="", **others)
    for said in ("training data, mine. Its terms are not known", "weights that training", "web/index.html contains"):
        assert said in notice


def test_every_template_says_something() -> None:
    folder = resources.files("compress.app.templates")
    texts = ("README.md.j2", "MODEL_CARD.md.j2", "NOTICE.txt.j2", "web/index.html.j2")
    assert all(len((folder / name).read_text()) > 200 for name in (*texts, *(set(PROGRAMS) - {"node/package.json"})))


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"latency": "0.5x"}, "channel units, latency 0.5x;"),
        ({"keep": {"conv1": 3}}, "channel units, widths given layer by layer;"),
        ({}, "channel units, no budget of its own;"),
    ],
)
def test_the_card_names_every_form_of_budget(budget: dict[str, Any], says: str) -> None:
    step = {"method": "pfec", "units": "channel", "epochs": 0, "finetune": {"epochs": 1}, "budget": budget}
    assert says in made({"recipe": {"prune": [step]}, "seed": 0})[1]


def test_the_card_of_a_failed_gate_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    ended = invoke(*WORDS, "--max-size-kb", 0.5, "--out", tmp_path / "run")
    assert 3 == ended.exit_code
    assert "max\\_size\\_kb" in (tmp_path / "run/app/MODEL_CARD.md").read_text()


def test_outputs_beyond_the_classes_are_numbered() -> None:
    assert ["cat", "dog", "2"] == labels(["cat", "dog\n"], 3)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[link](http://x)", "a|b", "`code`", "**"])
def test_a_hostile_name_is_no_markdown(name: str) -> None:
    said = markdown(name)
    assert "<" not in said
    assert not re.search(r"(?<!\\)[|`*\[\]]", said)


# Its model against the network


def test_own_size_gives_the_label_and_probabilities_of_the_plain_model(run: Path, digits: Data) -> None:
    stored = digits.test.raw(0, 200)
    x, _ = next(iter(digits.test.batches(200)))
    assert stored is not None
    scores = predict(session(run / "model.onnx"), x.numpy())
    expected = torch.softmax(torch.tensor(scores), 1).numpy()
    app = session(run / "app/model.onnx")
    for image, wanted in zip(stored[0], expected, strict=True):
        label, probability, probabilities = app.run(None, {"image": image})
        np.testing.assert_allclose(wanted, probabilities[0], rtol=0, atol=1e-5)
        assert wanted.argmax() == label[0]
        assert probabilities[0].max() == probability[0]


RGB = Preprocessing((3, 24, 20), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
SIZES = [(24, 20), (57, 85), (12, 11), (300, 33), (25, 400), (1, 1)]


@functools.cache
def exported(shape: tuple[int, int, int]) -> bytes:
    """A small network for images of a shape."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(shape[0], 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).eval()
    model(torch.zeros(1, *shape))
    with tempfile.TemporaryDirectory() as folder:
        return onnx_exporter.export(Request(model, shape), Path(folder) / "net.onnx").path.read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_other_sizes_are_resized_as_pillow_does(size: tuple[int, int], channels: int) -> None:
    """Within one level of 255: Pillow rounds the weights of the filter, too."""
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    for wanted, mode in ((RGB, "RGB"), (Preprocessing((1, 24, 20), (0.5,), (0.25,)), "L")):
        built = build(exported(wanted.shape), wanted, {})
        ready = session(built.preprocess).run(None, {"image": image})[0][0].transpose(1, 2, 0)
        picture = image_module.fromarray(image if channels == 3 else image[..., 0]).convert(mode)
        resized = np.asarray(picture.resize((20, 24), image_module.Resampling.BILINEAR)).reshape(24, 20, -1)
        levels = (ready * np.float32(wanted.std) + np.float32(wanted.mean)) * 255
        assert np.abs(levels - resized).max() <= 1.01


@pytest.mark.parametrize("size", [(57, 85), (85, 57), (24, 24), (300, 33), (29, 31)])
def test_the_middle_is_cut_out_as_torchvision_does(size: tuple[int, int]) -> None:
    image_module = pytest.importorskip("PIL.Image")
    from torchvision.transforms import v2

    wanted = Preprocessing((3, 24, 24), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), shorter_side=27)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    transform = v2.Compose([v2.Resize(27, antialias=True), v2.CenterCrop(24), v2.PILToTensor()])
    expected = transform(image_module.fromarray(image)).numpy()
    ready = session(build(exported(wanted.shape), wanted, {}).preprocess).run(None, {"image": image})[0][0]
    mean, std = (np.float32(values).reshape(3, 1, 1) for values in (wanted.mean, wanted.std))
    assert np.abs((ready * std + mean) * 255 - expected).max() <= 1.01


def test_a_model_of_free_batch_and_one_that_takes_pixels_in_batches_make_the_same_app(
    run: Path, tmp_path: Path
) -> None:
    for name, words in (("free", ["--batch", "dynamic"]), ("pixels", ["--batch", 4, "--uint8-input"])):
        ended = invoke(*WORDS, *words, "--out", tmp_path / name)
        assert 0 == ended.exit_code, ended.output
        image = np.random.default_rng(0).integers(0, 256, (40, 31, 1), np.uint8)
        expected, found = (answer(folder / "app/model.onnx", image) for folder in (run, tmp_path / name))
        assert expected[0] == found[0]
        np.testing.assert_allclose(expected[2], found[2], rtol=0, atol=1e-5)


FOLDER_NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, num_classes))

    def forward(self, x):
        return self.body(x)
"""


def test_photographs_give_what_the_test_set_of_an_image_folder_gives(tmp_path: Path) -> None:
    """Files of any size go into the app's model as they are; the data set resizes and cuts them before."""
    image_module = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for number in range(32):
        name, part = ("dark", "light")[number % 2], ("train", "val")[number // 20]
        file = tmp_path / "data" / part / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows, columns = generator.integers(33, 90, 2)
        pixels = generator.integers(0, 160, (rows, columns, 3), np.uint8) + np.uint8(90 * (number % 2))
        image_module.fromarray(pixels).save(file)
    (tmp_path / "net.py").write_text(FOLDER_NET)
    words = [*WORDS, "--model", f"{tmp_path}/net.py:Net", "--data", f"imagefolder:{tmp_path}/data"]
    settings = ("data.image_size=32", "data.held_out=4", "train.batch_size=4")
    words += [word for setting in settings for word in ("--set", setting)]
    ended = invoke(*words, "--out", tmp_path / "run")
    assert 0 == ended.exit_code, ended.output
    found = load(f"imagefolder:{tmp_path}/data", root=None, held_out=4, seed=0, device=torch.device("cpu"),
                 augment=Augment(), reading=Reading(image_size=32))  # fmt: skip
    files = sorted((tmp_path / "data/val").glob("*/*.png"))
    plain = session(tmp_path / "run/model.onnx")
    for file, (x, _) in zip(files, found.test.batches(1), strict=True):
        expected = torch.softmax(torch.tensor(predict(plain, x.numpy())), 1)[0].numpy()
        with image_module.open(file) as image:
            label, _, probabilities = answer(tmp_path / "run/app/model.onnx", np.asarray(image))
        assert expected.argmax() == label
        np.testing.assert_allclose(expected, probabilities, rtol=0, atol=5e-3)  # pixels may be a level apart


# The proof, and its liars


@pytest.fixture(scope="module")
def network() -> bytes:
    return exported((1, 8, 8))


@pytest.fixture(scope="module")
def quadrants() -> Data:
    return tiny_data()


def test_a_true_model_is_proved(network: bytes, quadrants: Data) -> None:
    found = prove(build(network, Preprocessing.of(quadrants), {}), network, quadrants)
    assert 32 + 12 == found.images
    assert found.probability_error <= 1e-5


def test_the_same_network_gives_the_same_bytes(network: bytes, quadrants: Data) -> None:
    wanted = Preprocessing.of(quadrants)
    assert build(network, wanted, {"b": "1", "a": "2"}) == build(network, wanted, {"a": "2", "b": "1"})


def test_a_true_model_that_cuts_the_middle_is_proved(network: bytes, quadrants: Data) -> None:
    data = dataclasses.replace(quadrants, shorter_side=9)
    prove(build(network, Preprocessing.of(data), {}), network, data)
    with pytest.raises(GateError, match="prepares an image"):
        prove(build(network, Preprocessing.of(quadrants), {}), network, data)


@pytest.mark.parametrize(
    "lie",
    [{"mean": (0.401,)}, {"std": (0.301,)}, {"mean": (0.6,), "std": (0.5,)}, {"shorter_side": 9}],
    ids=["mean", "std", "both", "crop"],
)
def test_wrong_preprocessing_is_caught(lie: dict[str, Any], network: bytes, quadrants: Data) -> None:
    true = Preprocessing.of(quadrants)
    with pytest.raises(GateError, match=r"prepares an image|differ"):
        prove(build(network, dataclasses.replace(true, **lie), {}), network, quadrants)


def changed(model: bytes, change: Callable[[onnx.ModelProto], None]) -> bytes:
    proto = onnx.ModelProto.FromString(model)
    change(proto)
    return bytes(proto.SerializeToString())


def plain_resize(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        if node.op_type == "Resize":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("mode", "nearest"))


def other_weight(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("bias") and tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, np.float32).copy()
            values[0] += 0.01
            tensor.raw_data = values.tobytes()


def worst_class(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        if node.op_type == "ArgMax":
            node.op_type = "ArgMin"


def test_a_wrong_resize_a_wrong_weight_and_a_wrong_label_are_caught(network: bytes, quadrants: Data) -> None:
    true = build(network, Preprocessing.of(quadrants), {})
    lies = (
        (AppModel(changed(true.preprocess, plain_resize), changed(true.whole, plain_resize)), "a pixel is off"),
        (AppModel(true.preprocess, changed(true.whole, plain_resize)), "differ"),
        (AppModel(true.preprocess, changed(true.whole, other_weight)), "differ"),
        (AppModel(true.preprocess, changed(true.whole, worst_class)), "differ"),
    )
    for lie, said in lies:
        assert true.whole != lie.whole
        with pytest.raises(GateError, match=said):
            prove(lie, network, quadrants)


def test_a_bundle_that_disagrees_is_an_error_and_no_file(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")

    def lying(network: bytes, preprocessing: Preprocessing, metadata: Any) -> AppModel:
        return build(network, dataclasses.replace(preprocessing, mean=(0.5,)), metadata)

    monkeypatch.setattr(stage, "build", lying)
    ended = invoke(*WORDS, "--max-size-kb", 1e6, "--out", tmp_path / "run")
    assert 3 == ended.exit_code
    assert "no app bundle is written" in ended.output
    assert not [path for path in (tmp_path / "run/app").rglob("*") if path.is_file()]
    assert (tmp_path / "run/model.onnx").is_file()


# When it is written


def test_it_is_left_out_when_asked_or_when_the_outputs_are_no_class_scores(user: Project, tmp_path: Path) -> None:
    budget = ("--method", "magnitude", "--sparsity", 0.5)
    ended = invoke(*user.words(*budget, "--out", tmp_path / "own"))
    assert 0 == ended.exit_code
    assert "app: not written" in ended.output
    ended = invoke(*WORDS, "--no-app", "--out", tmp_path / "asked")
    assert 0 == ended.exit_code
    for name in ("own", "asked"):
        assert not (tmp_path / name / "app").exists()
        assert report_of(tmp_path / name)["app"] is None


def test_a_lost_file_comes_back_and_a_new_gate_leaves_the_model_alone(run: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in (again / "model.onnx", again / "app/model.onnx")}
    (again / "app/labels.txt").unlink()
    (again / "app/node/.package.json.part").write_text("left over")
    (again / "app/mine.txt").write_text("the user's own")
    assert 0 == invoke(*WORDS, "--out", again).exit_code
    assert (again / "app/labels.txt").is_file()
    assert not (again / "app/node/.package.json.part").exists()
    assert 0 == invoke(*WORDS, "--max-size-kb", 1e6, "--out", again).exit_code
    assert before[again / "model.onnx"] == (again / "model.onnx").stat().st_mtime_ns
    assert before[again / "app/model.onnx"] != (again / "app/model.onnx").stat().st_mtime_ns
    assert (again / "app/mine.txt").is_file()


def test_a_run_killed_while_it_writes_the_bundle_finishes_it(server: Server, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/app")
    (tmp_path / "run/checkpoints/app.pt").unlink()
    words = [*WORDS, "--out", "run"]
    assert -9 == server.run(words, tmp_path, at=r"rename \.labels\.json\.part|rename labels\.json", do="SIGKILL").code
    assert not (tmp_path / "run/app/README.md").exists()
    assert 0 == server.run(words, tmp_path).code
    for name in report_of(run)["app"]["files"]:
        assert (tmp_path / "run/app" / name).is_file()
    assert not list((tmp_path / "run/app").rglob(".*"))


def test_a_model_too_large_for_a_page_gets_none(fake_runtime: web_runtime.WebRuntime) -> None:
    found, reason = _runtime(fake_runtime.folder, 10**9)
    assert found is None
    assert "1000 MB" in reason


# The programs

LINE = re.compile(r"(.+)  (\d+\.\d\d) %  \d+\.\d\d ms")


def said(words: list[Any], env: dict[str, str] | None = None) -> list[tuple[str, float]]:
    """Class and percent of every line; the milliseconds are its own."""
    found = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert 0 == found.returncode, found.stderr
    matches = [LINE.fullmatch(line) for line in found.stdout.splitlines()]
    assert all(matches), found.stdout
    return [(match[1], float(match[2])) for match in matches if match]


@pytest.fixture(scope="module")
def expected(run: Path, images: list[Path]) -> list[tuple[str, float]]:
    found = said([sys.executable, run / "app/python/classify.py", *images])
    for (name, percent), image in zip(found, images, strict=True):
        data = image.read_bytes()
        shape = (28, 28, 1) if image.suffix == ".pgm" else (84, 56, 3)
        label, probability, _ = answer(run / "app/model.onnx", np.frombuffer(data[13:], np.uint8).reshape(shape))
        assert (str(label), round(100 * probability, 2)) == (name, pytest.approx(percent, abs=0.011))
    return found


def test_python_says_what_the_model_says(expected: list[tuple[str, float]]) -> None:
    assert 12 == len(expected)
    assert len({name for name, _ in expected}) > 3


def test_python_reads_arrays_and_pictures_and_explains_what_it_cannot_read(
    run: Path, images: list[Path], expected: list[tuple[str, float]], tmp_path: Path
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.frombuffer(images[0].read_bytes()[13:], np.uint8).reshape(28, 28)
    np.save(tmp_path / "0.npy", pixels)
    image_module.fromarray(pixels).save(tmp_path / "0.png")
    program = run / "app/python/classify.py"
    image_module.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png")  # the same grey in 16 bits
    same = [tmp_path / name for name in ("0.npy", "0.png", "16.png")]
    assert [expected[0]] * 3 == said([sys.executable, program, *same])
    (tmp_path / "cut.pgm").write_bytes(images[0].read_bytes()[:-1])
    (tmp_path / "not.png").write_bytes(b"nothing")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "nothing.npy", np.zeros((0, 5, 3), np.uint8))
    image_module.fromarray(pixels.astype(np.float32) / 255).save(tmp_path / "fractions.tif")
    image_module.new("L", (14000, 14000)).save(tmp_path / "bomb.png")
    absent = ("gone.png", "gone.pgm", "gone.npy")
    for name in ("cut.pgm", "not.png", "object.npy", "nothing.npy", "fractions.tif", "bomb.png", *absent):
        ended = subprocess.run([sys.executable, program, tmp_path / name], capture_output=True, text=True, check=False)
        assert 1 == ended.returncode
        assert 1 == len(ended.stderr.splitlines())


def test_the_readmes_python_command_prints_the_line_it_promises(run: Path) -> None:
    readme = (run / "app/README.md").read_text()
    command = re.search(r"&& (python python/classify\.py sample\.pgm)`", readme)
    promised = re.search(r"^    (.+)  (\d+\.\d\d) %  \.\.\. ms$", readme, re.MULTILINE)
    assert command
    assert promised
    ended = subprocess.run(
        [sys.executable, *command[1].split()[1:]], cwd=run / "app", capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(f"{promised[1]}  {promised[2]} %  ")


def close(expected: list[tuple[str, float]], found: list[tuple[str, float]]) -> bool:
    """The same classes, and percentages that may round apart."""
    return [name for name, _ in expected] == [name for name, _ in found] and all(
        abs(one[1] - other[1]) < 0.011 for one, other in zip(expected, found, strict=True)
    )


def test_close_tells_classes_and_percentages_apart() -> None:
    assert close([("a", 1.0)], [("a", 1.01)])
    assert not close([("a", 1.0)], [("b", 1.0)])
    assert not close([("a", 1.0)], [("a", 1.02)])
    assert not close([("a", 1.0)], [])


@needs_node
def test_node_says_the_same(run: Path, images: list[Path], expected: list[tuple[str, float]]) -> None:
    assert close(expected, said(["node", run / "app/node/classify.js", *images]))


@needs_c
def test_c_says_the_same(run: Path, images: list[Path], expected: list[tuple[str, float]], tmp_path: Path) -> None:
    assert LIBRARY is not None
    (tmp_path / "libonnxruntime.so.1").symlink_to(LIBRARY)
    (tmp_path / "libonnxruntime.so").symlink_to(LIBRARY)
    build = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-D_POSIX_C_SOURCE=199309L"]
    build += [f"-I{HEADERS}", run / "app/c/classify.c", f"-L{tmp_path}", "-lonnxruntime", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run([*map(str, build), "-o", str(tmp_path / "classify")], check=True)
    words = [tmp_path / "classify", run / "app/model.onnx", run / "app/labels.txt"]
    assert close(expected, said([*words, *images], {"ORT_DISABLE_TELEMETRY": "1"}))


# The page


@pytest.fixture
def fake_runtime(tmp_path: Path) -> web_runtime.WebRuntime:
    for name in (web_runtime.BUNDLE, web_runtime.MODULE, web_runtime.WORKER, web_runtime.BINARY):
        (tmp_path / name).write_bytes(b"nothing")
    return web_runtime.WebRuntime(tmp_path, "0.0")


def test_the_page_asks_nobody_and_a_hostile_class_name_ends_no_script(fake_runtime: web_runtime.WebRuntime) -> None:
    made = page("<b>mine</b>", ["</script><script>alert(1)"], (1, 28, 28), b"model", fake_runtime).decode()
    assert "<script>alert" not in made
    assert "<b>mine" not in made
    assert "default-src 'none'" in made
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", made)
    assert 'id="draw"' in made
    assert 'id="draw"' not in page("", ["a"], (3, 28, 28), b"model", fake_runtime).decode()


def test_without_onnxruntime_web_the_readme_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setenv(web_runtime.VARIABLE, str(tmp_path / "nowhere"))
    assert 0 == invoke(*WORDS, "--out", tmp_path / "run").exit_code
    assert not (tmp_path / "run/app/web/index.html").exists()
    assert "npm i onnxruntime-web" in (tmp_path / "run/app/README.md").read_text()


@pytest.fixture(scope="module")
def opened(run: Path) -> Iterator[chromium.Page]:
    """The bundle's page from the disk in a real Chromium."""
    with chromium.launch() as browser:
        shown = browser.page((run / "app/web/index.html").as_uri())
        shown.evaluate("app.ready")
        yield shown


@needs_browser
def test_the_page_gives_the_labels_of_the_model_and_asks_nobody(run: Path, digits: Data, opened: chromium.Page) -> None:
    stored = digits.test.raw(0, 40)
    assert stored is not None
    app = session(run / "app/model.onnx")
    for image in stored[0]:
        label, _, probabilities = app.run(None, {"image": image})
        found = opened.evaluate(f"app.classify(Uint8Array.from({image.ravel().tolist()}), 28, 28, 1)")
        assert label[0] == found["label"]
        np.testing.assert_allclose(probabilities[0], found["probabilities"], rtol=0, atol=1e-5)
        assert LINE.fullmatch(found["line"])
    assert {"file", "blob"} == {url.partition(":")[0] for url in opened.requests()}


@needs_browser
def test_a_drawn_digit_is_classified(opened: chromium.Page) -> None:
    """A one, drawn in a corner: strokes are scaled and centred."""
    left, top = opened.evaluate(
        "(({left, top}) => [left, top])(document.getElementById('draw').getBoundingClientRect())"
    )
    points = [(left + 40 + i, top + 30 + 12 * i) for i in range(6)]
    for kind, (x, y) in zip(("Pressed", *["Moved"] * 4, "Released"), points, strict=True):
        opened.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button="left", buttons=1, clickCount=1)
    limit = time.monotonic() + 20
    while not LINE.fullmatch(text := opened.evaluate("document.getElementById('answer').textContent")):
        assert time.monotonic() < limit, text
        time.sleep(0.05)


@needs_browser
def test_a_dropped_picture_is_classified(run: Path, digits: Data, opened: chromium.Page) -> None:
    image_module = pytest.importorskip("PIL.Image")
    stored = digits.test.raw(7, 8)
    assert stored is not None
    file = io.BytesIO()
    image_module.fromarray(stored[0][0, ..., 0]).save(file, "PNG")
    drop = f"""(async () => {{
        const bytes = Uint8Array.from({list(file.getvalue())});
        const dropped = new DataTransfer();
        dropped.items.add(new File([bytes], "digit.png", {{type: "image/png"}}));
        document.getElementById("answer").textContent = "";
        dispatchEvent(new DragEvent("drop", {{dataTransfer: dropped, cancelable: true}}));
        while (!document.getElementById("answer").textContent) await new Promise(done => setTimeout(done, 20));
        return document.getElementById("answer").textContent;
    }})()"""
    label, probability, _ = answer(run / "app/model.onnx", stored[0][0])
    assert opened.evaluate(drop).startswith(f"{label}  {100 * probability:.2f} %  ")


@needs_browser
def test_a_file_that_is_no_picture_leaves_no_answer_of_the_one_before(opened: chromium.Page) -> None:
    opened.evaluate("document.getElementById('best').innerHTML = '<li>7  99.00 %</li>'")
    drop = """(async () => {
        const dropped = new DataTransfer();
        dropped.items.add(new File(["text"], "digit.png", {type: "image/png"}));
        document.getElementById("answer").textContent = "";
        dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, cancelable: true}));
        while (!document.getElementById("answer").textContent) await new Promise(done => setTimeout(done, 20));
        return document.getElementById("answer").textContent + document.getElementById("best").textContent;
    })()"""
    said = opened.evaluate(drop)
    assert said.startswith("This does not work here: ")
    assert "99.00 %" not in said


@needs_browser
def test_nothing_leaves_the_machine(run: Path, tmp_path: Path) -> None:
    """Neither the page nor the browser itself reaches anything but 127.0.0.1."""
    with chromium.launch([f"--log-net-log={tmp_path / 'net.json'}"]) as browser:
        shown = browser.page((run / "app/web/index.html").as_uri())
        shown.evaluate("app.ready")
        refused = shown.evaluate("fetch('http://192.0.2.1/').then(() => 'sent', () => 'refused')")
        time.sleep(2)  # what the browser does on its own comes a little later
    assert "refused" == refused
    hosts, called = chromium.reached(tmp_path / "net.json")
    assert hosts <= {"127.0.0.1"}
    assert called <= {"127.0.0.1"}


@needs_browser
def test_the_log_shows_a_page_that_does_ask(tmp_path: Path) -> None:
    (tmp_path / "liar.html").write_text("<script>fetch('http://192.0.2.1/')</script>")
    with chromium.launch([f"--log-net-log={tmp_path / 'net.json'}"]) as browser:
        browser.page((tmp_path / "liar.html").as_uri())
        time.sleep(1)
    assert "192.0.2.1" in chromium.reached(tmp_path / "net.json")[0]
