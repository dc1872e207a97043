"""The multiply-accumulates that recipes with published per-layer counts leave, to the digit."""

import pytest
import torch

from compress import cost
from compress.budget import select
from compress.channel_units import ChannelUnits
from compress.compaction import channel_groups
from compress.recipe_text import build, read
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
    model = load(recipe.model.name).eval()
    shape = input_shape(recipe.model.name)
    assert shape is not None
    values, positions = dict(model.named_parameters()), cost.positions(model, shape)
    groups = channel_groups(model, torch.zeros(2, *shape))
    units = ChannelUnits.of(groups, values, positions, cost.weight_count(model), cost.macs(model, shape))
    with torch.no_grad():
        keep = select(step.budget, units, units.scores(values))
    assert (units.dense_macs, units.macs(keep)) == PFEC[name]


@pytest.mark.parametrize(("name", "share"), PUBLISHED_SHARES.items())
def test_the_share_of_resnet34_is_the_published_one_but_for_its_rounding(name: str, share: float) -> None:
    dense, left = PFEC[name]
    assert share == pytest.approx(100 * (1 - left / dense), abs=0.15)
