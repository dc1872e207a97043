"""``compress inspect``: figures computed by hand, what is coupled and frozen, and answers to bad input."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from compress import cost
from compress.channel_units import ChannelUnits
from compress.checkpoint import parse_shape
from compress.compaction import channel_groups
from compress.errors import UsageError
from compress.inspection import inspect
from compress.report import coupling
from compress.report.html import render_inspection
from compress_models import input_shape, load, names
from tests.conftest import invoke
from tests.support import TinyNet

HOSTILE = "<script>alert(1)<>&\"' [bold]\x1b[31m{{ 7*7 }}"

NETS = '''
import torch
from torch import nn


@torch.library.custom_op("inspected::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@odd.register_fake
def _(x):
    return torch.empty_like(x)


class Residual(nn.Module):
    """Two convolutions whose outputs are added; a normalisation that mixes channels; a branch evaluation skips."""

    def __init__(self, channels=4, frozen=False):
        super().__init__()
        self.a = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        self.spare = nn.Linear(2, 2)
        self.fc = nn.Linear(channels, 3)
        self.frozen = frozen

    def forward(self, x):
        x = torch.relu(self.bn(self.a(x)))
        x = torch.relu(x + self.b(x))
        if self.frozen:
            x = odd(x)
        return self.fc(x.mean((2, 3)))


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


class Fussy(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x):
        assert x.shape[-1] == 4, "four numbers, please"
        return super().forward(x)


class Hostile(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module(NAME, nn.Linear(4, 5))
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(torch.relu(getattr(self, NAME)(x)))


def flat():
    return nn.Flatten()
'''


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nets") / "nets.py"
    file.write_text(f"NAME = {HOSTILE!r}\n{NETS}")
    return file


def found(*words: object) -> dict[str, Any]:
    ended = invoke("inspect", *words, "--json")
    assert 0 == ended.exit_code, ended.output
    assert "" == ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def flat(text: str) -> str:
    return " ".join(text.split())


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """What is printed, the JSON and the page."""
    page = tmp_path_factory.mktemp("lenet5") / "page.html"
    ended = invoke("inspect", "lenet5", "--html", page)
    assert 0 == ended.exit_code, ended.output
    return ended.stdout, found("lenet5"), page.read_text()


def test_lenet5_by_hand(lenet5: tuple[str, dict[str, Any], str]) -> None:
    """Caffe's LeNet-5: 24x24 and 8x8 outputs of 5x5 convolutions, 4x4x50 numbers into fc1."""
    _, answer, _ = lenet5
    layers = [(layer["name"], layer["kind"], layer["out"], layer["in"]) for layer in answer["layers"]]
    assert layers == [
        ("conv1", "conv 5x5", 20, 1),
        ("conv2", "conv 5x5", 50, 20),
        ("fc1", "linear", 500, 800),
        ("fc2", "linear", 10, 500),
    ]
    assert [500, 25_000, 400_000, 5_000] == [layer["weights"] for layer in answer["layers"]]
    assert [288_000, 1_600_000, 400_000, 5_000] == [layer["macs"] for layer in answer["layers"]]
    assert (430_500, 430_500, 2_293_000) == (answer["weights"], answer["nonzero"], answer["macs"])
    blocks = by_name(answer["blocks"])
    assert {"conv1": 20, "conv2": 50, "fc1": 500} == {name: block["groups"] for name, block in blocks.items()}
    assert all(block["groups"] == block["exact"] for block in blocks.values())
    # a filter of conv1 and what conv2 reads of it; a filter of conv2 and its 16 columns of fc1; a row and a column
    one = {name: (block["one"]["weights"], block["one"]["macs"]) for name, block in blocks.items()}
    conv1 = (25 + 50 * 25, 25 * 24 * 24 + 50 * 25 * 8 * 8)
    conv2 = (20 * 25 + 16 * 500, 20 * 25 * 8 * 8 + 16 * 500)
    fc1 = (800 + 10, 800 + 10)
    assert one == {name: ([w, w], [m, m]) for name, (w, m) in {"conv1": conv1, "conv2": conv2, "fc1": fc1}.items()}
    assert blocks["conv1"]["half"] == {"groups": 10, "weights": 10 * conv1[0], "macs": 10 * conv1[1]}
    assert ["conv2"] == blocks["conv1"]["reads"]
    assert [20, 50, 500, 0] == [layer["removable"] for layer in answer["layers"]]


def test_the_table_says_the_same_as_the_json(lenet5: tuple[str, dict[str, Any], str]) -> None:
    said, answer, _ = lenet5
    lines = [flat(line) for line in said.splitlines()]
    assert "lenet5, input 1 x 28 x 28 - 570 channel groups in 3 blocks, all removable exactly" == lines[0]
    for layer in answer["layers"]:
        words = f"{layer['name']} {layer['kind']} {layer['out']} x {layer['in']} {layer['weights']:,} "
        assert any(line.startswith(words) for line in lines), words
    for block in answer["blocks"]:
        words = f"{block['name']} {block['groups']} {block['exact']} {block['one']['weights'][0]:,} "
        assert any(line.startswith(words) for line in lines), words
        assert f"{block['name']} read by {block['reads'][0]}" in lines
    assert "conv1 20 20 1,275 94.4 K 3.0 % 41.2 %" in lines  # 12,750 of 430,500; 944,000 of 2,293,000
    assert "all 10 channels of fc2 they are the network's output" in lines
    assert 1 == flat(said).count(answer["macs_convention"])


def test_a_pipe_gets_plain_lines(lenet5: tuple[str, dict[str, Any], str]) -> None:
    said, _, _ = lenet5
    assert not re.search(r"[^\x20-\x7e\n]", said)
    assert max(map(len, said.splitlines())) <= 160


def test_quiet_keeps_the_totals() -> None:
    ended = invoke("inspect", "lenet300", "--quiet")
    assert ended.stdout.splitlines() == [
        "lenet300, input 1 x 28 x 28 - 400 channel groups in 2 blocks, all removable exactly",
        "266,200 weights, all nonzero; 266 K multiply-accumulates; fresh weights",
    ]


def test_a_residual_sum_is_named_with_all_it_couples(nets: Path) -> None:
    answer = found(f"{nets}:Residual", "--input-shape", "1,8,8")
    (block,) = answer["blocks"]
    assert (4, ["a", "b"], ["bn"], ["b", "fc"]) == tuple(block[key] for key in ("groups", "makes", "carries", "reads"))
    # 9 of a; a row and a column of b, 3x3 each, which cross once; a column of fc; all but fc at 64 positions
    assert [9 + (16 - 9) * 9 + 3] * 2 == block["one"]["weights"]
    assert [(9 + (16 - 9) * 9) * 64 + 3] * 2 == block["one"]["macs"]
    said = flat(invoke("inspect", f"{nets}:Residual", "--input-shape", "1,8,8").stdout)
    assert "also made by b; through bn; read by b and fc" in said
    assert "all 2 channels of spare evaluation never reaches this layer" in said


def test_half_is_what_the_units_of_pruning_count() -> None:
    model = TinyNet()
    positions = cost.positions(model, (1, 8, 8))
    groups = channel_groups(model, torch.zeros(2, 1, 8, 8))
    whole = cost.weight_count(model), cost.macs(model, (1, 8, 8))
    units = ChannelUnits.of(groups, dict(model.named_parameters()), positions, *whole)
    for block in inspect(model, (1, 8, 8))["blocks"]:
        keep = {name: torch.ones(size, dtype=torch.bool) for name, size in units.blocks.items()}
        keep[block["name"]][: block["groups"] // 2] = False
        assert block["half"]["weights"] == whole[0] - units.weights(keep)
        assert block["half"]["macs"] == whole[1] - units.macs(keep)
    assert set(units.blocks) == {block["name"] for block in inspect(model, (1, 8, 8))["blocks"]}


def test_a_frozen_operator_is_named_with_its_reason(nets: Path) -> None:
    words = (f"{nets}:Residual", "--input-shape", "1,8,8", "--set", "model.options.frozen=true")
    answer = found(*words)
    assert [0, []] == [answer["groups"], answer["blocks"]]
    ended = invoke("inspect", *words)
    assert "no channel can be removed: the channels meet inspected.odd (no rule)" in flat(ended.stdout)
    assert "inspected.odd in the model's forward no rule is known for this operator" in flat(ended.stdout)
    assert "all 4 channels of a and b" in flat(ended.stdout)


def test_groups_that_cannot_go_exactly(nets: Path) -> None:
    answer = found(f"{nets}:Normed", "--input-shape", "5")
    assert [(6, 0)] == [(block["groups"], block["exact"]) for block in answer["blocks"]]
    assert [["1"]] == [block["carries"] for block in answer["blocks"]]
    assert ["1"] == answer["frozen_operators"][0]["places"]
    said = flat(invoke("inspect", f"{nets}:Normed", "--input-shape", "5").stdout)
    assert "6 channel groups in 1 block, none removable exactly" in said
    assert "layer_norm in 1 every result depends on all channels, so that none can go exactly" in said
    assert "compress.remove cuts them" in said


def test_a_single_layer_has_nothing_to_remove() -> None:
    answer = inspect(nn.Sequential(nn.Linear(3, 2)), (3,))
    assert ["0", 0] == [answer["layers"][0]["name"], answer["groups"]]
    assert "no channel can be removed: the only layer makes the network&#39;s output" in page_of(answer)


class Backwards(nn.Module):
    """Layers run against the order of their definition; attention, depthwise and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose2d(4, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, padding=1)
        self.stem = nn.Conv2d(2, 4, (1, 3), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.depthwise(self.stem(x)))).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_layers_come_in_the_order_in_which_they_run() -> None:
    answer = inspect(Backwards(), (2, 3, 5))
    kinds = {layer["name"]: (layer["kind"], layer["out"], layer["in"]) for layer in answer["layers"]}
    assert list(kinds.items()) == [
        ("stem", ("conv 1x3", 4, 2)),
        ("depthwise", ("depthwise conv 3x3", 4, 4)),
        ("up", ("transposed conv 2x2", 8, 4)),
        ("attention", ("attention in", 24, 8)),
        ("attention.out_proj", ("linear", 8, 8)),
        ("head", ("linear", 3, 8)),
    ]
    blocks = by_name(answer["blocks"])
    stem = next(block for block in answer["blocks"] if "stem" in block["makes"])
    assert ["stem", "depthwise"] == stem["makes"]
    assert 2 == blocks["attention"]["groups"]  # heads
    assert 12 == blocks["attention"]["channels"]  # 4 rows each of queries, keys and values
    assert stem is answer["blocks"][0]


def test_given_weights_are_counted(tmp_path: Path) -> None:
    model = load("lenet300")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["fc2.weight"][:40] = 0
    save_file(state, tmp_path / "pruned.safetensors")
    answer = found("lenet300", "--weights", tmp_path / "pruned.safetensors")
    layer = by_name(answer["layers"])["fc2"]
    assert (30_000, 18_000) == (layer["weights"], layer["nonzero"])
    assert answer["weights_file"].endswith("pruned.safetensors")


def test_another_input_shape_reaches_the_network() -> None:
    answer = found("lenet5", "--input-shape", "3,32,32", "--set", "model.options.num_classes=7")
    assert [(20, 3), (7, 500)] == [(answer["layers"][n]["out"], answer["layers"][n]["in"]) for n in (0, 3)]
    assert 20 * 3 * 25 * 28 * 28 == answer["layers"][0]["macs"]
    assert [3, 28, 28] == found("lenet5", "--set", "model.options.in_channels=3")["input_shape"]


def test_every_network_we_name_says_what_it_takes() -> None:
    assert all(input_shape(name) for name in names())
    shapes = {name: input_shape(f"torchvision:{name}") for name in models.list_models(module=models)}
    assert {(3, 224, 224), (3, 299, 299)} == {shapes["resnet18"], shapes["inception_v3"]}
    assert all(shape and shape[0] == 3 and shape[1] == shape[2] >= 224 for shape in shapes.values())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["lenet"], 2, "did you mean lenet5"),
        (["torchvision:resnet81"], 2, "no such classifier; did you mean resnet18"),
        (["no.such.module:Net"], 2, "no module no"),
        (["lenet5", "--set", "model.options.width=3"], 2, "no option width"),
        (["lenet5", "--set", "train.lr=1"], 2, "--set train.lr: only the model is built here"),
        (["lenet5", "--weights", "gone.pt"], 2, "weights gone.pt: no such file"),
        (["lenet5", "--input-shape", "0,28,28"], 2, "--input-shape wants whole numbers above 0"),
        (["lenet5", "--input-shape", "1x28x28"], 2, "--input-shape wants whole numbers above 0"),
        (["resnet20", "--input-shape", "8"], 2, "does not take an input of shape 8: "),
        (["lenet5", "--html", "no/such/page.html"], 2, "there is no folder"),
        (["lenet5", "--html", "."], 2, "is a directory"),
        (["{nets}:Residual"], 2, "does not say what input it takes; give it, for example --input-shape 3,224,224"),
        (["{nets}:Residual", "--input-shape", "3,8,8"], 2, "does not take an input of shape 3,8,8: "),
        (["{nets}:Fussy", "--input-shape", "5"], 2, "four numbers, please; give the right one with --input-shape"),
        (["{nets}:flat", "--input-shape", "5"], 2, "no convolution and no linear layer to prune"),
        (["{nets}:Branches", "--input-shape", "4"], 4, "torch.export cannot follow the model"),
    ],
)
def test_bad_input_is_answered_in_one_line(words: list[str], code: int, said: str, nets: Path) -> None:
    ended = invoke("inspect", *(word.replace("{nets}", str(nets)) for word in words))
    assert code == ended.exit_code, ended.output
    assert "" == ended.stdout
    *before, line = ended.stderr.splitlines()
    assert not before or code == 4  # torch.export may print the graph it got stuck in
    assert line.startswith("compress: ")
    assert said in line


@pytest.mark.parametrize("text", ["", "3,,3", "-1", "²", "3.0"])
def test_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="whole numbers above 0"):
        parse_shape(text)


class Page(HTMLParser):
    """Elements, what they load, and the text of a page; every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str | None] = []
        self.text = ""
        self.feed(page)
        assert [] == self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value for key, value in attrs if key in ("href", "xlink:href", "src", "action", "data")]
        assert not any(key.startswith("on") for key, _ in attrs)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\u00a0", " ")


def page_of(answer: dict[str, Any]) -> str:
    return render_inspection({"schema": 1, "model": "net", "weights_file": None, **answer})


def test_the_page_holds_tables_and_picture_and_loads_nothing(lenet5: tuple[str, dict[str, Any], str]) -> None:
    _, answer, page = lenet5
    assert page == render_inspection(answer)
    read = Page(page)
    assert all(target == "data:," for target in read.loads)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "script" not in read.tags
    assert "default-src 'none'" in page
    drawn = next(part for part in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if 'class="row"' in part)
    assert [] == re.findall(r"#[0-9a-f]{6}\b", drawn)  # a fixed colour would vanish on one of the themes
    assert 4 == drawn.count('class="row"')
    assert 3 == drawn.count('class="band c')
    assert "channels of conv1: 20 groups, 20 removable exactly\nread by conv2" in read.text
    for word in ("1,275", "41.2 %", "they are the network's output", "Layers in execution order"):
        assert word in read.text, word


def test_lines_beside_each_other_differ_in_place_and_colour() -> None:
    drawn = coupling.bands(found("resnet20"))
    assert 10 == len(drawn)
    assert ([0, 19], 0) == ([drawn[0].rows[0], drawn[0].rows[-1]], drawn[0].lane)  # the residual line runs through
    assert {1} == {band.lane for band in drawn[1:]}  # the inner ones follow each other on one lane
    for place, band in enumerate(drawn):
        for other in drawn[:place]:
            if other.rows[-1] >= band.rows[0]:
                assert other.lane != band.lane
                assert other.colour != band.colour
    assert all(a.colour != b.colour for a, b in pairwise(drawn))


def test_a_hostile_name_is_text_everywhere(nets: Path, tmp_path: Path) -> None:
    words = (f"{nets}:Hostile", "--input-shape", "4")
    ended = invoke("inspect", *words, "--html", tmp_path / "page.html")
    assert 0 == ended.exit_code, ended.output
    assert "\x1b" not in ended.stdout
    assert "<script>alert(1)<>&\"' [bold] [31m{{ 7*7 }}" in ended.stdout
    page = (tmp_path / "page.html").read_text()
    read = Page(page)
    assert "script" not in read.tags
    assert "<script>alert(1)" in read.text
    assert "\x1b" not in page
    assert HOSTILE == found(*words)["layers"][0]["name"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom compress.cli import main\n"
        "try:\n    main(['inspect', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'onnxruntime', 'pydantic', 'matplotlib', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.splitlines()[-1]
