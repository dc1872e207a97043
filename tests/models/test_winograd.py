"""Winograd convolutions: the same function, the multiplications by hand, and what may be pruned."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from compress import cost
from compress.compaction import compact
from compress.units import ElementUnits
from compress_exporters import Request
from compress_exporters.onnx import export
from compress_models import SpecError, WeightsError, input_shape, load, load_weights
from compress_models.winograd import WinogradConv2d, transform, transformed
from tests.support import TinyNet

B = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]).double().T
A = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]]).double().T
"""As Lavin and Gray print them: V = B^T d B, Y = A^T M A."""


def largest_difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected, found = one(x), other(x)
    assert expected.shape == found.shape
    return float((expected - found).abs().max())


def first(total: int, kept: int) -> Tensor:
    """The first so many units stay."""
    return torch.arange(total) < kept


@given(
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(3, 11), st.integers(3, 11)),
    padding=st.sampled_from([0, 1, (0, 1), "same", "valid"]),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_it_is_the_same_function(
    channels: tuple[int, int], size: tuple[int, int], padding: int | tuple[int, int] | str, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(*channels, 3, padding=padding, bias=bias).double()
    x = torch.randn(2, channels[0], *size).double()
    assert largest_difference(conv, WinogradConv2d(conv), x) < 1e-12


def test_a_changed_weight_is_another_function() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    form = WinogradConv2d(conv)
    with torch.no_grad():
        form.products.weight[17] += 1e-3
    assert largest_difference(conv, form, torch.randn(1, 2, 6, 6).double()) > 1e-4


def test_the_transformed_kernel_by_hand() -> None:
    """G g G^T of a kernel that is 4 in its upper left corner: the outer product of G's first column with itself."""
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 0, 0] = 4.0
    expected = torch.tensor([[4.0, 2, 2, 0], [2, 1, 1, 0], [2, 1, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(expected, transformed(kernel).view(4, 4))


def test_the_multiplications_by_hand() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    form = WinogradConv2d(conv)
    assert 8 * 8 * 9 * 2 * 3 == 3456 == cost.macs(conv, (2, 8, 8))
    assert 16 * 16 * 2 * 3 == 1536 == cost.macs(form, (2, 8, 8))  # 16 tiles of 16 products
    assert 2.25 == 3456 / 1536
    assert 5 * 5 * 16 * 2 * 3 == cost.macs(form, (2, 9, 9))  # what is cut off from an odd output is computed
    assert ("products.weight",) == cost.prunable(form)
    assert [] == list(form.buffers())


def test_a_zeroed_product_is_a_multiplication_less_at_every_tile() -> None:
    form = WinogradConv2d(nn.Conv2d(2, 3, 3, padding=1))
    positions = cost.positions(form, (2, 8, 8))
    units = ElementUnits({"products.weight": form.products.weight.shape}, positions, 96, 1536)
    assert {"products": 96} == units.blocks
    keep = {"products": first(96, 24)}
    assert 24 * 16 == 384 == units.macs(keep)
    with torch.no_grad():
        form.products.weight.mul_(units.masks(keep)["products.weight"])
    assert 24 == cost.nonzero_count(form)


def test_relu_on_the_transformed_input_by_hand() -> None:
    """Y = A^T (U * max(B^T d B, 0)) A of a single tile, with the matrices as they are printed."""
    conv = nn.Conv2d(2, 1, 3, bias=False).double()
    form = WinogradConv2d(conv, relu=True)
    d = torch.randn(1, 2, 4, 4).double()
    products = form.products.weight.view(4, 4, 2).permute(2, 0, 1) * (B.T @ d[0] @ B).clamp_min(0)
    torch.testing.assert_close(A.T @ products.sum(0) @ A, form(d)[0, 0], rtol=0, atol=1e-12)


def test_relu_moves_from_in_front_of_a_convolution_past_a_pooling() -> None:
    first, second, third = (nn.Conv2d(*channels, 3) for channels in ((2, 3), (3, 4), (4, 4)))
    net = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.AvgPool2d(2), third)
    moved = transform(net, "winograd")
    assert [False, True, False] == [m.relu for m in moved if isinstance(m, WinogradConv2d)]
    assert ["Identity", "ReLU"] == [type(moved[position]).__name__ for position in (1, 4)]
    assert isinstance(net[1], nn.ReLU)


def test_vgg_moves_all_relus_but_the_last_and_the_classifiers() -> None:
    with torch.device("meta"):
        model = load("winograd", {"base": "vgg16", "relu": "winograd"})
    assert 12 == sum(m.relu for m in model.modules() if isinstance(m, WinogradConv2d))
    assert 2 == sum(isinstance(m, nn.ReLU) for m in model.modules())


@pytest.mark.parametrize("net", [TinyNet, lambda: nn.Conv2d(1, 2, 3)])
def test_a_transformed_copy_is_the_same_network(net: type[nn.Module]) -> None:
    model = net().double().eval()
    before = list(model.state_dict())
    form = transform(model)
    assert not form.training
    assert largest_difference(model, form, torch.randn(3, 1, 8, 8).double()) < 1e-12
    assert before == list(model.state_dict())


def test_names_stay_and_what_is_no_such_convolution_stays() -> None:
    with torch.device("meta"):
        plain, form = load("resnet20"), load("winograd", {"num_classes": 5}, defaults={"in_channels": 1})
    renamed = [name.replace(".products", "") for name in form.state_dict()]
    assert list(plain.state_dict()) == renamed
    strided = {"layer2.0.conv1.weight", "layer3.0.conv1.weight", "linear.weight"}
    assert strided == {name for name in cost.prunable(form) if "products" not in name}
    assert ((5, 64), (256, 1, 1, 1)) == (form.linear.weight.shape, form.conv1.products.weight.shape)


def test_a_convolution_in_two_places_stays_one() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    form = transform(nn.Sequential(conv, nn.Sequential(conv)))
    assert form[0] is form[1][0]
    assert isinstance(form[0], WinogradConv2d)


def test_weights_of_the_base_fit_and_so_do_its_own(tmp_path: Path) -> None:
    plain, form, again = (load(name).double().eval() for name in ("resnet20", "winograd", "winograd"))
    x = torch.randn(1, 3, 32, 32).double()
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    load_weights(form, tmp_path / "plain.pt")
    assert largest_difference(plain, form, x) < 1e-10
    torch.save(form.state_dict(), tmp_path / "form.pt")
    load_weights(again, tmp_path / "form.pt")
    assert 0 == largest_difference(form, again, x)
    torch.save({**plain.state_dict(), "conv1.weight": torch.zeros(16, 3, 5, 5)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"1 missing from the file \(conv1.products.weight\); 1 unknown"):
        load_weights(form, tmp_path / "other.pt")


def test_images_are_those_of_the_base() -> None:
    assert (3, 32, 32) == input_shape("winograd")
    assert (1, 227, 227) == input_shape("winograd", {"base": "alexnet", "in_channels": 1})


@pytest.mark.parametrize("relu", ["spatial", "winograd"])
def test_onnx_runtime_gives_the_same_and_only_adds_in_the_transforms(relu: str, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(3 * 5 * 4, 2)
    )  # fmt: skip
    model = transform(net, relu).eval()
    export(Request(model, (1, 7, 6), "dynamic"), tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert 2 == sum(node.op_type == "Conv" for node in graph.node)
    assert not {"Mul", "MatMul", "Einsum"} & {node.op_type for node in graph.node}
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(3, 1, 7, 6)
    (found,) = session.run(None, {"input": x.numpy()})
    torch.testing.assert_close(model(x).detach(), torch.from_numpy(found), rtol=1e-5, atol=1e-5)


class Three(nn.Module):
    """Three convolutions, the last two 3x3; `width` channels between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, width, 1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.third = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        return self.fc(torch.relu(self.third(x)).mean((2, 3)))


@pytest.mark.parametrize(("width", "removed"), [(18, 3), (16, 0)])
def test_compaction_cuts_dead_channels_where_a_group_reads_more_than_16(width: int, removed: int) -> None:
    """A grouped convolution loses channels one by one if it has fewer groups than channels in each: 16 here."""
    model = transform(Three(width)).eval()
    with torch.no_grad():
        model.second.products.weight.view(16, width, width)[:, :3] = 0.0
        model.second.bias[:3] = 0.0
        model.norm.bias.fill_(-0.1)
    result = compact(model, torch.randn(2, 2, 7, 6))
    widths = {layer.name: layer.out_after for layer in result.layers}
    assert (16 * (width - removed), 16 * width) == (widths["second.products"], widths["third.products"])
    assert result.max_error_relative < 1e-9
    assert () == result.frozen_operators
    assert not result.rewritten
    assert (width - removed,) == result.model.second.bias.shape


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: WinogradConv2d(nn.Conv2d(2, 2, 3, stride=2)), "3x3 with stride 1.*got Conv2d.2, 2"),
        (lambda: transform(nn.Linear(2, 2)), "no 3x3 convolution of stride 1"),
        (lambda: transform(TinyNet(), "winograd"), "no nn.ReLU stands before .* use relu = spatial"),
        (lambda: transform(TinyNet(), "spatal"), "no relu spatal; did you mean spatial"),
        (lambda: load("winograd", {"base": "resnet21"}), "model winograd: no base resnet21; did you mean resnet"),
        (lambda: load("winograd", {"base": "net.py:Net"}), "write a factory that returns .*transform.network."),
        (lambda: load("winograd", {"base": "lenet300"}), "model winograd: the model has no 3x3 convolution"),
        (lambda: load("winograd", {"dept": 3}), "model resnet20: no option dept"),
    ],
)
def test_what_cannot_be_is_refused(build: object, line: str) -> None:
    with pytest.raises(SpecError, match=line):
        build()  # type: ignore[operator]
