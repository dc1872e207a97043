"""VGG-16 for CIFAR in the form that the filter-pruning literature measures."""

from torch import Tensor, nn

_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 is a pooling


class VGG16(nn.Module):
    """VGG-16 with batch normalisation: 13 convolutions 3x3, fc 512 + BN + ReLU, fc 10; 313,463,808 MACs.

    The form of Li et al., Pruning filters for efficient ConvNets, ICLR 2017, arXiv:1608.08710 (no dropout).

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        input_size: height and width of the image, at least 32.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, input_size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width in _WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        side = input_size // 32
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * side * side, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, shape (batch, num_classes), of images, shape (batch, in_channels, size, size)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]
