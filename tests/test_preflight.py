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


def transposed(num_classes=4):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(128, num_classes))


class unread(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv, self.cells, self.fc = nn.Conv2d(1, 4, 3), nn.GRU(4, 5), nn.Linear(5, num_classes)

    def forward(self, x):
        return self.fc(self.cells(self.conv(x).flatten(2).permute(2, 0, 1))[0][-1])
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


SPARSE = ("--sparsity", 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "retention", *SPARSE, "--set", "prune.0.optimiser=scores"], "set epochs = 1 or more"),
        (["--method", "gdp", *SPARSE, "--epochs", 0], "gdp ranks by gradients, but the step has no epoch"),
        (["--method", "taylor", *SPARSE, "--epochs", 0], "set epochs = 1 or more"),
        (["--method", "snip", *SPARSE, "--epochs", 0], "set epochs = 1 or more"),
        (
            ["--method", "lc", *SPARSE, "--set", "prune.0.alpha=0.1"],
            "found both (sparsity 0.5; alpha = 0.1): set alpha",
        ),
        (["--method", "padmm", *SPARSE, "--set", "prune.0.lam=0.1"], "found both (sparsity 0.5; lam = 0.1): set lam"),
    ],
)
def test_what_the_recipe_tells_is_refused_before_the_data_are_loaded(
    words: list[str], said: str, user: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*spec: object, **how: object) -> None:
        raise RunError("the data were loaded")

    monkeypatch.setattr("compress.pipeline.load", load)
    assert said in refused(user.words(*words, "--out", tmp_path / "run"))
    right = invoke(*user.words("--method", words[1], *SPARSE, "--out", tmp_path / "run"))
    assert "the data were loaded" in right.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "slimming", "--units", "channel"], "slimming ranks channels by the scale"),
        (["--method", "ista", "--units", "channel"], "add batch normalisation"),
        (["--method", "thinet", "--units", "channel", "--model", "{models}:unread"], "no convolution or linear layer"),
        (["--method", "thinet", "--units", "channel", "--model", "{models}:transposed"], "choose another method"),
        (["--method", "admm", "--set", "prune.0.distill=0.5"], "set distill = 0"),
        (["--method", "admm", "--set", "prune.0.finetune.distill=0.5"], "the data brings its own loss"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_what_the_network_and_the_data_tell_is_refused_before_the_training(
    words: list[str], said: str, user: Project, models: Path, tmp_path: Path
) -> None:
    words = [word.replace("{models}", str(models)) for word in words]
    assert said in refused(user.words(*words, *SPARSE, "--out", tmp_path / "run"))


def test_a_later_steps_method_is_asked_as_well(user: Project, tmp_path: Path, untrained: None) -> None:
    steps = ['method = "magnitude"', 'method = "slimming"\nunits = "channel"']
    (tmp_path / "steps.toml").write_text("".join(f"[[prune]]\nbudget = {{ macs = 0.5 }}\n{step}\n" for step in steps))
    assert "slimming ranks" in refused(user.words(tmp_path / "steps.toml", "--out", tmp_path / "run"))
