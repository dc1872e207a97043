"""The wheel, built, unpacked, and used with nothing of the checkout on the path."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import FAST, report_of

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("build", "hatchling")),
    reason="build and hatchling, of the [dev] extra, are not installed",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, cwd: Path, code: str) -> str:
    """Standard output of a program that sees the wheel's packages first."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-c", code]
    done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_it_holds_everything_that_is_needed(installed: Path) -> None:
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert 4 == sum(name.startswith("compress/data/mnist/") and name.endswith(".gz") for name in names)
    shipped = {path.name for path in (ROOT / "models" / "compress_models" / "recipes").glob("*.toml")}
    assert shipped == {Path(name).name for name in names if name.startswith("compress_models/recipes/")}
    for package in ("compress", "compress_exporters", "compress_models"):
        assert f"{package}/py.typed" in names
    for template in ("report.html.j2", "style.css.j2"):
        assert f"compress/report/{template}" in names
    templates = ROOT / "compress" / "app" / "templates"
    for file in (path for path in templates.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        assert str(file.relative_to(ROOT)) in names
    assert {"compress/targets/web.html", "compress/targets/once.c"} <= set(names)
    assert not [name for name in names if "test" in Path(name).parts[0] or name.endswith(".pyc")]


def test_it_installs_three_packages_and_one_command(installed: Path) -> None:
    top = {path.name for path in installed.iterdir()}
    packages = {name for name in top if not name.endswith(".dist-info")}
    assert {"compress", "compress_exporters", "compress_models"} == packages
    information = next(installed.glob("*.dist-info"))
    assert "compress = compress.cli:main" in (information / "entry_points.txt").read_text()
    assert "Name: compress-edge" in (information / "METADATA").read_text()
    assert {"LICENSE", "NOTICE"} <= {path.name for path in information.rglob("*")}


RUN = f"""
import json, sys
import compress, compress_exporters, compress_models
from compress.data import load
from compress.cli import main

where = [module.__file__ for module in (compress, compress_exporters, compress_models)]
digits = load("mnist")
print(json.dumps([where, len(digits.train) + len(digits.held_out), len(digits.test)]))
sys.stdout.flush()
fast = {FAST!r}
words = ["prune-and-export", "lenet5-mnist", "--data", "synthetic", "--format", "onnx", "--out", "run", *fast]
small = ["data.held_out=0.9", "train.epochs=1", "prune.0.epochs=1", "prune.0.finetune.epochs=0"]
small += ["prune.1.epochs=0", "prune.1.finetune.epochs=0"]
sys.exit(main([*words, *(word for setting in small for word in ("--set", setting))]))
"""


def test_its_default_recipe_runs_and_its_digits_load(installed: Path, tmp_path: Path) -> None:
    said = python(installed, tmp_path, RUN)
    first = said.splitlines()[0]
    assert f'"{installed}/compress/__init__.py"' in first
    assert 3 == first.count(str(installed))
    assert first.endswith("60000, 10000]")
    found = report_of(tmp_path / "run")
    assert "passed" == found["status"]
    assert 60 <= found["pruned"]["compression"]
