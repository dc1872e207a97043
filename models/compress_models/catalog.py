"""The table of built-in networks: name, where its factory lives, and one line about it."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One built-in network."""

    factory: str  # a spec: package.module:Factory
    line: str


BUILT_IN = {
    "lenet5": Entry("compress_models.lenet:LeNet5", "LeNet-5 (Caffe), 20-50-500, 28x28, 430,500 weights"),
    "lenet300": Entry("compress_models.mlp:LeNet300", "LeNet-300-100, fully connected, 266,200 weights"),
    "vgg16": Entry("compress_models.vgg:VGG16", "VGG-16 for CIFAR with BN, fc 512-512-10, 313 M MACs"),
    "resnet20": Entry("compress_models.resnet:resnet20", "CIFAR ResNet-20, option A, 41 M MACs"),
    "resnet32": Entry("compress_models.resnet:resnet32", "CIFAR ResNet-32, option A, 69 M MACs"),
    "resnet44": Entry("compress_models.resnet:resnet44", "CIFAR ResNet-44, option A, 97 M MACs"),
    "resnet56": Entry("compress_models.resnet:resnet56", "CIFAR ResNet-56, option A, 125 M MACs"),
    "resnet110": Entry("compress_models.resnet:resnet110", "CIFAR ResNet-110, option A, 253 M MACs"),
    "alexnet": Entry("compress_models.alexnet:AlexNet", "AlexNet (Caffe, grouped), 227x227, 60.9 M weights"),
}


def names() -> dict[str, str]:
    """Give every built-in name with one line about it.

    >>> names()["lenet300"]
    'LeNet-300-100, fully connected, 266,200 weights'
    """
    return {name: entry.line for name, entry in BUILT_IN.items()}
