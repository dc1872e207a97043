"""Networks that only the benchmarks need."""

import torch.nn.functional as F
from torch import Tensor, nn


class NormedMLP(nn.Module):
    """LeNet-300-100 with batch normalisation after both hidden layers, so that every channel method applies."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: int = 28) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * input_size**2, 300, bias=False)
        self.norm1 = nn.BatchNorm1d(300)
        self.fc2 = nn.Linear(300, 100, bias=False)
        self.norm2 = nn.BatchNorm1d(100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = F.relu(self.norm1(self.fc1(x.flatten(1))))
        out: Tensor = self.fc3(F.relu(self.norm2(self.fc2(x))))
        return out
