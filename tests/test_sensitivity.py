"""compress sensitivity: its figures against those measured by hand; what it writes, keeps and refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data import load as load_data
from compress.report.html import render_sensitivity
from compress.sensitivity import PERCENTS, judged
from compress.train import derive
from compress_models import load
from tests.conftest import Project, Server, invoke
from tests.test_inspect import HOSTILE, Page, flat

SYNTHETIC = ("lenet5-mnist", "--data", "synthetic", "--set", "data.held_out=200", "--set", "train.epochs=1")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """The directory, what was printed, and the JSON."""
    out = tmp_path_factory.mktemp("sensitivity") / "run"
    ended = invoke("sensitivity", *SYNTHETIC, "--out", out)
    assert 0 == ended.exit_code, ended.output
    return out, ended.stdout, json.loads((out / "sensitivity.json").read_text())


def block(points: list[float], name: str = "conv1") -> dict[str, Any]:
    shares = [n / 100 for n in PERCENTS]
    return {
        "name": name,
        "units": 10,
        "points": [
            {"removed": share, "kept": 1, "weights": 9, "macs": 90, "accuracy": accuracy}
            for share, accuracy in zip(shares, points, strict=True)
        ],
    }


def test_a_layer_bears_the_largest_share_up_to_which_it_never_costs_more() -> None:
    """From 0.90 with 1 point to spare; a curve that falls and comes back has fallen."""
    flat = block([0.9] * 6 + [0.89, 0.5, 0.5])
    between = block([0.9, 0.89, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9])
    steep = block([0.889] + [0.9] * 8)
    found = judged([flat, between, steep], 0.9, 1.0)
    assert [0.7, 0.3, 0.0] == [b["bears"] for b in found["blocks"]]
    assert ["flat", "between", "steep"] == [b["slope"] for b in found["blocks"]]
    assert (1 + 40 + 40) / 9 == pytest.approx(found["blocks"][0]["mean_drop_points"])


def test_the_figures_are_those_of_the_network_with_its_smallest_filters_zeroed(
    measured: tuple[Path, str, dict[str, Any]],
) -> None:
    out, _, answer = measured
    model = load("lenet5").eval()
    model.load_state_dict(torch.load(out / "checkpoints" / "dense.pt", weights_only=True)["payload"]["state"])
    held_out = load_data("synthetic", held_out=200, seed=derive(0, "held out")).held_out
    images, labels = next(held_out.batches(200))

    def accuracy() -> float:
        with torch.no_grad():
            return int((model(images).argmax(1) == labels).sum()) / 200

    assert answer["accuracy"] == accuracy()
    conv1 = answer["blocks"][0]
    assert ("conv1", 20) == (conv1["name"], conv1["units"])
    assert [18, 16, 14, 12, 10, 8, 6, 4, 2] == [point["kept"] for point in conv1["points"]]
    smallest = model.conv1.weight.detach().abs().sum((1, 2, 3)).argsort()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for point in conv1["points"]:
        model.load_state_dict(before)
        with torch.no_grad():
            model.conv1.weight[smallest[: 20 - point["kept"]]] = 0
            model.conv1.bias[smallest[: 20 - point["kept"]]] = 0
        assert point["accuracy"] == accuracy()
        assert point["weights"] == 430_500 - (20 - point["kept"]) * (25 + 50 * 25)
        assert point["macs"] == 2_293_000 - (20 - point["kept"]) * (25 * 24 * 24 + 50 * 25 * 8 * 8)


def test_table_and_page_say_what_the_json_says(measured: tuple[Path, str, dict[str, Any]]) -> None:
    out, said, answer = measured
    page = (out / "sensitivity.html").read_text()
    assert page == render_sensitivity(answer)
    read, lines = Page(page), [flat(line) for line in said.splitlines()]
    assert {"conv1", "conv2", "fc1"} == {one["name"] for one in answer["blocks"]}
    for one in answer["blocks"]:
        figures = " ".join(f"{100 * point['accuracy']:.2f}" for point in one["points"])
        words = f"{one['name']} {one['units']} {figures} {100 * one['bears']:.0f} %"
        assert any(line.startswith(words) for line in lines), words
        assert all(f"{100 * point['accuracy']:.2f}" in read.text for point in one["points"])
    for slope, start in (("flat", "Flat, 70 % or more"), ("steep", "Steep, less than 30 %")):
        (line,) = [line for line in lines if line.startswith(start)]
        assert line in flat(read.text)
        for one in answer["blocks"]:
            assert (one["slope"] == slope) == (re.search(rf"\b{one['name']}\b", line) is not None)
    assert all(target.startswith(("#", "data:")) for target in read.loads if target)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "script" not in read.tags
    assert 2 == page.count("<svg")


def test_the_same_command_again_measures_nothing(measured: tuple[Path, str, dict[str, Any]]) -> None:
    out, said, _ = measured
    before = {name: (out / name).read_bytes() for name in ("sensitivity.json", "sensitivity.html")}
    ended = invoke("sensitivity", *SYNTHETIC, "--out", out)
    assert (0, said) == (ended.exit_code, ended.stdout)
    assert "dense: finished earlier, reused" in ended.stderr
    assert "sensitivity, channels: finished earlier, reused" in ended.stderr
    assert before == {name: (out / name).read_bytes() for name in before}


def test_single_weights_and_quiet(measured: tuple[Path, str, dict[str, Any]]) -> None:
    out, _, _ = measured
    before = (out / "sensitivity.json").read_bytes()
    ended = invoke("sensitivity", *SYNTHETIC, "--out", out, "--units", "element", "--drop-points", 5, "--quiet")
    assert (0, "") == (ended.exit_code, ended.stderr)
    assert "weights of smallest magnitude first" in flat(ended.stdout)
    assert "within 5 points" in ended.stdout
    answer = json.loads((out / "sensitivity.json").read_text())
    assert [500, 25_000, 400_000, 5_000] == [one["units"] for one in answer["blocks"]]
    half = answer["blocks"][2]["points"][4]
    assert (200_000, 230_500, 2_093_000) == (half["kept"], half["weights"], half["macs"])
    (out / "sensitivity.json").write_bytes(before)


def test_another_recipes_network_is_not_overwritten(measured: tuple[Path, str, dict[str, Any]]) -> None:
    out, _, _ = measured
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    ended = invoke("sensitivity", *SYNTHETIC, "--seed", 1, "--out", out)
    assert 2 == ended.exit_code
    assert "holds the stage dense of another recipe" in ended.stderr
    assert before == {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}


def small(user: Project, *more: object) -> list[str]:
    """The user's network on the user's data."""
    spec = ("--model", f"{user.folder / 'net.py'}:Net", "--data", f"{user.folder / 'data.py'}:factory")
    return [str(word) for word in ("sensitivity", *spec, "--set", "data.held_out=0.25", *more)]


def test_given_weights_are_measured_as_they_are(user: Project, tmp_path: Path) -> None:
    torch.manual_seed(5)
    weights = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "fc1.weight": (12, 36), "fc1.bias": (12,)}
    shapes = {**weights, "fc2.weight": (4, 12), "fc2.bias": (4,)}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "mine.pt")
    ended = invoke(*small(user, "--weights", tmp_path / "mine.pt", "--out", tmp_path / "run"))
    assert 0 == ended.exit_code, ended.output
    assert "epoch" not in ended.stderr
    answer = json.loads((tmp_path / "run" / "sensitivity.json").read_text())
    assert [("conv", 4), ("fc1", 12)] == [(one["name"], one["units"]) for one in answer["blocks"]]
    # of four channels one always stays, and shares that keep the same are measured once
    assert [3, 3, 2, 2, 2, 1, 1, 1, 1] == [point["kept"] for point in answer["blocks"][0]["points"]]
    state = torch.load(tmp_path / "run" / "checkpoints" / "dense.pt", weights_only=True)["payload"]["state"]
    assert torch.equal(torch.load(tmp_path / "mine.pt", weights_only=True)["fc1.weight"], state["fc1.weight"])


def test_a_measurement_goes_on_where_it_was_killed(user: Project, server: Server, tmp_path: Path) -> None:
    words = small(user, "--train-epochs", 1, "--out", "run")
    killed = server.run(words, tmp_path, at=r"open \.sensitivity-channel\.progress", do="SIGKILL", nth=2)
    assert -9 == killed.code
    assert not (tmp_path / "run" / "sensitivity.json").exists()
    ended = server.run(words, tmp_path)
    assert 0 == ended.code, ended.err
    assert "  conv: half" in killed.err
    assert "  conv: half" not in ended.err
    assert "  fc1: half" in ended.err
    whole = server.run([*words[:-1], "whole"], tmp_path)
    assert 0 == whole.code, whole.err
    first, second = ((tmp_path / name / "sensitivity.json").read_bytes() for name in ("run", "whole"))
    assert first == second
    assert not list((tmp_path / "run" / "checkpoints").glob("*.progress.pt"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "lenet5"], "name the network: a RECIPE (see compress recipes), or --model and --data"),
        (["lenet5-mnits"], "no recipe 'lenet5-mnits'; did you mean lenet5-mnist"),
        (["lenet5-mnist", "--train-epochs", "0"], "an untrained network has no sensitivity"),
        (["lenet5-mnist", "--drop-points", "-1"], "--drop-points must be 0 or more, got -1"),
        (["lenet5-mnist", "--weights", "gone.pt"], "weights gone.pt: no such file"),
        (["lenet5-mnist", "--set", "trian.lr=1"], "no key 'trian'; did you mean train?"),
        (["--model", "lenet5", "--data", "mnits"], "did you mean mnist?"),
    ],
)
def test_bad_input_is_answered_in_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    ended = invoke("sensitivity", *words, "--out", tmp_path / "run")
    assert (2, "") == (ended.exit_code, ended.stdout)
    (line,) = ended.stderr.splitlines()
    assert said in line


def test_a_hostile_name_is_text_on_the_page() -> None:
    about = {"schema": 1, "model": HOSTILE, "data": HOSTILE, "held_out": 5, "units": "channel", "accuracy": 0.9}
    blocks = [block([0.5] * 9, HOSTILE), block([0.9] * 9, f"{HOSTILE} too")]
    page = render_sensitivity({**about, "weights": 10, "macs": 100, **judged(blocks, 0.9, 1.0)})
    read = Page(page)
    assert "script" not in read.tags
    assert "<script>alert(1)" in read.text
    assert "\x1b" not in page


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom compress.cli import main\n"
        "try:\n    main(['sensitivity', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'onnxruntime', 'pydantic', 'matplotlib', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.splitlines()[-1]
