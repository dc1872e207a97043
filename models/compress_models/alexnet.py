"""AlexNet as Caffe shipped it: two groups in conv2, conv4 and conv5, local response normalisation."""

import torch.nn.functional as F
from torch import Tensor, nn


class AlexNet(nn.Module):
    """AlexNet (bvlc_alexnet form): 96-256-384-384-256 convolutions, fc 4096-4096-1000; 60.9 M weights.

    Krizhevsky et al., 2012; the form pruned by Zhang et al., ECCV 2018, arXiv:1804.03294.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        input_size: height and width of the image; 227 gives the published 9,216 inputs of fc1.
        dropout: probability after fc1 and fc2 while training.
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, input_size: int = 227, dropout: float = 0.5
    ) -> None:
        super().__init__()
        side = (input_size - 11) // 4 + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        self.conv1 = nn.Conv2d(in_channels, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(256 * side * side, 4096)
        self.fc2 = nn.Linear(4096, 4096)
        self.fc3 = nn.Linear(4096, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, shape (batch, num_classes), of images, shape (batch, in_channels, size, size)."""
        x = F.max_pool2d(self.norm(F.relu(self.conv1(x))), 3, 2)
        x = F.max_pool2d(self.norm(F.relu(self.conv2(x))), 3, 2)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2).flatten(1)
        x = self.dropout(F.relu(self.fc1(x)))
        return self.fc3(self.dropout(F.relu(self.fc2(x))))  # type: ignore[no-any-return]
