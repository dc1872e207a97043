"""What can be known to be wrong is said before anything is trained."""

from pathlib import Path

import pytest

from compress.errors import RunError
from tests.conftest import Project, invoke

MODELS = """
from torch import nn


def linear(num_classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def frozen(num_classes=4):
    class Twice(nn.Module):
        def forward(self, x):
            return x.flatten(1).sort().values

    return nn.Sequential(nn.Conv2d(1, 4, 3), Twice(), nn.Linear(144, num_classes))
"""

CHANNELS = ("--method", "magnitude", "--units", "channel")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "models.py"
    file.write_text(MODELS)
    return file


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is an error."""

    def dense(run: object) -> None:
        raise RunError("the dense training began")

    monkeypatch.setattr("compress.stages.dense", dense)


def refused(words: list[str]) -> str:
    """The one line that a command is refused with."""
    ended = invoke(*words)
    assert 2 == ended.exit_code, ended.output
    (line,) = ended.stderr.splitlines()
    return line


@pytest.mark.parametrize("factory", ["linear", "frozen"])
@pytest.mark.parametrize("budget", [("--sparsity", 0.5), ("--latency-budget", "0.5x")])
@pytest.mark.usefixtures("untrained")
def test_a_network_without_removable_channels(
    factory: str, budget: tuple[object, ...], user: Project, models: Path, tmp_path: Path
) -> None:
    words = user.words(*CHANNELS, *budget, "--model", f"{models}:{factory}", "--out", tmp_path / "run")
    assert "the network has no channel that can be removed exactly; see compress inspect" in refused(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--macs", "0.02"], "ask for less"),
        (["--macs", "0.3", "--round-channels", "4"], "round_channels"),
        (["--macs", "0.5", "--set", "prune.0.budget={keep={fc1=13}}"], "the layer has 12 channels"),
        (["--macs", "0.5", "--set", "prune.0.budget={keep={fc2=2}}"], "keep names no layer 'fc2'"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_a_budget_that_channels_cannot_meet(words: list[str], said: str, user: Project, tmp_path: Path) -> None:
    assert said in refused(user.words(*CHANNELS, *words, "--out", tmp_path / "run"))


def test_what_is_right_is_trained(user: Project, tmp_path: Path, untrained: None) -> None:
    ended = invoke(*user.words(*CHANNELS, "--macs", 0.5, "--out", tmp_path / "run"))
    assert "the dense training began" in ended.stderr, ended.output
