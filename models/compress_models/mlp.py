"""LeNet-300-100: the fully connected network of the pruning literature's MNIST tables."""

from torch import Tensor, nn

from compress_models.activations import activation_function


class LeNet300(nn.Module):
    """LeNet-300-100: 784-300-100-10, 266,200 prunable weights.

    LeCun et al., Gradient-based learning applied to document recognition, 1998.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        input_size: height and width of the image, which is flattened.
        activation: relu or sigmoid.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, input_size: int = 28, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.fc1 = nn.Linear(in_channels * input_size * input_size, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, shape (batch, num_classes), of images or of already flat rows."""
        x = self.activation(self.fc1(x.flatten(1)))
        return self.fc3(self.activation(self.fc2(x)))  # type: ignore[no-any-return]
