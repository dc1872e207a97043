"""The checker is shown liars."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from compress.compaction import compact, liveness
from compress.compaction.analysis import Use
from compress.compaction.inputs import Example, random_inputs
from compress.compaction.liveness import Columns, columns_of
from compress.compaction.verify import prove
from compress.errors import CompactionError
from tests.compaction.nets import build, example, zero_rows


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module, list[tuple[torch.Tensor, ...]]]:
    """A float64 model, its compacted form, and inputs."""
    model, x = build("vgg")
    zero_rows(model, 0.5, 1)
    model, x = model.double(), x.double()
    return model, compact(model, x).model, random_inputs(Example.of(x))


def test_honest_pair_passes(pair) -> None:
    assert prove(*pair) < 1e-12


@pytest.mark.parametrize("name", ["features.0.weight", "features.4.running_mean", "classifier.0.bias"])
def test_one_perturbed_number_is_refused(pair, name: str) -> None:
    model, narrow, inputs = pair
    with torch.no_grad():
        tensor = narrow.state_dict()[name]
        tensor.view(-1)[tensor.abs().argmax()] *= 1 + 1e-5
    with pytest.raises(CompactionError, match="differs by"):
        prove(model, narrow, inputs)


def test_the_layer_where_a_difference_is_first_seen_is_named(pair) -> None:
    model, narrow, inputs = pair
    with torch.no_grad():
        narrow.classifier[3].weight[0] += 1
    with pytest.raises(CompactionError, match=r"first seen in classifier\.3"):
        prove(model, narrow, inputs)


def test_every_output_is_measured_by_its_own_size() -> None:
    class Two(nn.Module):
        def __init__(self, small: float) -> None:
            super().__init__()
            self.small = small

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"large": 1e12 * x, "small": self.small * x}

    inputs = random_inputs(Example.of(example((3,)).double()))
    assert 0 == prove(Two(1.0), Two(1.0), inputs)
    with pytest.raises(CompactionError, match=r"differs by 1\.0e-03"):  # 1e-15 of the large one
        prove(Two(1.0), Two(1.001), inputs)


def test_model_that_does_not_run_is_refused(pair) -> None:
    model, narrow, inputs = pair
    narrow.classifier[0] = nn.Linear(3, 16).double()
    with pytest.raises(CompactionError, match=r"the narrowed model does not run \(first seen in classifier\.0\)"):
        prove(model, narrow, inputs)


def test_other_shape_and_infinity_are_refused(pair) -> None:
    model, narrow, inputs = pair
    with pytest.raises(CompactionError, match="shape changed"):
        prove(model, nn.Sequential(narrow, nn.Unflatten(1, (2, 5))), inputs)
    broken = copy.deepcopy(model)
    nn.init.constant_(broken.classifier[3].bias, torch.inf)
    with pytest.raises(CompactionError, match="not finite"):
        prove(broken, broken, inputs)


def test_equal_but_constant_models_prove_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    nn.init.zeros_(model[1].weight)
    with pytest.raises(CompactionError, match=r"changes by only 0\.0e\+00"):
        prove(model, model, random_inputs(Example.of(example((3, 2, 2)).double())))


def test_error_hidden_behind_a_large_bias_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    nn.init.constant_(model[1].bias, 1e9)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].weight *= 1.1  # 1e-10 of the output's size, a tenth of all it does
    with pytest.raises(CompactionError, match="a comparison shows nothing"):
        prove(model, other, random_inputs(Example.of(example((3, 2, 2)).double())))


def test_inputs_are_several_and_of_more_than_one_batch_size() -> None:
    inputs = [sample.args for sample in random_inputs(Example.of((example((3, 4, 4)), torch.arange(2))))]
    assert [2, 2, 2, 3] == [image.shape[0] for image, _ in inputs]
    assert {0, 1} >= {int(n) for _, numbers in inputs for n in numbers}
    assert all(not torch.equal(inputs[0][0], image) for image, _ in inputs[1:])


def test_wrong_fold_is_refused_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind_to_padding(use: Use) -> Columns:
        return columns_of(dataclasses.replace(use, padded=False))

    model, x = build("vgg")
    zero_rows(model, 0.5, 1)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(liveness, "columns_of", blind_to_padding)
    with pytest.raises(CompactionError, match="differs by"):
        compact(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
