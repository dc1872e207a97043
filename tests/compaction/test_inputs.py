"""Every way to call a model: keywords, nested inputs, other batch sizes, half precision."""

import pytest
import torch
from torch import Tensor, nn

from compress.compaction import channel_groups, compact, exported, remove
from compress.compaction.inputs import Example
from compress.errors import UsageError
from tests.compaction.nets import build, example, prepared, zero_rows
from tests.compaction.zoo import ZOO, Body


class Two(nn.Module):
    """One positional input, one keyword input, one option."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, *, context: Tensor | None = None, scale: float = 1.0) -> Tensor:
        joined = self.a(x) if context is None else self.a(x) + self.b(context)
        return self.head(torch.relu(joined) * scale)


def two() -> nn.Module:
    model = prepared(Two)
    with torch.no_grad():
        for tensor in (model.a.weight, model.a.bias, model.b.weight, model.b.bias):
            tensor[:2] = 0
    return model


X, C = torch.randn(3, 4), torch.randn(3, 3)


@pytest.mark.parametrize(
    "inputs", [((X,), {"context": C}), {"x": X, "context": C}, ((X,), {"context": C, "scale": 2.0})]
)
def test_keyword_inputs(inputs) -> None:
    model = two()
    result = compact(model, inputs)
    assert 4 == result.model.head.in_features
    assert 4 == remove(model, inputs, channel_groups(model, inputs)[:2]).model.head.in_features
    with torch.no_grad():
        torch.testing.assert_close(result.model(X, context=C), model(X, context=C))


@pytest.mark.parametrize("inputs", [X, (X,), [X]])
def test_positional_inputs(inputs) -> None:
    assert 4 == compact(two(), inputs).model.head.in_features


def test_nested_inputs() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = two()

        def forward(self, pair: tuple[Tensor, dict[str, Tensor]]) -> list[Tensor]:
            return [self.inner(pair[0], context=pair[1]["context"])]

    assert 4 == compact(Nested(), ((X, {"context": C}),)).model.inner.head.in_features


def test_rewritten_forward_takes_keywords_and_any_batch() -> None:
    class Written(Two):
        def forward(self, x: Tensor, *, context: Tensor | None = None) -> Tensor:
            joined = self.a(x).view(-1, 2, 3)
            return self.head(torch.relu(joined.flatten(1) + self.b(context)))

    model = prepared(Written)
    with torch.no_grad():
        for tensor in (model.a.weight, model.a.bias, model.b.weight, model.b.bias):
            tensor[1] = 0
    result = compact(model, ((X,), {"context": C}))
    assert result.rewritten
    assert 5 == result.model.head.in_features
    for batch in (1, 2, 7):
        x, c = torch.randn(batch, 4), torch.randn(batch, 3)
        with torch.no_grad():
            torch.testing.assert_close(result.model(x, context=c), model(x, context=c))
    with pytest.raises(TypeError, match="takes the 2 inputs of its example, got 1"):
        result.model(X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mlp", "lenet5-written"])
def test_half_precision_weights(name: str, dtype: torch.dtype) -> None:
    model, x = build(name)
    zero_rows(model, 0.5, 1)
    result = compact(model.to(dtype), x.to(dtype))
    assert result.channels_removed > 0
    assert {dtype} == {p.dtype for p in result.model.parameters()}
    assert dtype == result.model(x.to(dtype)).dtype


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_of_the_example(batch: int) -> None:
    model = prepared(lambda: Body(ZOO["shuffle"]().middle))
    zero_rows(model, 0.4, 5)
    result = compact(model, example((3, 8, 8), batch))
    assert result.rewritten
    for other in (1, 4):
        x = example((3, 8, 8), other)
        with torch.no_grad():
            torch.testing.assert_close(result.model(x), model(x))


@pytest.mark.parametrize(("inputs", "found"), [((), "nothing"), (("a", 3), "str, int"), ({}, "nothing"), (3, "int")])
def test_no_tensor_is_refused(inputs, found: str) -> None:
    with pytest.raises(UsageError, match=f"got {found}"):
        Example.of(inputs)


def test_an_exported_graph_serves_a_loop_of_changing_weights() -> None:
    model, x = build("lenet5-written")
    graph = exported(model, x)
    for share in (0.3, 0.6):
        zero_rows(model, share, 1)
        assert compact(model, x).layers == compact(model, graph).layers
    assert channel_groups(model, x) == channel_groups(model, graph)
    narrow = remove(model, graph, channel_groups(model, graph)[:1]).model
    with pytest.raises(UsageError, match="other shapes"):
        compact(narrow, graph)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["resnet-a", "lenet5-written"])
def test_cuda(name: str) -> None:
    model, x = build(name)
    zero_rows(model, 0.5, 1)
    result = compact(model.cuda(), x.cuda())
    assert result.channels_removed > 0
    assert {"cuda"} == {p.device.type for p in result.model.parameters()}
    with torch.no_grad():
        torch.testing.assert_close(result.model(x.cuda()), model(x.cuda()), rtol=1e-3, atol=1e-3)  # TF32 convolutions
