import pytest
import torch
from torch import Tensor, nn

from compress.errors import UsageError
from compress.probe import TaskProbe
from tests.support import tiny_task


class Head(nn.Module):
    """One convolution in front of a classifier."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.fc = conv, nn.LazyLinear(4)
        self(torch.zeros(2, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x.expand(-1, 2, -1, -1)).flatten(1))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3)),
        nn.Conv2d(2, 3, 3, padding="same", padding_mode="circular"),
    ],
)
def test_a_window_times_the_weights_is_the_output(conv: nn.Conv2d) -> None:
    task = tiny_task(network=lambda: Head(conv))
    probe, values = TaskProbe(task), dict(task.model.named_parameters())
    batch = next(probe.batches(1, 5))
    windows = probe.windows(values, ("conv", "fc"), batch)
    with torch.no_grad():
        assert conv.bias is not None
        found = torch.einsum("nyxikl,oikl->noyx", windows["conv"], conv.weight) + conv.bias[:, None, None]
        # float32 sums in another order
        torch.testing.assert_close(conv(batch[0].expand(-1, 2, -1, -1)), found, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.flatten(1), windows["fc"], rtol=1e-4, atol=1e-5)


def test_layers_without_windows_are_refused_by_name() -> None:
    task = tiny_task(network=lambda: Head(nn.Conv2d(2, 2, 3, groups=2)))
    probe = TaskProbe(task)
    with pytest.raises(UsageError, match=r"conv is Conv2d\(.*groups=2\); only linear"):
        probe.windows(dict(task.model.named_parameters()), ("conv",), next(probe.batches(1, 2)))
