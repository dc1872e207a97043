"""``load``: options, facts of the data, torchvision."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from compress_models import SpecError, load, names
from compress_models.catalog import BUILT_IN


def test_options_win_over_defaults_and_defaults_go_only_where_they_fit() -> None:
    facts = {"num_classes": 5, "in_channels": 1, "input_size": 28, "unknown_to_all": 0}
    assert tuple(load("lenet300", defaults=facts)(_image(1, 28)).shape) == (1, 5)
    assert tuple(load("lenet300", {"num_classes": 3}, defaults=facts)(_image(1, 28)).shape) == (1, 3)


def test_an_option_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="model lenet5: no option num_class; did you mean num_classes"):
        load("lenet5", {"num_class": 3})


def test_a_factory_that_needs_a_value_says_so(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def small(width, *, num_classes): return nn.Linear(width, num_classes)\n"
        "def open_ended(**options): return nn.Linear(**options)\n"
    )
    with pytest.raises(SpecError, match="needs a value for width; give it as an option"):
        load(f"{file}:small", defaults={"num_classes": 3})
    model = load(f"{file}:small", {"width": 4}, defaults={"num_classes": 3, "in_channels": 1})
    assert isinstance(model, nn.Linear)
    assert tuple(model.weight.shape) == (3, 4)
    # what takes anything is given what the user asked for and nothing else
    load(f"{file}:open_ended", {"in_features": 2, "out_features": 2}, defaults={"num_classes": 3})


def test_torchvision_classifiers_take_the_number_of_classes() -> None:
    model = load("torchvision:squeezenet1_1", defaults={"num_classes": 6, "in_channels": 3})
    assert model.get_submodule("classifier.1").out_channels == 6


@pytest.mark.parametrize("name", ["googlenet"])
def test_torchvision_networks_with_side_outputs_give_one_tensor_without_a_warning(name: str) -> None:
    model = load(f"torchvision:{name}", {"num_classes": 4}).train()
    assert tuple(model(_image(3, 64).repeat(2, 1, 1, 1)).shape) == (2, 4)


@pytest.mark.parametrize(
    ("spec", "options", "line"),
    [
        (
            "torchvision:resnet19",
            {},
            "torchvision has no such classifier; did you mean resnet1",
        ),
        ("torchvision:fcn_resnet50", {}, "torchvision has no such classifier"),
        ("torchvision:squeezenet1_1", {"depth": 3}, "could not be built: .*TypeError.*depth"),
        ("torchvision:squeezenet1_1", {"weights": "NONE_SUCH"}, "could not be built: .*NONE_SUCH"),
    ],
)
def test_torchvision_errors(spec: str, options: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        load(spec, options)


def test_listing_names_needs_no_torch() -> None:
    code = "import sys, compress_models; compress_models.names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_name_has_one_line() -> None:
    assert list(BUILT_IN) == list(names())
    assert all(line and "\n" not in line for line in names().values())


def _image(channels: int, size: int):  # type: ignore[no-untyped-def]
    import torch

    return torch.rand(1, channels, size, size)
