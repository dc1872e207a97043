"""The networks of `compaction.py`: torchvision's, randomly initialised but with no part that does nothing.

A fresh network is a poor subject: its biases are zero, its normalisations the identity, some heads and layer scales
zero or nearly so, and an equality of two outputs that are zero shows nothing. All these get random numbers.
"""

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

KINDS = ("classifier", "segmentation", "backbone")
SEGMENTATION = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")
DETECTION = (  # the mask and keypoint models share fasterrcnn_resnet50_fpn's backbone
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
# auxiliary heads that only training reaches would read removed channels; the initialisation is slow
PLAIN = {"init_weights": False, "aux_logits": False}

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)

SIZES = {"vit_": 224, "swin_": 224, "maxvit_": 224, "ssd300_": 300, "ssdlite320_": 320}
"""Pixels that an architecture fixes, by the beginning of its name."""
SIZE = 96
"""Pixels for all others: they take any size, and at this one the largest fit."""


def names() -> dict[str, str]:
    """Every network -> its kind, in the order of the table."""
    kinds = dict.fromkeys(list_models(module=torchvision.models), KINDS[0])
    kinds |= dict.fromkeys(SEGMENTATION, KINDS[1])
    return kinds | {f"{name}.backbone": KINDS[2] for name in DETECTION}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A prepared network in evaluation mode and an example image."""
    torch.manual_seed(seed)
    base, _, part = name.partition(".")
    options = PLAIN if base in ("googlenet", "inception_v3") else {}
    if base in SEGMENTATION + DETECTION:
        options = {"weights_backbone": None}
    model = get_model(base, weights=None, **options).get_submodule(part).eval()
    pixels = next((pixels for start, pixels in SIZES.items() if name.startswith(start)), SIZE)
    randomise(model)
    calibrate(model, torch.randn(4, 3, pixels, pixels))
    return model, torch.randn(1, 3, pixels, pixels)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random numbers wherever initialisation left an identity or next to nothing."""
    for module in model.modules():
        if isinstance(module, NORMS) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            parameter.uniform_(0.5, 1.5)
        elif parameter.abs().max() < 1e-4:  # zero heads, class tokens, biases
            parameter.normal_(std=0.1)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Give batch normalisations the statistics of some images, so that signals neither die nor explode."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
