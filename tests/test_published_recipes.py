"""What recipes with published counts leave: multiply-accumulates to the digit, weights as the tables print them."""

import pytest
import torch

from compress import cost
from compress.budget import select
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups
from compress.recipe import Recipe
from compress.recipe_text import build, read
from compress.units import ElementUnits
from compress_models import input_shape, load

PFEC = {
    "vgg16-cifar10": (313_463_808, 206_279_680),
    "resnet56-cifar10-pfec-a": (125_485_696, 112_435_840),
    "resnet56-cifar10-pfec-b": (125_485_696, 90_907_264),
    "resnet110-cifar10-pfec-a": (252_887_680, 212_779_648),
    "resnet110-cifar10-pfec-b": (252_887_680, 155_124_352),
    "resnet34-imagenet-pfec-a": (3_663_761_408, 3_100_184_576),
    "resnet34-imagenet-pfec-b": (3_663_761_408, 2_782_269_440),
    "resnet34-imagenet-pfec-c": (3_663_761_408, 3_391_105_024),
}
"""Dense and left; Li et al. 2017, tables 1 and 2, print 2.06e8, 1.12e8, 9.09e7, 2.13e8, 1.55e8, 3.08e9, 2.76e9, 3.37e9.

Their ResNet-34 has 3.64e9 at first; of it 15.5, 24.2 and 7.5 % go.
"""

PUBLISHED_SHARES = {"resnet34-imagenet-pfec-a": 15.5, "resnet34-imagenet-pfec-b": 24.2, "resnet34-imagenet-pfec-c": 7.5}


@pytest.mark.parametrize("name", PFEC)
def test_what_a_pfec_recipe_leaves(name: str) -> None:
    recipe = build(read(name))
    (step,) = recipe.prune
    assert ("pfec", "channel", "sgd", 1e-3) == (step.method, step.units, recipe.train.optimizer, step.finetune.lr)
    assert ("constant", 20 if "imagenet" in name else 40) == (step.finetune.schedule, step.finetune.epochs)
    assert channels_left(recipe) == PFEC[name]


def channels_left(recipe: Recipe) -> tuple[int, int]:
    """Multiply-accumulates of the dense network, and what the first step's budget leaves of them."""
    model = load(recipe.model.name).eval()
    shape = input_shape(recipe.model.name)
    assert shape is not None
    values, positions = dict(model.named_parameters()), cost.positions(model, shape)
    groups = channel_groups(model, torch.zeros(2, *shape))
    units = ChannelUnits.of(groups, values, positions, cost.weight_count(model), cost.macs(model, shape))
    with torch.no_grad():
        keep = select(recipe.prune[0].budget, units, units.scores(values))
    return units.dense_macs, units.macs(keep)


@pytest.mark.parametrize(("name", "share"), PUBLISHED_SHARES.items())
def test_the_share_of_resnet34_is_the_published_one_but_for_its_rounding(name: str, share: float) -> None:
    dense, left = PFEC[name]
    assert share == pytest.approx(100 * (1 - left / dense), abs=0.15)


def test_the_gdp_recipe_takes_35_3_percent_of_the_operations_of_vgg16() -> None:
    recipe = build(read("vgg16-cifar10-gdp"))
    assert ("gdp", "channel", 202_811_000) == (
        recipe.prune[0].method,
        recipe.prune[0].units,
        recipe.prune[0].budget.macs,
    )
    dense, left = channels_left(recipe)
    assert 313_463_808 == dense
    assert 64.7 == round(100 * 202_811_000 / dense, 2)
    assert 0.63 * dense < left <= 202_811_000


def weights_of(recipe: Recipe) -> dict[str, int]:
    """Prunable weights per layer."""
    with torch.device("meta"):
        model = load(recipe.model.name)
    return {name.removesuffix(".weight"): model.get_parameter(name).numel() for name in cost.prunable(model)}


def counts_of(recipe: Recipe) -> dict[str, int]:
    """Weights that stay per layer, from counts or fractions."""
    keep, weights = recipe.prune[0].budget.keep, weights_of(recipe)
    assert keep is not None
    assert weights.keys() == keep.keys()
    return {name: n if isinstance(n, int) else round(n * weights[name]) for name, n in keep.items()}


def test_lenet5_keeps_the_admm_papers_counts() -> None:
    """71.2x: 100 + 2,000 + 3,600 + 350 of 430,500; selected to the weight."""
    recipe = build(read("lenet5-mnist-admm-paper"))
    counts = {"conv1": 100, "conv2": 2000, "fc1": 3600, "fc2": 350}
    assert counts == counts_of(recipe)
    assert {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5000} == weights_of(recipe)
    assert 71.2 == round(430_500 / sum(counts.values()), 1)
    values = dict(load("lenet5").named_parameters())
    shapes = {f"{layer}.weight": values[f"{layer}.weight"].shape for layer in counts}
    units = ElementUnits(shapes, dict.fromkeys(shapes, 1), 430_500, 430_500)
    with torch.no_grad():
        keep = select(recipe.prune[0].budget, units, units.scores(values))
    assert counts == {layer: int(kept.sum()) for layer, kept in keep.items()}


ALEXNET = {"conv1": 81, "conv2": 20, "conv3": 19, "conv4": 20, "conv5": 20, "fc1": 2.8, "fc2": 5.9, "fc3": 9.3}
"""Per cent of the weights that stay for 21x, as Zhang et al. 2018 print them; 60.9M to 2.9M in all."""


def test_alexnet_keeps_what_the_admm_papers_table_does() -> None:
    recipe = build(read("alexnet-imagenet"))
    weights, counts = weights_of(recipe), counts_of(recipe)
    assert (60_954_656, 2_908_900) == (sum(weights.values()), sum(counts.values()))
    assert 21 == round(60_954_656 / 2_908_900)
    printed = {name: round(100 * counts[name] / weights[name], 0 if ALEXNET[name] > 10 else 1) for name in counts}
    assert ALEXNET == printed


def test_alexnet_for_computation_keeps_a_thirteenth_of_the_convolutions() -> None:
    """13.4x in the convolutions, of which conv1 keeps its 28.19K; the rest is given evenly, the table being unknown."""
    recipe = build(read("alexnet-imagenet-conv"))
    weights, counts = weights_of(recipe), counts_of(recipe)
    convolutions = [name for name in counts if name.startswith("conv")]
    dense, left = (sum(each[name] for name in convolutions) for each in (weights, counts))
    assert (2_332_704, 13.4) == (dense, round(dense / left, 1))
    assert (28_190, 173_873) == (counts["conv1"], left)
    whole = counts_of(build(read("alexnet-imagenet")))
    assert all(counts[name] == whole[name] for name in ("conv1", "fc1", "fc2", "fc3"))
