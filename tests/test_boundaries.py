"""Who may import whom, what stays unimported, and what a run leaves behind."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Server

ROOT = Path(__file__).parents[1]
SOURCES = {"compress": ROOT, "compress_exporters": ROOT / "exporters", "compress_models": ROOT / "models"}
HEAVY = ("torch", "onnxruntime", "pydantic", "matplotlib")

WRITERS = tuple(
    f"compress.{name}"
    for name in (
        "pipeline", "validation", "onnx_compaction", "conversion", "foreign_run", "exporting", "checkpoint_jobs",
        "targets.c", "targets.mcu", "targets._emulated",  # these compile what the format `c` wrote
        "targets.local", "targets._own_runtime",  # these run what the formats of other runtimes wrote
    )
)  # fmt: skip
"""The only parts of `compress` that know the exporters."""

UPWARDS = {
    "compress.train": (
        "compress.rounds",
        "compress.stages",
        "compress.pipeline",
        "compress.cli",
        "compress.validation",
    ),
    "compress.rounds": ("compress.stages", "compress.pipeline", "compress.cli", "compress.validation"),
    "compress.pipeline": ("compress.cli",),
    "compress.onnx_import": ("compress.onnx_compaction", "compress.compaction", "compress.pipeline", "compress.cli"),
    "compress.onnx_compaction": ("compress.pipeline", "compress.cli"),
}
"""Modules and what lies above them."""

LOWEST = (
    "compress.compaction",
    "compress.units",
    "compress.channel_units",
    "compress.channels",
    "compress.masks",
    "compress.scoring",
    "compress.splitting",
    "compress.surrogate",
    "compress.methods",
    "compress.method",
    "compress.budget",
    "compress.widths",
)
"""The parts that know nothing of training, nor of files."""

ABOVE_LOWEST = (
    "compress.train", "compress.rounds", "compress.stages", "compress.pipeline", "compress.validation", "compress.cli",
    "compress.recipe", "compress.recipe_text", "compress.report", "compress.run_directory", "compress.data",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the three packages."""
    found = {}
    for package, root in SOURCES.items():
        for file in (root / package).rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(source: str) -> Iterator[str]:
    """Every module that a source imports, inside functions too; not what only a type checker reads."""
    tree = ast.parse(source)
    typing_only = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    skipped = {inner for node in typing_only for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def breaches(sources: Mapping[str, str]) -> list[str]:
    """Imports that run against the order of the architecture."""
    found = []
    for module, source in sources.items():
        forbidden: list[str] = []
        if within(module, "compress_models"):
            forbidden += ["compress", "compress_exporters"]
        if within(module, "compress_exporters"):
            forbidden += ["compress", "compress_models"]
        if within(module, "compress") and module not in WRITERS:
            forbidden += ["compress_exporters"]
        if any(within(module, low) for low in LOWEST):
            forbidden += ABOVE_LOWEST
        forbidden += UPWARDS.get(module, ())
        found += [f"{module} imports {name}" for name in imports(source) for bad in forbidden if within(name, bad)]
    return found


def test_imports_run_one_way() -> None:
    assert [] == breaches({module: file.read_text() for module, file in modules().items()})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("compress_models.x", "import compress.errors"),
        ("compress_exporters.x", "def f():\n    from compress import errors"),
        ("compress.stages", "from compress_exporters import find"),
        ("compress.methods.x", "from compress.train import fit"),
        ("compress.compaction.x", "from compress import pipeline"),
        ("compress.train", "import compress.cli as c"),
    ],
)
def test_an_import_against_the_order_is_seen(module: str, source: str) -> None:
    assert 1 == len(breaches({module: source}))


def test_every_part_named_here_exists() -> None:
    assert {*LOWEST, *ABOVE_LOWEST, *UPWARDS, *WRITERS} <= set(modules())


LIGHT = (
    f"""
heavy = {HEAVY!r}
"""
    + """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
import compress
found = {"import": [name for name in heavy if name in sys.modules]}
from compress.cli import main
for words in (["--help"], ["--version"], ["methods"], ["models"], ["recipes"], ["prune-and-export", "--help"], []):
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            main(words)
    except SystemExit:
        pass
    found[" ".join(words) or "nothing"] = [name for name in heavy if name in sys.modules]
print(json.dumps(found))
"""
)


def test_help_and_lists_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {
        "import",
        "--help",
        "--version",
        "methods",
        "models",
        "recipes",
        "prune-and-export --help",
        "nothing",
    } == set(found)
    assert {} == {words: names for words, names in found.items() if names}


def test_a_run_leaves_nothing_in_the_users_home(server: Server, tmp_path: Path) -> None:
    """No telemetry, and no cache but the list of fonts that matplotlib keeps; the server has made a whole run."""
    assert 0 == server.run(["methods"], tmp_path).code
    left = {path for path in server.home.rglob("*") if path.is_file()}
    assert set() == {path for path in left if "matplotlib" not in path.parts}
    assert not list(tmp_path.iterdir())
