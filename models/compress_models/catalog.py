"""The table of built-in networks: name, where its factory lives, and one line about it."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One built-in network."""

    factory: str  # a spec: package.module:Factory
    line: str
    input_shape: tuple[int, int, int]  # (C, H, W) of the published figures


BUILT_IN = {
    "lenet5": Entry("compress_models.lenet:LeNet5", "LeNet-5 (Caffe), 20-50-500, 28x28, 430,500 weights", (1, 28, 28)),
    "lenet300": Entry("compress_models.mlp:LeNet300", "LeNet-300-100, fully connected, 266,200 weights", (1, 28, 28)),
    "vgg16": Entry("compress_models.vgg:VGG16", "VGG-16 for CIFAR with BN, fc 512-512-10, 313 M MACs", (3, 32, 32)),
    "resnet20": Entry("compress_models.resnet:resnet20", "CIFAR ResNet-20, option A, 41 M MACs", (3, 32, 32)),
    "resnet32": Entry("compress_models.resnet:resnet32", "CIFAR ResNet-32, option A, 69 M MACs", (3, 32, 32)),
    "resnet44": Entry("compress_models.resnet:resnet44", "CIFAR ResNet-44, option A, 97 M MACs", (3, 32, 32)),
    "resnet56": Entry("compress_models.resnet:resnet56", "CIFAR ResNet-56, option A, 125 M MACs", (3, 32, 32)),
    "resnet110": Entry("compress_models.resnet:resnet110", "CIFAR ResNet-110, option A, 253 M MACs", (3, 32, 32)),
    "alexnet": Entry(
        "compress_models.alexnet:AlexNet", "AlexNet (Caffe, grouped), 227x227, 60.9 M weights", (3, 227, 227)
    ),
    "winograd": Entry(
        "compress_models.winograd:winograd",
        "another network (base) with its 3x3 convolutions as Winograd products",
        (3, 32, 32),
    ),
}


def names() -> dict[str, str]:
    """Give every built-in name with one line about it.

    >>> names()["lenet300"]
    'LeNet-300-100, fully connected, 266,200 weights'
    """
    return {name: entry.line for name, entry in BUILT_IN.items()}
