"""One spelling for what a user brings, and one clear line when it is wrong."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress_models import SpecError, load, resolve
from compress_models.spec import source_of


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project, as the working directory; imports made there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_a_file_is_imported_once_with_its_neighbours_and_the_working_directory(project: Path) -> None:
    (project / "nets").mkdir()
    (project / "nets" / "neighbour.py").write_text("WIDTH = 3\n")
    (project / "shared_code.py").write_text("DEPTH = 4\n")
    (project / "nets" / "net.py").write_text(
        "from neighbour import WIDTH\n"
        "def make():\n"
        "    from shared_code import DEPTH\n"  # imported late, when the path is searched last
        "    return WIDTH, DEPTH\n"
        "class Holder:\n"
        "    make = staticmethod(make)\n"
    )
    make = resolve("nets/net.py:make")
    assert make() == (3, 4)
    assert make is resolve(str(project / "nets" / "net.py") + ":Holder.make")


def test_import_leaves_the_search_order_alone(project: Path) -> None:
    (project / "net.py").write_text("def make(): ...\n")
    before = list(sys.path)
    resolve("net.py:make")
    assert before == sys.path[: len(before)]


def test_the_users_models_package_is_never_shadowed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "net.py").write_text("def make(): return 'theirs'\n")
    # the worst case: a namespace package called models, and a regular one of the same name, both installed
    shadow = tmp_path / "site"
    (shadow / "models" / "compress_models").mkdir(parents=True)
    (shadow / "other" / "models").mkdir(parents=True)
    (shadow / "other" / "models" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    source = Path(sys.modules["compress_models"].__file__ or "").parent.parent
    paths = os.pathsep.join(str(p) for p in (shadow, shadow / "other", source))
    code = "from compress_models import resolve; print(resolve('models.net:make')())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "theirs", done.stderr


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("lenet6", "model lenet6: no built-in of this name; did you mean lenet5.*path/to/file.py:Name"),
        ("net.py", "no built-in of this name.*path/to/file.py:Name"),
        ("nett.py:Net", "no file .*nett.py; in that folder: did you mean net.py"),
        ("net.py:Nett", "net.py has no Nett; did you mean Net"),
        ("net.py:NUMBER", "NUMBER is a int; name a class or a function"),
        ("nowhere.net:Net", "no module nowhere in .* or installed"),
        ("os.nothing:Net", "no module os.nothing in"),
        (
            "needs.py:Net",
            r"needs.py, line 2: `import not_there_at_all`: ModuleNotFoundError: No module",
        ),
        ("needs:Net", r"needs.py, line 2: `import not_there_at_all`: ModuleNotFoundError"),
        ("broken.py:Net", r"broken.py, line 1: `def \(:`: SyntaxError"),
        ("script.py:Net", r"script.py, line 2: `sys.exit\(3\)`: SystemExit: 3"),
        ("net.py:fails", r"could not be built: .*net.py, line 7: `torch.nn.Conv2d\('x', 1, 1\)`: TypeError"),
        ("net.py:NUMBERS", "returned a list; it must return a torch.nn.Module"),
        ("net.py:BUILT", "is a module already built"),
        ("net.py:Net.nothing", "net.py has no Net.nothing"),
    ],
)
def test_errors_are_one_line_with_the_reason(project: Path, spec: str, line: str) -> None:
    (project / "net.py").write_text(
        "import torch\n"
        "NUMBER = 3\n"
        "def NUMBERS(): return [1]\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(1, 1)\n"
        "def fails():\n"
        "    torch.nn.Conv2d('x', 1, 1)\n"
        "BUILT = Net()\n"
    )
    (project / "needs.py").write_text("NUMBER = 3\nimport not_there_at_all\n")
    (project / "broken.py").write_text("def (:\n")
    (project / "script.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SpecError, match=line) as caught:
        load(spec)
    assert "\n" not in str(caught.value)


def test_a_failed_import_is_tried_again(project: Path) -> None:
    (project / "later.py").write_text("import missing_neighbour_of_later\ndef make(): return 1\n")
    with pytest.raises(SpecError):
        resolve("later.py:make")
    (project / "missing_neighbour_of_later.py").write_text("")
    assert resolve("later.py:make")() == 1


def test_the_source_of_a_partial_a_cached_function_and_a_callable_object_is_found() -> None:
    here = Path(__file__)

    def factory(width: int = 1) -> int:
        return width

    class Callable:
        def __call__(self) -> int:
            return 1

    for thing in (factory, functools.partial(factory, 2), functools.lru_cache(factory), Callable()):
        assert here == source_of(thing)
    assert source_of(len) is None
