"""Built-in networks: their published sizes, names and arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from compress.cost import prunable, weight_count
from compress_models import SpecError, load, names
from compress_models.resnet import BasicBlock

# the table of Zhang et al., ECCV 2018: 34.8K, 307.2K, 884.7K, 663.5K, 442.4K, 37.7M, 16.8M, 4.1M
ALEXNET_LAYERS = {
    "conv1.weight": 34_848,
    "conv2.weight": 307_200,
    "conv3.weight": 884_736,
    "conv4.weight": 663_552,
    "conv5.weight": 442_368,
    "fc1.weight": 37_748_736,
    "fc2.weight": 16_777_216,
    "fc3.weight": 4_096_000,
}


@pytest.mark.parametrize(
    ("name", "weights", "parameters"),
    [
        ("lenet5", 430_500, 430_500 + 580),
        ("lenet300", 266_200, 266_200 + 410),
        ("resnet20", 268_336, 269_722),
        ("resnet32", 461_872, 464_154),
        ("resnet44", 655_408, 658_586),
        ("resnet56", 848_304 + 640, 853_018),
    ],
)
def test_published_sizes(name: str, weights: int, parameters: int) -> None:
    model = load(name)
    assert weights == weight_count(model)
    assert parameters == sum(p.numel() for p in model.parameters())


def test_alexnet_layer_by_layer() -> None:
    with torch.device("meta"):  # shapes only: 61 million numbers are not needed
        model = load("alexnet")
    sizes = {name: model.get_parameter(name).numel() for name in prunable(model)}
    assert sizes == ALEXNET_LAYERS
    assert tuple(model.get_submodule(f"conv{n}").groups for n in (2, 4, 5)) == (2, 2, 2)


@pytest.mark.parametrize("name", [name for name in names() if name != "alexnet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_takes_its_images(name: str, channels: int) -> None:
    size = 28 if name.startswith("lenet") else 32
    options = {"in_channels": channels, "num_classes": 7}
    model = load(name, options, defaults={"input_size": size}).eval()
    assert tuple(model(torch.rand(2, channels, size, size)).shape) == (2, 7)


def test_alexnet_takes_small_images_when_told_their_size() -> None:
    model = load("alexnet", {"num_classes": 3, "input_size": 67}).eval()
    assert tuple(model(torch.rand(1, 3, 67, 67)).shape) == (1, 3)


@pytest.mark.parametrize("name", ["lenet5", "lenet300"])
def test_activation_is_the_one_asked_for(name: str) -> None:
    x = torch.rand(2, 1, 28, 28)
    relu, sigmoid = load(name), load(name, {"activation": "sigmoid"})
    sigmoid.load_state_dict(relu.state_dict())
    assert not torch.equal(relu(x), sigmoid(x))
    with pytest.raises(SpecError, match="no activation relo; did you mean relu"):
        load(name, {"activation": "relo"})


def test_lenet5_is_the_formula() -> None:
    m = load("lenet5")
    x = torch.rand(3, 1, 28, 28)
    h = F.relu(F.max_pool2d(F.conv2d(x, m.conv1.weight, m.conv1.bias), 2))  # max and a monotone map commute
    h = F.relu(F.max_pool2d(F.conv2d(h, m.conv2.weight, m.conv2.bias), 2))
    h = F.relu(F.linear(h.reshape(3, 800), m.fc1.weight, m.fc1.bias))
    torch.testing.assert_close(F.linear(h, m.fc2.weight, m.fc2.bias), m(x), rtol=0, atol=0)


def test_resnet_has_the_public_names() -> None:
    names_found = list(load("resnet20").state_dict())
    assert names_found[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert {"layer1.0.conv1.weight", "layer3.2.bn2.running_var", "linear.weight"} <= set(names_found)
    assert not [name for name in names_found if "shortcut" in name]  # option A has no weights


def test_option_a_shortcut_by_hand() -> None:
    block = BasicBlock(2, 4, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)  # the residual branch is then 0 and the shortcut is left
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    out = block(x)
    zero = torch.zeros(2, 2)
    expected = torch.stack([zero, torch.tensor([[1.0, 3], [9, 11]]), torch.tensor([[17.0, 19], [25, 27]]), zero])
    torch.testing.assert_close(expected[None], out, rtol=0, atol=0)


def test_option_a_shortcut_is_exported_as_slices_and_a_pad() -> None:
    program = torch.export.export(BasicBlock(2, 4, stride=2).eval(), (torch.rand(1, 2, 4, 4),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    data_movement = {o for o in operators if "conv" not in o and "norm" not in o and "relu" not in o}
    assert {"aten.slice.Tensor", "aten.pad.default", "aten.add.Tensor"} == data_movement


def test_depth_must_be_6n_plus_2() -> None:
    with pytest.raises(SpecError, match="6n \\+ 2, got 21"):
        load("compress_models.resnet:CifarResNet", {"depth": 21})
