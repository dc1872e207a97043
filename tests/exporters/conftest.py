"""One small network with sparse weights, exported once for every form that the tests look at."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from compress_exporters import Artifact, Request, find

NORMALISATION = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SHAPE = (3, 12, 10)


@pytest.fixture(scope="session")
def net() -> nn.Module:
    """Convolutions, a normalisation with history, a linear layer; nine weights of ten are zero."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 3, 10),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) < 0.1)
        model[1].running_mean.copy_(torch.randn(8, generator=generator))
        model[1].running_var.copy_(torch.rand(8, generator=generator) + 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def written(net: nn.Module, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """The network in a format and form, written on first use."""
    folder = tmp_path_factory.mktemp("written")
    cache: dict[tuple[object, ...], Artifact] = {}

    def write(format: str, batch: int | str = 4, pixels: bool = False) -> Artifact:
        key = (format, batch, pixels)
        if key not in cache:
            exporter = find(format)
            path = Path(folder, f"{len(cache)}{exporter.suffix}")
            normalisation = NORMALISATION if pixels else None
            request = Request(net, SHAPE, batch, 18, normalisation, {"labels": '["cat"]'}, images)
            cache[key] = exporter.export(request, path)
        return cache[key]

    return write


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Normalised images that lie on the grid of pixel values."""
    pixels = torch.randint(0, 256, (10, *SHAPE), generator=torch.Generator().manual_seed(1)).float()
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in NORMALISATION)
    return (pixels / 255 - mean) / std
