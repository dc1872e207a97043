"""A whole run through the real command line: its files, its report, and what a second run reuses."""

import hashlib
import json
import shutil
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from compress_exporters import Artifact, Request
from compress_exporters import onnx as onnx_exporter
from tests.conftest import NET, Project, Server, invoke, report_of
from tests.support import scored

RECIPE = """
[[prune]]
method = "magnitude"
units = "channel"
epochs = 1
budget = { macs = 0.6 }
finetune = { epochs = 1 }

[[prune]]
method = "admm"
epochs = 1
budget = { compression = 6 }
finetune = { epochs = 1 }
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels, then elements."""
    file = tmp_path_factory.mktemp("recipe") / "two-steps.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def whole(user: Project, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a whole run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = invoke(*user.words(recipe, "--out", out))
    assert 0 == ended.exit_code, ended.output
    return out


@pytest.fixture
def again(whole: Path, tmp_path: Path) -> Path:
    """A copy to run again in."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_every_file_of_the_contract_is_written(whole: Path) -> None:
    files = {path.name for path in whole.iterdir()}
    assert {
        "recipe.toml", "decisions.json", "dense.onnx", "model.onnx", "model.sparse.onnx", "report.json",
        "report.html", "checkpoints",
    } == files  # fmt: skip
    assert {".lock", "artifacts.json"} < {path.name for path in (whole / "checkpoints").iterdir()}
    assert tomllib.loads((whole / "recipe.toml").read_text())["prune"][1]["rho"] > 0  # defaults are written out
    assert "<html" in (whole / "report.html").read_text()


NUMBER = int | float
MODEL = {
    "accuracy": float, "accuracy_torch": float, "weights": int, "nonzero": int, "macs": int, "size_bytes": int,
    "size_zip_bytes": int, "latency_ms": {"p50": float, "p90": float, "p99": float},
}  # fmt: skip
PARITY = {"max_abs": float, "tolerance": float, "top1_agreement": float, "samples": int, "passed": bool}
CONTRACT = {
    "schema": int, "status": str, "recipe": dict, "seed": int, "metric": {"name": str, "higher_is_better": bool},
    "environment": {"torch": str, "onnxruntime": str, "cpu": str, "threads": int},
    "dense": MODEL,
    "pruned": {**MODEL, "sparsity": float, "compression": float, "channels_removed": int},
    "speedup": float, "speedup_low": float, "speedup_high": float,
    "speedups": [{"target": str, "artifact": str, "value": float, "low": float, "high": float}],
    "parity": PARITY,
    "compaction": {
        "max_error_relative": float, "dtype": str, "max_abs_error_shipped": float, "frozen_operators": [str],
        "layers": [{"name": str, "in_before": int, "in_after": int, "out_before": int, "out_after": int}],
    },
    "gates": [{"name": str, "limit": NUMBER, "value": NUMBER, "passed": bool}],
    "artifacts": [
        {
            "path": str, "files": [str], "format": str, "size_bytes": int, "size_zip_bytes": int, "sha256": str,
            "opset": int, "min_ort": str, "accuracy": float, "parity": PARITY,
        }
    ],
    "measurements": [
        {
            "artifact": str, "target": str, "provider": str, "threads": int, "status": str, "reason": str,
            "latency_ms": {"p50": float, "p90": float, "p99": float, "repeats": int, "spread": float},
            "load_ms": float, "first_ms": float, "peak_memory_bytes": int,
        }
    ],
    "stages": [{"name": str, "seconds": float, "resumed": bool}],
    "history": [
        {
            "stage": str, "epoch": int, "loss": float, "accuracy": float, "sparsity": float, "seconds": float,
            "metrics": dict,
        }
    ],
}  # fmt: skip
"""Every key that tools may rely on, and its type."""


def breaches(contract: Any, found: Any, where: str = "report") -> Iterator[str]:
    """Where a report breaks the contract."""
    if isinstance(contract, dict):
        for key, kind in contract.items():
            if not isinstance(found, dict) or key not in found:
                yield f"{where} has no {key}"
            else:
                yield from breaches(kind, found[key], f"{where}.{key}")
    elif isinstance(contract, list):
        yield from breaches(list, found, where)
        for index, item in enumerate(found or ()):
            yield from breaches(contract[0], item, f"{where}[{index}]")
    elif not isinstance(found, contract) or (contract is not bool and isinstance(found, bool)):
        yield f"{where} is {found!r}"


def test_the_report_keeps_its_contract(whole: Path) -> None:
    assert [] == list(breaches(CONTRACT, report_of(whole)))


def test_the_contract_sees_a_key_that_is_missing_null_or_of_another_type(whole: Path) -> None:
    found = report_of(whole)
    del found["pruned"]["macs"]
    found["parity"]["passed"] = 1
    found["measurements"][1]["latency_ms"]["p50"] = None
    assert [
        "report.pruned has no macs",
        "report.parity.passed is 1",
        "report.measurements[1].latency_ms.p50 is None",
    ] == list(breaches(CONTRACT, found))


def test_sums_and_ratios_agree(whole: Path) -> None:
    found = report_of(whole)
    dense, pruned, layers = found["dense"], found["pruned"], found["layers"]
    assert ("passed", 1) == (found["status"], found["schema"])
    # conv 4x1x3x3, fc1 12x36, fc2 4x12; the convolution is used at 3x3 places
    assert (36 + 432 + 48, 36 * 9 + 432 + 48) == (dense["weights"], dense["macs"])
    for key, total in (("weights_dense", dense["weights"]), ("macs_dense", dense["macs"])):
        assert total == sum(layer[key] for layer in layers)
    for key in ("weights", "nonzero", "macs"):
        assert pruned[key] == sum(layer[key] for layer in layers), key
    assert pruned["macs"] <= 0.6 * dense["macs"]
    assert 516 // 6 >= pruned["nonzero"] > 0
    assert dense["weights"] / pruned["nonzero"] == pruned["compression"]
    assert 1 - pruned["nonzero"] / dense["weights"] == pruned["sparsity"]
    removed = sum(layer["out_before"] - layer["out_after"] for layer in found["compaction"]["layers"])
    assert removed == pruned["channels_removed"] > 0
    assert found["speedup_low"] <= found["speedup"] <= found["speedup_high"]
    assert ["model.onnx", "model.sparse.onnx"] == [entry["artifact"] for entry in found["speedups"]]
    assert found["speedup"] == found["speedups"][0]["value"]
    assert found["compaction"]["max_error_relative"] < 1e-9


def test_what_a_method_logs_is_in_the_history(whole: Path) -> None:
    logged = {epoch["stage"]: epoch["metrics"] for epoch in report_of(whole)["history"]}
    assert {} == logged["dense"]
    assert {"rho", "primal_residual", "dual_residual"} == logged["prune-1 admm element"].keys()
    assert 0 < logged["prune-1 admm element"]["primal_residual"] < 1


def test_layers_in_the_file_are_as_wide_as_the_report_says(whole: Path) -> None:
    model = onnx.load(whole / "model.onnx")
    shapes = {tuple(tensor.dims) for tensor in model.graph.initializer}
    for layer in report_of(whole)["compaction"]["layers"]:
        wide = (layer["out_after"], layer["in_after"])
        assert any(shape[:2] in (wide, wide[::-1]) for shape in shapes), layer


def test_artifacts_are_what_the_report_says(whole: Path) -> None:
    found = report_of(whole)
    assert ["dense.onnx", "model.onnx", "model.sparse.onnx"] == [a["path"] for a in found["artifacts"]]
    for artifact in found["artifacts"]:
        content = (whole / artifact["path"]).read_bytes()
        assert len(content) == artifact["size_bytes"]
        assert len(zlib.compress(content)) == artifact["size_zip_bytes"]
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        assert artifact["parity"]["passed"]
    assert found["artifacts"][1]["size_bytes"] == found["pruned"]["size_bytes"]


def accuracy_by_hand(file: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Top-1 of a file that takes one image at a time."""
    session = onnxruntime.InferenceSession(file)
    name = session.get_inputs()[0].name
    right = [
        session.run(None, {name: image[None]})[0].argmax() == label for image, label in zip(images, labels, strict=True)
    ]
    return float(np.mean(right))


def user_data(user: Project) -> Any:
    scope: dict[str, Any] = {}
    exec((user.folder / "data.py").read_text(), scope)
    return scope["factory"]()


def normalised(user: Project) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The test images as the recipe's defaults normalise them: by the training set's own mean and deviation."""
    given = user_data(user)
    pixels = given["train"][0] / 255
    images, labels = given["test"]
    return ((images[:, None] / 255 - pixels.mean()) / pixels.std()).astype(np.float32), labels


@pytest.mark.parametrize(("part", "file"), [("dense", "dense.onnx"), ("pruned", "model.onnx")])
def test_accuracy_is_that_of_the_file(whole: Path, user: Project, part: str, file: str) -> None:
    figures = report_of(whole)[part]
    assert accuracy_by_hand(whole / file, *normalised(user)) == figures["accuracy"]
    # one image of 40 may fall to the other side of a tie
    assert abs(figures["accuracy"] - figures["accuracy_torch"]) <= 1 / 40 + 1e-9


def test_the_resolved_recipe_is_the_recipe_and_equal_recipes_give_equal_bytes(
    whole: Path, tmp_path: Path, again: Path
) -> None:
    """Elsewhere it gives the same bytes; in the same directory there is nothing left to do."""
    shutil.copy(whole / "recipe.toml", tmp_path / "resolved.toml")
    ended = invoke("prune-and-export", tmp_path / "resolved.toml", "--out", tmp_path / "other")
    assert 0 == ended.exit_code, ended.output
    for name in ("dense.onnx", "model.onnx", "model.sparse.onnx", "recipe.toml"):
        assert (whole / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name
    assert 0 == invoke("prune-and-export", again / "recipe.toml", "--out", again).exit_code
    assert all(stage["resumed"] for stage in report_of(again)["stages"])


def stamps(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.glob("*.onnx")}


def test_the_same_command_again_does_nothing(again: Path, user: Project, recipe: Path) -> None:
    before = stamps(again)
    ended = invoke(*user.words(recipe, "--out", again))
    assert 0 == ended.exit_code
    assert before == stamps(again)
    assert 9 == len(report_of(again)["stages"])
    assert all(stage["resumed"] for stage in report_of(again)["stages"])


def test_where_and_what_is_measured_leaves_the_model_alone(again: Path, user: Project, recipe: Path) -> None:
    before = stamps(again)
    assert 0 == invoke(*user.words(recipe, "--out", again, "--max-size-kb", 100)).exit_code
    assert before == stamps(again)
    found = report_of(again)
    assert {"validate"} == {stage["name"] for stage in found["stages"] if not stage["resumed"]}
    assert [("max_size_kb", 100, True)] == [(g["name"], g["limit"], g["passed"]) for g in found["gates"]]


def test_a_changed_recipe_runs_on_from_the_change_and_says_what_it_deleted(
    again: Path, user: Project, recipe: Path
) -> None:
    mine = {again / name: name for name in ("model.py", "model.txt", "report.csv")}
    for file, text in mine.items():
        file.write_text(text)
    ended = invoke(*user.words(recipe, "--out", again, "--set", "prune.1.budget.compression=8", "--format", "onnx"))
    assert 0 == ended.exit_code
    assert "deleted dense.onnx, model.onnx, model.sparse.onnx, report.html, report.json" in ended.stderr
    found = report_of(again)
    assert ["dense", "prune-0", "compact-0", "retrain-0"] == [
        s["name"].split()[0] for s in found["stages"] if s["resumed"]
    ]
    assert 516 // 8 >= found["pruned"]["nonzero"]
    assert not (again / "model.sparse.onnx").exists()
    assert all(text == file.read_text() for file, text in mine.items())  # files of the user stay


def test_delivered_weights_are_those_of_the_report(whole: Path) -> None:
    with safe_open(whole / "checkpoints" / "model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        attributes = json.loads(file.metadata()["attributes"])
    report = json.loads((whole / "report.json").read_text())
    assert report["pruned"]["nonzero"] == sum(int(w.count_nonzero()) for w in state.values() if w.dim() > 1)
    assert report["pruned"]["weights"] == sum(w.numel() for w in state.values() if w.dim() > 1)
    assert attributes  # a fresh network needs them to become as narrow


def test_files_that_are_gone_or_changed_are_written_again(
    whole: Path, again: Path, user: Project, recipe: Path
) -> None:
    (again / "dense.onnx").unlink()
    model = again / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    ended = invoke(*user.words(recipe, "--out", again))
    assert 0 == ended.exit_code, ended.output
    assert "missing or changed; writing it again" in ended.stderr
    for name in ("dense.onnx", "model.onnx"):
        assert (whole / name).read_bytes() == (again / name).read_bytes(), name


def test_a_failed_gate_is_named_and_every_file_is_written(again: Path, user: Project, recipe: Path) -> None:
    ended = invoke(*user.words(recipe, "--out", again, "--max-size-kb", 0.001, "--min-speedup", 1000))
    assert 3 == ended.exit_code
    last = ended.stderr.strip().splitlines()[-1]
    assert "max_size_kb" in last
    assert "min_speedup" in last
    assert "parity" not in last
    found = report_of(again)
    assert ("gate_failed", 3) == (found["status"], found["exit_code"])
    assert [False, False] == [gate["passed"] for gate in found["gates"]]
    assert [] == list(breaches(CONTRACT, found))
    assert (again / "report.html").exists()


def test_the_gate_on_accuracy_holds_every_file(
    again: Path, user: Project, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of dense.onnx, model.onnx, model.sparse.onnx
    monkeypatch.setattr("compress.validation.accuracy", scored(0.9, 0.9, 0.6))
    ended = invoke(*user.words(recipe, "--out", again, "--max-accuracy-drop-points", 5))
    assert 3 == ended.exit_code
    assert "max_accuracy_drop_points of model.sparse.onnx = 30" in ended.stderr
    found = report_of(again)
    assert [(None, True), ("model.sparse.onnx", False)] == [(gate["file"], gate["passed"]) for gate in found["gates"]]
    assert [] == list(breaches(CONTRACT, found))


def test_one_perturbed_weight_fails_parity(
    again: Path, user: Project, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onnx_exporter.export

    def lying(request: Request, path: Path) -> Artifact:
        with torch.no_grad():
            weight = next(w for w in request.model.parameters() if w.dim() == 4)
            weight.view(-1)[weight.abs().argmax()] *= 1.01
        return honest(request, path)

    monkeypatch.setattr(onnx_exporter, "export", lying)
    ended = invoke(*user.words(recipe, "--out", again, "--opset", 19, "--format", "onnx"))
    assert 3 == ended.exit_code, ended.output
    assert "parity of model.onnx: max error" in ended.stderr
    found = report_of(again)
    assert "gate_failed" == found["status"]
    assert not found["parity"]["passed"]


def test_channels_alone(user: Project, tmp_path: Path) -> None:
    step = ("--method", "magnitude", "--units", "channel", "--sparsity", 0.5, "--epochs", 0, "--finetune-epochs", 1)
    ended = invoke(*user.words(*step, "--format", "onnx", "--out", tmp_path / "run"))
    assert 0 == ended.exit_code, ended.output
    found = report_of(tmp_path / "run")
    assert found["pruned"]["weights"] <= 258
    assert found["pruned"]["weights"] == found["pruned"]["nonzero"]  # nothing but whole channels went
    assert found["pruned"]["size_bytes"] < found["dense"]["size_bytes"]


WRITTEN = """
import torch
from torch import nn


class Net(nn.Module):
    \"\"\"Sizes written in the code, a gate that splits channels, two attention heads.\"\"\"

    def __init__(self, num_classes=4):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, stride=2)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc = nn.Linear(72, num_classes)

    def forward(self, x):
        value, gate = self.conv(x).chunk(2, 1)
        x = (value * torch.sigmoid(gate)).view(-1, 8, 9).transpose(1, 2)
        q, k, v = self.qkv(x).view(-1, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.fc((x + self.out(mixed.transpose(1, 2).reshape(-1, 9, 8))).flatten(1))
"""


def test_a_network_with_sizes_written_in_its_code_needs_no_editing(user: Project, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "written.py").write_text(WRITTEN)
    words = user.words(recipe, "--set", "prune.0.budget.macs=0.5", "--out", tmp_path / "run")
    words[words.index("--model") + 1] = f"{tmp_path / 'written.py'}:Net"
    ended = invoke(*words)
    assert 0 == ended.exit_code, ended.output
    found = report_of(tmp_path / "run")
    assert found["compaction"]["rewritten"]
    assert found["parity"]["passed"]
    assert found["pruned"]["macs"] < 0.6 * found["dense"]["macs"]
    before = (tmp_path / "run" / "model.onnx").read_bytes()
    (tmp_path / "run" / "model.onnx").unlink()
    again = invoke(*words)  # rebuilt from the stored forward pass
    assert 0 == again.exit_code, again.output
    assert before == (tmp_path / "run" / "model.onnx").read_bytes()
    assert ["retrain-0: what only training does", "retrain-1: what only training does"] == [
        note.partition(" (")[0] for note in found["notes"] if "finetune.compacted = false" in note
    ]
    masked = invoke(*words, "--set", "prune.0.finetune.compacted=false", "--set", "prune.1.finetune.compacted=false")
    assert 0 == masked.exit_code, masked.output
    found = report_of(tmp_path / "run")
    assert ["dense", "prune-0", "compact-0", "prune-1", "compact-1", "export", "validate"] == [
        stage["name"].split()[0] for stage in found["stages"]
    ]
    assert not any("finetune.compacted" in note for note in found["notes"])


def test_no_pruning_delivers_the_dense_model(user: Project, tmp_path: Path) -> None:
    (tmp_path / "plain.toml").write_text("prune = []\n")
    ended = invoke(*user.words(tmp_path / "plain.toml", "--out", tmp_path / "run"))
    assert 0 == ended.exit_code, ended.output
    found = report_of(tmp_path / "run")
    assert (1.0, 0.0, 0) == tuple(found["pruned"][key] for key in ("compression", "sparsity", "channels_removed"))
    assert found["compaction"] is None
    dense, model = ((tmp_path / "run" / f"{name}.onnx").read_bytes() for name in ("dense", "model"))
    assert dense == model


STEP = ("--method", "magnitude", "--sparsity", 0.5, "--epochs", 0, "--finetune-epochs", 0, "--format", "onnx")


def test_raw_pixels_and_a_free_batch(user: Project, tmp_path: Path) -> None:
    ended = invoke(*user.words(*STEP, "--uint8-input", "--batch", "dynamic", "--out", tmp_path / "run"))
    assert 0 == ended.exit_code, ended.output
    session = onnxruntime.InferenceSession(tmp_path / "run" / "model.onnx")
    entry = session.get_inputs()[0]
    assert ("tensor(uint8)", [8, 8, 1]) == (entry.type, entry.shape[1:])
    images, labels = user_data(user)["test"]
    outputs = session.run(None, {entry.name: images[..., None]})[0]
    assert float((outputs.argmax(1) == labels).mean()) == report_of(tmp_path / "run")["pruned"]["accuracy"]


def test_a_fixed_batch_and_another_opset(user: Project, tmp_path: Path) -> None:
    ended = invoke(*user.words(*STEP, "--format", "sparse", "--batch", 4, "--opset", 20, "--out", tmp_path / "run"))
    assert 0 == ended.exit_code, ended.output
    for name in ("dense.onnx", "model.onnx", "model.sparse.onnx"):
        model = onnx.load(tmp_path / "run" / name)
        assert 4 == model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        assert 20 == model.opset_import[0].version
        found = {entry.key: entry.value for entry in model.metadata_props}
        assert list("0123") == json.loads(found["labels"])
        assert str(user.folder) not in str(model)


def test_given_weights_are_kept_by_zero_epochs(user: Project, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    model = scope["Net"]()
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    weights = ("--weights", tmp_path / "mine.safetensors", "--set", "train.epochs=0")
    ended = invoke(*user.words(*STEP, *weights, "--out", tmp_path / "run"))
    assert 0 == ended.exit_code, ended.output
    written = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "run" / "dense.onnx").graph.initializer
    }
    for name, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), written[name]), name
    assert 258 >= report_of(tmp_path / "run")["pruned"]["nonzero"] > 0


def test_a_metric_and_a_method_of_ones_own(user: Project, tmp_path: Path) -> None:
    (tmp_path / "scored.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(user.folder)!r})\n"
        "from data import factory as plain\n\n\n"
        "def factory():\n"
        '    return {**plain(), "metric": lambda outputs, labels: 0 * labels.float() + 0.25}\n'
    )
    words = user.words("--method", f"{user.folder / 'mine.py'}:Method", "--sparsity", 0.5, "--epochs", 0,
                       "--finetune-epochs", 0, "--format", "onnx", "--out", tmp_path / "run")  # fmt: skip
    words[words.index("--data") + 1] = f"{tmp_path / 'scored.py'}:factory"
    ended = invoke(*words)
    assert 0 == ended.exit_code, ended.output
    found = report_of(tmp_path / "run")
    assert "custom" == found["metric"]["name"]
    assert (0.25, 0.25) == (found["pruned"]["accuracy"], found["pruned"]["accuracy_torch"])
    assert -1.0 == found["recipe"]["prune"][0]["sign"]


def test_the_projects_own_models_package_is_the_one_imported(user: Project, server: Server, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "net.py").write_text(NET.replace("36, 12", "36, 7").replace("12, num", "7, num"))
    for name in ("data.py", "mine.py"):
        shutil.copy(user.folder / name, tmp_path / name)
    words = user.words(*STEP, "--method", "mine.py:Method", "--out", "run")
    words[words.index("--model") + 1] = "models.net:Net"
    words[words.index("--data") + 1] = "data.py:factory"
    ended = server.run(words, tmp_path)
    assert 0 == ended.code, ended.err
    assert 36 + 36 * 7 + 7 * 4 == report_of(tmp_path / "run")["dense"]["weights"]
