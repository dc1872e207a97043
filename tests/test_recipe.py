"""Recipes: read, overridden, checked, written out; and the built-in ones run."""

import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress import cost
from compress.builtin_recipes import builtin
from compress.errors import UsageError
from compress.recipe_text import build, override, parse_assignment, read
from compress.units import layer_name
from compress_models import load
from tests.conftest import Project, Server

NAMES = list(builtin())


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_recipe_survives_being_written_and_read(name: str) -> None:
    recipe = build(read(name))
    assert recipe == build(tomllib.loads(recipe.to_toml()))
    assert recipe.prune
    assert builtin()[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_recipe_names_layers_that_its_model_has(name: str) -> None:
    recipe = build(read(name))
    with torch.device("meta"):
        model = load(recipe.model.name, recipe.model.options)
    layers = {layer_name(weight) for weight in cost.prunable(model)}
    assert {layer for step in recipe.prune for layer in step.budget.keep or ()} <= layers


SMOKE = {
    "lenet5-mnist": ("like_mnist", 2),
    "lenet5-mnist-admm-paper": ("like_mnist", 1),
    "lenet5-mnist-deep-compression": ("like_mnist", 2),
    "lenet5-mnist-padmm": ("like_mnist", 2),
    "lenet5-mnist-310x": ("like_mnist", 2),
    "lenet5-mnist-padmm-sigmoid": ("like_mnist", 2),
    "lenet300-mnist-80x": ("like_mnist", 1),
    "lenet300-mnist-lottery": ("like_mnist", 1),
    "lenet300-mnist-padmm": ("like_mnist", 1),
    "mlp-mnist": ("like_mnist", 1),
    "resnet20-cifar10": ("like_cifar", 1),
    "resnet20-cifar10-winograd": ("like_cifar", 1),
    "resnet56-cifar10": ("like_cifar", 1),
    "vgg16-cifar10": ("like_cifar", 1),
    "vgg16-cifar10-gdp": ("like_cifar", 1),
}
"""The user's data set that stands in for the recipe's, and the recipe's steps."""

COUNTED = {f"resnet{depth}-cifar10-pfec-{letter}" for depth in (56, 110) for letter in "ab"}
"""The method of vgg16-cifar10 on networks that others run; test_published_recipes checks what their counts leave."""

LIKE = {"lenet5-mnist-400x", "lenet300-mnist-padmm-sigmoid"}
"""The steps of another recipe with another number or activation."""

LARGE_IMAGES = {"alexnet-imagenet", "alexnet-imagenet-conv", *(f"resnet34-imagenet-pfec-{letter}" for letter in "abc")}


def test_every_recipe_is_run_here_but_those_for_large_images() -> None:
    assert LARGE_IMAGES == {*NAMES} - {*SMOKE} - COUNTED - LIKE


@pytest.mark.parametrize("name", SMOKE)
def test_a_built_in_recipe_runs_to_the_end_of_its_last_step(
    name: str, user: Project, server: Server, tmp_path: Path
) -> None:
    """One epoch of everything on 30 images; killed where the export would begin, which other tests run."""
    data, steps = SMOKE[name]
    words = ["prune-and-export", name, "--data", f"{user.folder / 'data.py'}:{data}", "--out", "run"]
    settings = ["data.held_out=10", "train.batch_size=15", f"train.epochs={int(data == 'like_mnist')}"]
    for number in range(steps):
        settings += [f"prune.{number}.epochs=1", f"prune.{number}.finetune.epochs=0", f"prune.{number}.rounds=1"]
    words += [word for setting in settings for word in ("--set", setting)]
    ended = server.run(words, tmp_path, at="open .artifacts.json.part", do="SIGKILL")
    assert -9 == ended.code, ended.err
    last = torch.load(tmp_path / "run" / "checkpoints" / f"compact-{steps - 1}.pt", weights_only=True)["payload"]
    assert 0 < last["sparsity"] < 1
    assert last["compaction"]["max_error_relative"] < 1e-9


STEPS = [{"budget": {"sparsity": 0.5}}, {"budget": {"macs": 0.5}, "units": "channel"}]


def test_overrides_reach_steps_and_sections() -> None:
    changed = {"prune.1.budget.macs": 0.25, "prune.0.rho": 0.5, "model.name": "lenet300", "seed": 3}
    recipe = build(override({"prune": STEPS}, changed))
    assert 0.25 == recipe.prune[1].budget.macs
    assert 0.5 == recipe.prune[0].knobs["rho"]
    assert ("lenet300", 3) == (recipe.model.name, recipe.seed)
    assert {"macs": 0.5} == STEPS[1]["budget"]  # what was read stays as it was


def test_knobs_left_out_are_those_written_out() -> None:
    """A recipe that spells a method's defaults is the same recipe."""
    short = build({"prune": STEPS})
    assert "rho" in short.to_dict()["prune"][0]
    assert short == build(short.to_dict())
    assert short != build(override(short.to_dict(), {"prune.0.rho": 123.0}))


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        build({}).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=3", 3), ("k=0.5", 0.5), ("k=true", True), ("k=[1, 2]", [1, 2]), ("k=a=b", "a=b"), ("k=", ""),
        ("k={a=1}", {"a": 1}), ("k=net.py:Net", "net.py:Net"), ('k="3"', "3"),
    ],
)  # fmt: skip
def test_assignments(text: str, value: object) -> None:
    assert ("k", value) == parse_assignment(text)


words = st.text(string.ascii_lowercase + "0._-", max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from([
    "train", "train.lr", "prune", "prune.0", "prune.0.budget", "prune.0.budget.keep", "prune.0.finetune.lr",
    "prune.0.method", "prune.0.rho", "export.batch", "export.formats", "model.options", "data.mean",
    "validate.gates.min_speedup", "seed", "device",
])  # fmt: skip


@given(keys | words, values)
def test_whatever_is_assigned_gives_a_recipe_or_one_line(key: str, value: Any) -> None:
    said = ""
    try:
        recipe = build(override({"prune": STEPS}, {key: value}))
        assert build(tomllib.loads(recipe.to_toml())).to_toml() == recipe.to_toml()
    except UsageError as error:
        said = str(error)
    assert said.isprintable()
