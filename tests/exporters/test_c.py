"""C files against PyTorch, operator by operator, with vectors and without, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from compress_exporters import ExportError, Request, find
from compress_exporters._c.host import FLAGS, WARNINGS, build
from compress_exporters._c.net import Buffer, place
from compress_exporters._c.source import identifier, source_of

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SHAPE = (4, 11, 9)


def written(model: nn.Module, path: Path, format: str = "c", shape: tuple[int, int, int] = SHAPE) -> Path:
    return find(format).export(Request(model.eval(), shape), path / f"net{find(format).suffix}").path


def answers(path: Path, images: Tensor, flags: tuple[str, ...] = FLAGS) -> np.ndarray:
    """Scores from a build with these flags; the arena ends in a canary that must survive."""
    library = build(path, flags=flags)
    name = f"{identifier(path)}_run"
    outputs = np.empty((len(images), library.output_size), np.float32)
    arena = np.full(library.arena + 16, 7.0, np.float32)
    for image, output in zip(images.reshape(len(images), -1).numpy(), outputs, strict=True):
        image = np.ascontiguousarray(image)
        library.call(name, image, output, arena)
    assert (arena[library.arena :] == 7.0).all()
    return outputs


def sparse(model: nn.Module, share: float = 0.2) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) < share)
    return model


class Residual(nn.Module):
    """Shortcut that skips every second pixel and pads channels, two branches, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, 2, 1)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return torch.cat([y, nn.functional.hardswish(y) - 0.5], 1).flatten(1)


NETWORKS = {
    "convolution": nn.Conv2d(4, 3, 3),
    "stride and border": nn.Sequential(nn.Conv2d(4, 6, (3, 5), (2, 3), (1, 2)), nn.ReLU()),
    "dilation": nn.Conv2d(4, 3, 3, dilation=2, padding=2),
    "pointwise": nn.Sequential(nn.Conv2d(4, 9, 1), nn.ReLU6()),
    "strided pointwise": nn.Conv2d(4, 9, 1, 2),
    "depthwise": nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.BatchNorm2d(4), nn.Hardswish()),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "pools": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2, ceil_mode=True), nn.Flatten()),
    "average with border": nn.AvgPool2d(3, 2, 1, count_include_pad=True),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(396, 40), nn.Tanh(), nn.Linear(40, 5), nn.Softmax(1)),
    "mean": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(0.1)),
    "normalisation first": nn.Sequential(nn.BatchNorm2d(4), nn.Sigmoid(), nn.Conv2d(4, 2, 3)),
    "residual": Residual(),
}


@needs_compiler
@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_agrees_with_pytorch(name: str, share: float, tmp_path: Path) -> None:
    model = sparse(NETWORKS[name], share).eval()
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = model(images).detach().reshape(3, -1).numpy()
    path = written(model, tmp_path)
    for flags in (FLAGS, *(("-std=c99", "-O1", f"-DNET_LANES={lanes}", *WARNINGS) for lanes in (0, 4))):
        np.testing.assert_allclose(answers(path, images, flags), expected, rtol=0, atol=2e-6 * abs(expected).max())


@needs_compiler
@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(5, 20), st.integers(5, 20)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_convolution_agrees_with_pytorch(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: int,
    groups: int,
    share: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    padding = ((kernel[0] - 1) // 2, kernel[1] - 1)
    layer = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups)
    if any(n + 2 * p < (k - 1) * dilation + 1 for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    model = sparse(layer, share)
    images = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))
    expected = model(images).detach().reshape(2, -1).numpy()
    found = answers(written(model, tmp_path_factory.mktemp("c"), shape=(4, *size)), images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_weights_are_sparse_where_that_is_smaller(tmp_path: Path) -> None:
    for share, stored in ((0.2, True), (1.0, False)):
        code = written(sparse(nn.Conv2d(4, 16, 3), share), tmp_path).read_text()
        assert stored == ("_start[" in code)


def test_an_operator_without_c_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(x, 1)

    with pytest.raises(ExportError, match="operator CumSum is not written as C; known: Add, AveragePool"):
        written(Odd(), tmp_path)
    assert [] == list(tmp_path.iterdir())


class OfRows(nn.Module):
    """A linear layer on each of several rows; a pool of one dimension."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1, 2)).flatten(1)


@pytest.mark.parametrize("format", ["c", "c-int8"])
@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (nn.Linear(9, 5), r"operator \w+ of 44 rows of 9 is not written as C"),
        (nn.Linear(9, 5, bias=False), r"operator \w+ of 44 rows of 9 is not written as C"),
        (nn.Sequential(nn.MaxPool1d(3), nn.Flatten(), nn.Linear(132, 2)), "MaxPool of other than two dimensions"),
    ],
)
def test_several_rows_are_refused(inner: nn.Module, said: str, format: str, tmp_path: Path) -> None:
    request = Request(OfRows(inner).eval(), SHAPE, calibration=torch.randn(4, *SHAPE))
    with pytest.raises(ExportError, match=said):
        find(format).export(request, tmp_path / "net.c")


@pytest.mark.parametrize("shape", [[2, 3, 4, 4], ["n", 3, 4, 4]])
def test_a_batch_is_refused(shape: list[int | str]) -> None:
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", entries[:1], entries[1:])
    with pytest.raises(ExportError, match="one image of known size"):
        source_of(helper.make_model(graph), Path("m.c"))


def graph_of(*nodes: onnx.NodeProto, opset: int = 18, **held: float) -> onnx.ModelProto:
    """A graph of two numbers that ends in y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y"))
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [], [number]) for name, number in held.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (graph_of(helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0), opset=10), "C needs opset 13 or later"),
        (graph_of(helper.make_node("Softmax", ["x"], ["y"], axis=0)), "Softmax other than over one row of scores"),
        (
            graph_of(helper.make_node("Relu", ["x"], ["z"]), helper.make_node("Clip", ["x", "", "z"], ["y"])),
            "Clip with computed limits is not written as C",
        ),
    ],
)
def test_what_c_would_do_otherwise_is_refused(graph: onnx.ModelProto, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        source_of(graph, Path("m.c"))


@needs_compiler
def test_an_infinite_limit_is_none(tmp_path: Path) -> None:
    source = source_of(
        graph_of(helper.make_node("Clip", ["x", "low", "high"], ["y"]), low=-np.inf, high=1.0), Path("m.c")
    )
    (tmp_path / "m.c").write_text(source.code)
    (tmp_path / "m.h").write_text(source.header)
    np.testing.assert_array_equal(answers(tmp_path / "m.c", torch.tensor([[-9.0, 9.0]])), [[-9.0, 1.0]])


def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = sparse(nn.Conv2d(4, 3, 3), 1.0)
    with torch.no_grad():
        model.bias[0] = torch.nan
    with pytest.raises(ExportError, match="not finite"):
        written(model, tmp_path)


sizes = st.tuples(st.integers(1, 50), st.integers(0, 8), st.integers(0, 4), st.sampled_from([1, 4]))


@given(st.lists(sizes, max_size=20))
def test_buffers_that_live_at_once_lie_apart(entries: list[tuple[int, int, int, int]]) -> None:
    buffers = [Buffer(size, first, first + length, each) for size, first, length, each in entries]
    arena = place(buffers)
    for i, one in enumerate(buffers):
        assert 0 <= one.offset
        assert one.offset + one.size * one.each <= arena
        assert one.offset % 4 == 0
        for other in buffers[:i]:
            if one.first <= other.last and other.first <= one.last:
                apart = one.offset + one.size * one.each <= other.offset
                assert apart or other.offset + other.size * other.each <= one.offset


def test_a_buffer_is_used_again() -> None:
    buffers = [Buffer(100, i, i + 1) for i in range(10)]
    assert place(buffers) < 4 * 300


@needs_compiler
def test_an_int_of_16_bits_is_refused(tmp_path: Path) -> None:
    path = written(sparse(nn.Conv2d(4, 3, 3)), tmp_path)
    with pytest.raises(ExportError, match="an int has to have 32 bits"):
        build(path, flags=("-std=c99", "-U__INT_MAX__", "-D__INT_MAX__=32767"))


@needs_compiler
def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = written(sparse(nn.Conv2d(4, 3, 3)), tmp_path)
    path.write_text(path.read_text() + "\nint wrong(\n")
    with pytest.raises(ExportError, match=r"the C compiler refuses net\.c: "):
        find("c").load(path)
    path.with_suffix(".h").unlink()
    with pytest.raises(ExportError, match="is not the header of a written network"):
        find("c").load(path)


def test_a_missing_compiler_is_said(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(net, tmp_path, "c", (3, 12, 10))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ExportError, match="no C compiler here"):
        find("c").load(path)


def test_the_graph_may_hold_its_constants_as_nodes() -> None:
    value = helper.make_tensor("c", TensorProto.FLOAT, [1], [2.0])
    nodes = [
        helper.make_node("Constant", [], ["two"], value=value),
        helper.make_node("Mul", ["x", "two"], ["y"]),
    ]
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", entries[:1], entries[1:]))
    onnx.checker.check_model(model)
    assert "m_run" in source_of(model, Path("m.c")).code
