"""LeNet-5 as Caffe shipped it: the network of the pruning literature's MNIST tables."""

import torch.nn.functional as F
from torch import Tensor, nn

from compress_models.activations import activation_function


class LeNet5(nn.Module):
    """LeNet-5 (Caffe form): conv 5x5 20, pool, conv 5x5 50, pool, fc 500, fc 10; 430,500 prunable weights.

    Caffe's own file has no activation after the convolutions; here both have one, as in the code of the
    papers that prune this network (Zhang et al., ECCV 2018, arXiv:1804.03294).

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        input_size: height and width of the image, 28 in every published figure.
        activation: relu or sigmoid.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, input_size: int = 28, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        side = ((input_size - 4) // 2 - 4) // 2  # two valid 5x5 convolutions, each halved
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, shape (batch, num_classes), of images, shape (batch, in_channels, size, size)."""
        x = F.max_pool2d(self.activation(self.conv1(x)), 2)
        x = F.max_pool2d(self.activation(self.conv2(x)), 2)
        return self.fc2(self.activation(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]
