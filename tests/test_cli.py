"""The command line's answers to bad input, and what its small commands say."""

import errno
import gzip
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from torch import nn

from compress import cli
from compress.data import embedded
from tests.conftest import NET, Project, Server, invoke, report_of

STEP = ("--method", "magnitude", "--sparsity", 0.5, "--epochs", 0, "--finetune-epochs", 0, "--format", "onnx")

TIMED = ("--set", "prune.0.units=channel", "--set", 'prune.0.budget={latency="2ms"}')

BAD = {
    "none": "return None",
    "no_train": "return {'test': part(8)}",
    "wrong_key": "return {'trian': part(8), 'test': part(8)}",
    "fails": "raise KeyError('lost')",
    "floats": "return {'train': (np.zeros((40, 1, 8, 8), np.float32), np.arange(40) % 4), 'test': part(8)}",
    "floating": "return {key: (np.zeros((40, 1, 8, 8), np.float32), np.arange(40) % 4) for key in ('train', 'test')}",
    "larger": "return {'train': part(40, 9), 'test': part(8, 9)}",
    "ten": "return {**plain(), 'classes': 'abcdefghij'.split() + list('0123456789')}",
    "lossy": "return {**plain(), 'loss': lambda outputs, labels: outputs.mean() + undefined}",
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bad.py, whose factories are wrong each in its way, and models that are."""
    file = tmp_path_factory.mktemp("bad") / "bad.py"
    head = "import numpy as np\nfrom torch import nn\n\n\n"
    parts = "def part(n, size=8):\n    return np.zeros((n, size, size), np.uint8), np.arange(n) % 4\n\n\n"
    plain = "def plain():\n    return {'train': part(40), 'test': part(8)}\n\n\n"
    factories = "".join(f"def {name}():\n    {body}\n\n\n" for name, body in BAD.items())
    models = "def flat():\n    return nn.Flatten()\n\n\nnumber = 3\n"
    file.write_text(head + parts + plain + factories + models)
    return file


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def refused(ended: Result) -> str:
    """The one line on standard error of a command that was refused."""
    assert 2 == ended.exit_code, ended.output
    assert "" == ended.stdout
    lines = ended.stderr.splitlines()
    assert 1 == len(lines), ended.stderr
    assert lines[0].startswith("compress: ")
    return lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lenet5-mnits"], "no recipe 'lenet5-mnits'; did you mean lenet5-mnist"),
        (["gone.toml"], "cannot read recipe gone.toml: No such file"),
        (["--method", "adm", "--sparsity", ".5"], "no method 'adm'; did you mean admm"),
        (["--set", "trian.lr=1"], "no key 'trian'; did you mean train?"),
        (["--set", "train.lrr=1"], "no key 'train.lrr'; did you mean lr?"),
        (["--set", "prune.0.rhoo=1"], "no key 'rhoo'; did you mean rho"),
        (["--set", "prune.0.budget.sparsty=1"], "no key 'prune.0.budget.sparsty'; did you mean sparsity?"),
        (["--set", "validate.gates.min_speed=1"], "no key 'validate.gates.min_speed'; did you mean min_speedup?"),
        (["--set", "prune.7.epochs=1"], "2 prune step(s), counted from 0; there is none '7'"),
        (["--set", "train=3"], "recipe key train = 3"),
        (["--set", "train.lr.x=3"], "--set train.lr.x: train.lr is not a section"),
        (["--set", "prune.0=3"], "prune is not a section"),
        (["--set", "nonsense"], "--set wants key=value, got 'nonsense'"),
        (["--set", "train.optimizer=adamm"], "'adam', 'adamw' or 'sgd'"),
        (["--set", "train.epochs=-1"], "train.epochs = -1"),
        (["--batch", "0"], "recipe key export.batch = 0: Input should be greater than or equal to 1"),
        (["--batch", "four"], "export.batch = 'four': Input should be a valid integer"),
        (["--opset", "7"], "export.opset = 7"),
        (["--sparsity", ".5"], "add --method"),
        (["--method", "admm", "--sparsity", "1.5"], "sparsity must be in [0, 1), got 1.5; for 90 % write 0.9"),
        (["--method", "admm", "--sparsity", "nan"], "got nan"),
        (["--method", "admm", "--compression", "0.5"], "compression must be at least 1, got 0.5"),
        (["--method", "admm", "--macs", "-1"], "macs must be a fraction"),
        (
            ["--method", "admm"],
            "method admm prunes nothing without a budget: write one, such as budget = { sparsity = 0.9 } or --sparsity",
        ),
        (["--method", "pfec", "--units", "channel", "--sparsity", ".5", "--macs", ".5"], "got --sparsity, --macs"),
        (["--method", "pfec", "--sparsity", ".5", "--latency-budget", ".5x"], "got --sparsity, --latency-budget"),
        (["--model", "lenet5"], "--model or --data without a recipe needs --method with a budget"),
        (["--epochs", "few"], "'few' is not a valid integer; see"),
        (["--sparsty", "0.5"], "No such option '--sparsty'"),
    ],
)
def test_bad_words_are_answered_in_one_line(words: Sequence[str], said: str, out: Path) -> None:
    assert said in refused(invoke("prune-and-export", *words, "--out", out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "locla"], "no target 'locla'; did you mean local?"),
        ([*TIMED, "--target", "qemu-aarch64"], "the first target, qemu-aarch64, only compares outputs"),
        ([*TIMED, "--target", "mcu"], "target mcu counts instructions; write a share"),
        (["--format", "onx"], "no export format 'onx'; did you mean onnx, onnx-int8, onnx-fp16?"),
        (["--model", "lenet"], "did you mean lenet5"),
        (["--model", "torchvision:resnet81"], "no such classifier; did you mean resnet18"),
        (["--model", "torchvision:resnet18"], "expected input[2, 1, 8, 8] to have 3 channels"),
        (["--model", "{bad}:flat"], "no convolution and no linear layer to prune"),
        (["--model", "{bad}:number"], "number is a int; name a class or a function"),
        (["--model", "no.such.module:Net"], "no module no"),
        (["--data", "mnits"], "did you mean mnist?"),
        (["--data", "{bad}:none"], "returned a NoneType; a mapping with train and test is expected"),
        (["--data", "{bad}:no_train"], "returned no train"),
        (["--data", "{bad}:wrong_key"], "unknown key trian; did you mean train"),
        (["--data", "{bad}:fails"], "`raise KeyError('lost')`: KeyError: 'lost'"),
        (["--data", "{bad}:flots"], "has no flots; did you mean floats"),
        (["--data", "{bad}:floats"], "all parts must agree"),
        (["--data", "{bad}:floating", "--uint8-input"], "uint8_input needs 8-bit images"),
        (["--data", "{bad}:larger"], "images of shape [2, 1, 9, 9]"),
        (["--data", "{bad}:lossy"], "NameError: name 'undefined' is not defined"),
        (["--set", "data.held_out=0.001"], "leaves no image to select by"),
        (["--set", "data.held_out=1000"], "leaves nothing to train on"),
        (["--set", "data.mean=[0.5, 0.5]"], "one value for each of 1 channels"),
        (["--set", "model.options.width=3"], "no option width"),
        (["--set", "prune.0.budget={keep={fc3=10}}"], "keep names no layer 'fc3'; did you mean fc2, fc1?"),
        (["--set", "prune.0.budget={compression=300,floor=0.01}"], "ask for less"),
        (["--device", "gpu"], "device 'gpu' cannot be used"),
        (["--weights", "gone.pt"], "weights gone.pt: no such file"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_before_any_work(
    words: Sequence[str], said: str, user: Project, bad: Path, out: Path
) -> None:
    words = [word.replace("{bad}", str(bad)) for word in words]
    assert said in refused(invoke(*user.words(*STEP, *words, "--out", out)))
    assert not list(out.glob("*.*"))  # nothing but the empty folder of checkpoints


def test_a_format_whose_package_is_missing_is_refused_before_any_work(
    user: Project, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = refused(invoke(*user.words(*STEP, "--format", "openvino", "--out", out)))
    assert "needs the package openvino, and it is not installed; run: pip install 'compress-edge[openvino]'" in said
    assert not list(out.glob("*.*"))


def test_a_model_with_too_few_outputs_is_refused(user: Project, bad: Path, out: Path) -> None:
    words = user.words(*STEP, "--set", "model.options.num_classes=3", "--data", f"{bad}:plain", "--out", out)
    assert "outputs of shape [2, 3]; 2 images of 4 classes need [2, 4]" in refused(invoke(*words))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(user: Project, out: Path) -> None:
    said = refused(invoke(*user.words(*STEP, "--device", "cuda", "--out", out)))
    assert "device 'cuda' cannot be used" in said
    assert "try --device cpu" in said


def test_an_output_directory_that_is_a_file_or_cannot_be_made(user: Project, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for out in (file, file / "run", Path("/proc/compress/run")):
        assert f"cannot write to the output directory {out}" in refused(invoke(*user.words(*STEP, "--out", out)))
    assert "mine" == file.read_text()


def test_a_recipe_that_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "half.toml").write_text("[train\n")
    assert "half.toml is not valid TOML" in refused(invoke("prune-and-export", tmp_path / "half.toml"))


def net() -> nn.Module:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    model: nn.Module = scope["Net"]()
    return model


def test_weights_that_do_not_fit_are_refused_by_name(user: Project, out: Path, tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in net().state_dict().items()}
    wrong = {
        "1 missing from the file (fc2.bias)": {n: v for n, v in state.items() if n != "fc2.bias"},
        "1 unknown to the model (fc3.bias)": {**state, "fc3.bias": torch.zeros(4)},
        "fc2.bias (5,) in the file, (4,) in the model": {**state, "fc2.bias": torch.zeros(5)},
    }
    for said, tensors in wrong.items():
        save_file(tensors, tmp_path / "wrong.safetensors")
        ended = invoke(*user.words(*STEP, "--weights", tmp_path / "wrong.safetensors", "--out", out))
        assert said in refused(ended)


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.file,)


def test_pickled_code_in_weights_is_refused_and_does_not_run(user: Project, out: Path, tmp_path: Path) -> None:
    torch.save({"weights": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pt")
    ended = invoke(*user.words(*STEP, "--weights", tmp_path / "bomb.pt", "--out", out))
    assert "holds pickled code" in refused(ended)
    assert not (tmp_path / "exploded").exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "exploded").exists()  # it would have


def test_damaged_mnist_is_refused(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "compress.data" / "mnist"
    copy.mkdir(parents=True)
    for name in embedded._MNIST_SHA256:
        shutil.copy(str(files("compress.data") / "mnist" / name), copy / name)
    labels = copy / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[100] ^= 1
    labels.write_bytes(gzip.compress(bytes(content)))
    monkeypatch.setattr(embedded, "files", lambda package: tmp_path / package)
    words = ("--method", "magnitude", "--sparsity", 0.5, "--data", "mnist", "--model", "lenet5", "--out", out)
    said = refused(invoke("prune-and-export", *words))
    assert "t10k-labels-idx1-ubyte.gz is damaged: SHA-256 expected" in said
    assert "reinstall the package" in said


@pytest.fixture(scope="module")
def finished(user: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory, made quietly."""
    out = tmp_path_factory.mktemp("finished") / "run"
    ended = invoke(*user.words(*STEP, "--quiet", "--out", out))
    assert 0 == ended.exit_code, ended.output
    assert "" == ended.stderr
    assert ended.stdout.startswith("Passed")
    return out


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_bad_input_leaves_an_earlier_run_as_it_was(finished: Path, user: Project, bad: Path) -> None:
    before = content(finished)
    for words in (
        ["--weights", "gone.pt"],
        ["--data", f"{bad}:none"],
        ["--model", f"{bad}:flat"],
        ["--set", "model.options.width=3"],
        ["--target", "locla", "--sparsity", 0.9],
        ["--format", "onx"],
    ):
        refused(invoke(*user.words(*STEP, *words, "--out", finished)))
    assert before == content(finished)


def test_output_is_plain_lines_where_there_is_no_terminal(user: Project, finished: Path, server: Server) -> None:
    ended = server.run(user.words(*STEP, "--set", "train.lr=0.002", "--out", "run"), user.folder)
    assert 0 == ended.code, ended.err
    for text in (ended.out, ended.err):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
        assert all(len(line) <= 200 for line in text.splitlines())
    assert "  dense epoch 2/2: loss" in ended.err
    assert "Passed" in ended.out


def test_report_prints_the_summary_again_and_makes_the_page_again(finished: Path) -> None:
    page = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    ended = invoke("report", finished)
    assert 0 == ended.exit_code
    assert ended.stdout.startswith("Passed")
    assert page == (finished / "report.html").read_bytes()


def test_report_of_no_run_is_refused(tmp_path: Path) -> None:
    assert "no report at" in refused(invoke("report", tmp_path))
    (tmp_path / "report.json").write_text('{"schema": 99}')
    assert "99" in refused(invoke("report", tmp_path))


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("methods", ["admm", "magnitude"]),
        ("models", ["lenet5", "resnet20", "torchvision:NAME"]),
        ("recipes", ["lenet5-mnist", "mlp-mnist"]),
    ],
)
def test_lists(command: str, names: Sequence[str]) -> None:
    ended = invoke(command)
    assert 0 == ended.exit_code
    lines = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines())
    assert set(names) <= set(lines)
    assert all(lines.values())


def test_unforeseen_errors_end_in_1_with_a_log(user: Project, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **named: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("compress.stages.compact", broken)
    ended = invoke(*user.words(*STEP, "--out", out))
    assert 1 == ended.exit_code
    log = re.search(r"please report it with (\S+)", ended.stderr)
    assert log
    assert "a fault of ours" in Path(log[1]).read_text()
    assert "Traceback" not in ended.stderr
    found = report_of(out)
    assert ("failed", 1) == (found["status"], found["exit_code"])
    Path(log[1]).unlink()


def test_help_tells_the_exit_codes() -> None:
    for words in ([], ["--help"]):
        ended = invoke(*words)
        assert (0 if words else 2) == ended.exit_code
        assert "130 / 143 interrupted" in ended.output


def test_a_method_tells_its_paper_and_its_knobs() -> None:
    ended = invoke("methods", "admm")
    assert 0 == ended.exit_code
    assert "arXiv:1804.03294" in ended.stdout
    assert "rho = 0.003" in ended.stdout
    assert "admm" in refused(invoke("methods", "adm"))


def test_a_pattern_needs_no_budget_and_channels_are_rounded(user: Project, out: Path) -> None:
    words = ["--method", "magnitude", "--units", "2:4", "--round-channels", "4", "--finetune-epochs", "0"]
    assert 0 == invoke(*user.words(*words, "--train-epochs", "0", "--out", out)).exit_code
    step = report_of(out)["recipe"]["prune"][0]
    assert ("2:4", 4, "global") == (step["units"], step["round_channels"], step["budget"]["scope"])
    assert "pattern 4:2 prunes nothing" in refused(invoke(*user.words("--method", "magnitude", "--units", "4:2")))


def test_a_method_with_a_measure_of_its_own_needs_no_budget(user: Project, out: Path) -> None:
    words = ["--epochs", "1", "--finetune-epochs", "0", "--train-epochs", "0", "--out", out]
    assert 0 == invoke(*user.words("--method", "sparsevd", *words)).exit_code
    assert {"floor", "ranking", "scope", "skip"} == set(report_of(out)["recipe"]["prune"][0]["budget"])
    assert "method dsd prunes nothing without a budget" in refused(invoke(*user.words("--method", "dsd", *words)))
    assert "method padmm prunes nothing" in refused(invoke(*user.words("--method", "padmm", *words)))
    priced = ["--method", "padmm", "--set", "prune.0.lam=1e-6", *words[:-1], out.with_name("priced")]
    assert 0 == invoke(*user.words(*priced)).exit_code


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("magnitude", None),
        ("dsd", "Its budget holds while it prunes; what it leaves is not pruned to it."),
        ("codebook", "it takes no budget."),
    ],
)
def test_a_method_says_how_it_takes_a_budget(name: str, said: str | None) -> None:
    told = invoke("methods", name).stdout
    assert said in told if said else "budget decides" not in told.lower().split("units:")[1]


def test_channels_of_the_short_form_are_ranked_balanced(user: Project, out: Path) -> None:
    words = ["--method", "pfec", "--units", "channel", "--finetune-epochs", "0", "--train-epochs", "0", "--out", out]
    assert 0 == invoke(*user.words("--macs", "0.6", *words)).exit_code
    assert "balanced" == report_of(out)["recipe"]["prune"][0]["budget"]["ranking"]


def test_an_internal_error_is_told_where_no_log_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken(*given: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(cli.tempfile, "NamedTemporaryFile", full)
    monkeypatch.setattr(cli, "_prepared", broken)
    ended = invoke("prune-and-export", "lenet5-mnist")
    assert 1 == ended.exit_code
    said = "compress: internal error (KeyError('lost')); no log could be written: No space left on device"
    assert [said] == ended.stderr.splitlines()
