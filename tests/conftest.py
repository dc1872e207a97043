"""The real command line on a tiny project of a user: in this process, or in forked ones that can be killed.

Run as a program, this file is the server that the forked ones come from: torch is imported once, and each
command still gets a process of its own, with its own signals, limits, working directory and modules.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

NET = '''
import sys
import torch
from torch import nn


class Net(nn.Module):
    """A convolution and two linear layers on 1x8x8 images, 4 classes."""

    def __init__(self, num_classes=4):
        super().__init__()
        sys.audit("test.build")
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.fc1 = nn.Linear(36, 12)
        self.fc2 = nn.Linear(12, num_classes)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))
'''

DATA = '''
import itertools
import os
import sys
import numpy
from torch.nn.functional import cross_entropy

calls = itertools.count(1)


def loss(outputs, labels):
    """Not a number from the call that POISON names."""
    sys.audit("test.step")
    poisoned = next(calls) >= int(os.environ.get("POISON", 10**9))
    return cross_entropy(outputs, labels) * (float("nan") if poisoned else 1.0)


def part(count, generator):
    """A bright quadrant tells the class."""
    labels = generator.integers(4, size=count)
    images = generator.integers(0, 120, size=(count, 8, 8), dtype=numpy.uint8)
    for image, label in zip(images, labels):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 120
    return images, labels


def noise(*shape):
    """Ten classes of pixels that mean nothing: 40 images to train on, 10 to test."""
    generator = numpy.random.default_rng(1)
    parts = {"train": 40, "test": 10}
    return {
        name: (generator.integers(0, 256, size=(count, *shape), dtype=numpy.uint8), numpy.arange(count) % 10)
        for name, count in parts.items()
    }


def like_mnist():
    return noise(28, 28)


def like_cifar():
    return noise(32, 32, 3)


def factory():
    generator = numpy.random.default_rng(0)
    return {"train": part(96, generator), "test": part(40, generator), "loss": loss}
'''

METHOD = '''
from dataclasses import dataclass
from compress.budget import select
from compress.method import Outcome, PruningMethod


@dataclass(frozen=True)
class Method(PruningMethod):
    """Drops the weights of largest magnitude: a method nobody ships."""

    sign: float = -1.0

    def finish(self, view, state):
        scores = {name: self.sign * score for name, score in view.units.scores(view.values).items()}
        return Outcome(view.units.masks(select(view.budget, view.units, scores)))
'''

FAST = tuple(
    [
        "--set",
        "data.held_out=0.25",
        "--set",
        "train.batch_size=24",
        "--set",
        "train.epochs=2",
        "--set",
        "validate.seconds=0.02",
        "--set",
        "validate.repeats=3",
        "--set",
        "validate.warm_up=1",
    ]
)
"""Two epochs of three steps, and hardly any time for the latency."""


def write_project(folder: Path) -> None:
    for name, source in (("net.py", NET), ("data.py", DATA), ("mine.py", METHOD)):
        (folder / name).write_text(source)


@dataclass(frozen=True)
class Project:
    """A user's project (net.py, data.py, mine.py) as words of a command line."""

    folder: Path

    def words(self, *more: object) -> list[str]:
        """prune-and-export of the project's model on its data, small; `more` comes last and wins."""
        spec = ["--model", f"{self.folder / 'net.py'}:Net", "--data", f"{self.folder / 'data.py'}:factory"]
        return ["prune-and-export", *spec, *FAST, *map(str, more)]


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return Project(folder)


def invoke(*words: object) -> Result:
    """The command line in this process."""
    from compress.cli import main

    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(main, [str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, before)


def report_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return found


@dataclass(frozen=True)
class Ended:
    """How a forked command ended; a signal's number is negative, as in `subprocess`."""

    code: int
    out: str
    err: str
    events: list[str]


class Server:
    """Runs command lines, each in a fresh fork; `home` is theirs, and empty at first."""

    def __init__(self, home: Path) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL", "ORT_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**inherited, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        )

    def run(
        self, words: list[str], cwd: Path, *, at: str = "", do: str = "", nth: int = 1, largest: int | None = None,
        env: dict[str, str] | None = None,
    ) -> Ended:  # fmt: skip
        """Run a command line to its end.

        Args:
            words: after ``compress``.
            cwd: working directory; what happens to files below it are events.
            at: pattern of the event at which something is done.
            do: what: a signal's name, or ENOSPC for a disk that is full from then on.
            nth: which of the matching events.
            largest: bytes after which every write to a file fails.
            env: environment to add.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"words": words, "cwd": str(cwd), "at": at, "do": do, "nth": nth, "largest": largest, "env": env or {}}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Commands that may be killed, limited or run elsewhere."""
    started = Server(tmp_path_factory.mktemp("home"))
    yield started
    started.close()


def _serve() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as warm:  # what is imported on first use is imported before the forks
        write_project(Path(warm))
        ended = invoke(*Project(Path(warm)).words("--method", "admm", "--sparsity", 0.5, "--out", Path(warm) / "run"))
        assert ended.exit_code == 0, ended.output
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        asked = json.loads(line)
        with tempfile.TemporaryDirectory() as scratch:
            process = os.fork()
            if not process:
                _run(asked, Path(scratch))
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            texts = {name: (Path(scratch) / name).read_text() for name in ("out", "err", "events")}
        answers.write(json.dumps({"code": status, **texts, "events": texts["events"].splitlines()}) + "\n")
        answers.flush()


def _run(asked: dict[str, Any], scratch: Path) -> None:
    """One command line; never returns."""
    code = 70
    try:
        for number, name in ((0, os.devnull), (1, scratch / "out"), (2, scratch / "err")):
            opened = os.open(name, os.O_RDWR | os.O_CREAT)
            os.dup2(opened, number)
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        _watch(asked, os.open(scratch / "events", os.O_WRONLY | os.O_CREAT))
        if asked["largest"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        # a shell starts background jobs with it ignored, and the tests may be one
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from compress.cli import main

        main(asked["words"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(asked: dict[str, Any], log: int) -> None:
    """Log every event that changes a file below the working directory, and act on the one asked for."""
    here, wanted, seen = asked["cwd"] + os.sep, re.compile(asked["at"] or "$^"), 0
    full = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen, full
        if event.startswith("test.") or event == "subprocess.Popen":
            text = event
        elif event in ("open", "os.rename"):
            path = args[1] if event == "os.rename" else args[0]
            writes = event == "os.rename" or args[2] & (os.O_WRONLY | os.O_RDWR)
            if not writes or isinstance(path, int) or not os.path.abspath(os.fspath(path)).startswith(here):
                return
            text = f"{event.removeprefix('os.')} {os.path.basename(os.fspath(path))}"
        else:
            return
        os.write(log, (text + "\n").encode())
        seen += bool(wanted.search(text))
        if full or (seen == asked["nth"] and wanted.search(text)):
            if asked["do"] == "ENOSPC":
                full = True
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.kill(os.getpid(), getattr(signal, asked["do"]))

    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve()
