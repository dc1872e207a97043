"""3x3 convolutions as Winograd products, whose weights can be pruned where the multiplications happen."""

import copy
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress_models.catalog import BUILT_IN
from compress_models.errors import SpecError, nearest
from compress_models.loading import load

RELU = {
    "spatial": "activations stay where they are",
    "winograd": "the ReLU in front of a convolution acts on its transformed input instead",
}
"""Where the ReLU in front of a convolution acts."""


class WinogradConv2d(nn.Module):
    r"""A 3x3 convolution of stride 1 as F(2x2, 3x3): 16 instead of 36 products per four outputs and input channel.

        V = B^T d B             d: tiles of 4x4 of the padded input, two apart
        M_o = sum_i U_oi * V_i  16 products each, and the only ones: ``products``, a 1x1 convolution of 16 groups
        Y_o = A^T M_o A         2x2 outputs for each tile

    At first U = G g G^T, and the function is the given convolution's; U has 16 free entries where g has 9, and
    training and pruning go on in U (``products.weight``, shape (16 out, in, 1, 1), group 4 i + j for U[i, j]).
    B and A hold 0, 1 and -1 alone, so the transforms are written as the additions that they are.

    Winograd's filtering for convolutions: Lavin and Gray 2016, arXiv:1509.09308; trained and pruned in U: Liu et
    al., ICLR 2018, arXiv:1802.06367.

    Args:
        conv: the convolution to take over: 3x3, stride 1, dilation 1, one group, padded with zeros.
        relu: V = max(B^T d B, 0); then no activation belongs in front.
    """

    def __init__(self, conv: nn.Conv2d, *, relu: bool = False) -> None:
        super().__init__()
        if not suits(conv):
            raise SpecError(
                f"a Winograd convolution is 3x3 with stride 1, dilation 1, one group and zero padding; got {conv}"
            )
        self.padding = _padding(conv)
        self.relu = relu
        # on meta: no random numbers are drawn for weights that are not used
        self.products = nn.Conv2d(
            16 * conv.in_channels, 16 * conv.out_channels, 1, groups=16, bias=False, device="meta"
        )
        self.products.weight = nn.Parameter(transformed(conv.weight.detach()), conv.weight.requires_grad)
        self.bias = conv.bias
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Give the maps, shape (batch, out, H, W), of maps of shape (batch, in, H, W) plus or minus the padding."""
        height, width = (size + 2 * pad - 2 for size, pad in zip(x.shape[2:], self.padding, strict=True))
        # an odd output needs one more row or column, which is cut off again
        bottom, right = (pad + size % 2 for size, pad in zip((height, width), self.padding, strict=True))
        x = F.pad(x, (self.padding[1], right, self.padding[0], bottom))
        tiles = _input_transform(_input_transform(x, 3), 2)
        tiles = F.relu(tiles) if self.relu else tiles
        y = _output_transform(_output_transform(self.products(tiles), 2), 3)
        if (height, width) != y.shape[2:]:
            y = y[:, :, :height, :width]
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, bias={self.bias is not None}, relu={self.relu}"

    def adopt(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """A state dict in which the weights of the convolution that was taken over are transformed as it was."""
        given = state.get(f"{prefix}weight")
        if given is None or given.shape[2:] != (3, 3):
            return state
        rest = {name: value for name, value in state.items() if name != f"{prefix}weight"}
        return {**rest, f"{prefix}products.weight": transformed(given)}


def transformed(weight: Tensor) -> Tensor:
    """G g G^T for every kernel, shape (out, in, 3, 3), as the weight of 16 groups, shape (16 out, in, 1, 1)."""
    g = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return (g @ weight @ g.T).permute(2, 3, 0, 1).reshape(-1, weight.shape[1], 1, 1)


def _input_transform(x: Tensor, axis: int) -> Tensor:
    """B^T along one axis: of every window (a, b, c, d), a - c, b + c, c - b, b - d as four times the channels."""
    even, odd = torch.unflatten(x, axis, (-1, 2)).unbind(axis + 1)
    count = even.shape[axis] - 1
    a, c = (even.narrow(axis, start, count) for start in (0, 1))
    b, d = (odd.narrow(axis, start, count) for start in (0, 1))
    return torch.cat((a - c, b + c, c - b, b - d), 1)


def _output_transform(m: Tensor, axis: int) -> Tensor:
    """A^T along one axis: of four times the channels (a, b, c, d), b + c + a and b - c - d side by side."""
    a, b, c, d = m.chunk(4, 1)
    # b leads both sums: who follows channels through a graph by a sum's first term finds one channel in all outputs
    return torch.stack((b + c + a, b - c - d), axis + 1).flatten(axis, axis + 1)


def suits(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a convolution that has a Winograd form here."""
    return (
        type(module) is nn.Conv2d  # a subclass computes something else
        and (module.kernel_size, module.stride, module.dilation, module.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and module.padding_mode == "zeros"
    )


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    if isinstance(conv.padding, str):
        return (1, 1) if conv.padding == "same" else (0, 0)
    height, width = conv.padding
    return height, width


def transform(model: nn.Module, relu: str = "spatial") -> nn.Module:
    """A copy of a model with every 3x3 convolution of stride 1 in its Winograd form, under the same name.

    Args:
        model: stays as it is.
        relu: ``spatial`` leaves the function as it is. ``winograd`` moves each ReLU that stands before such a
            convolution in an ``nn.Sequential``, with at most max poolings between, onto the transformed input:
            another function, which must be trained.

    Raises:
        SpecError: there is no such convolution, or no ReLU to move.
    """
    if relu not in RELU:
        raise SpecError(f"no relu {relu}; {nearest(relu, RELU)}")
    whole = nn.Sequential(copy.deepcopy(model))  # so that a model that is a convolution itself has a parent
    moved = _without_relus(whole) if relu == "winograd" else set()
    if relu == "winograd" and not moved:
        raise SpecError("no nn.ReLU stands before a 3x3 convolution in an nn.Sequential; use relu = spatial")
    forms: dict[nn.Module | None, nn.Module] = {
        module: WinogradConv2d(module, relu=module in moved) for module in whole.modules() if suits(module)
    }
    if not forms:
        raise SpecError("the model has no 3x3 convolution of stride 1, dilation 1 and one group to transform")
    for parent in list(whole.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = forms.get(child, child)
    return whole[0]


def _without_relus(model: nn.Module) -> set[nn.Module]:
    """Take away the ReLUs that can move; give the convolutions that they move to."""
    moved: set[nn.Module] = set()
    for sequence in (module for module in model.modules() if isinstance(module, nn.Sequential)):
        last = None
        for position, layer in enumerate(sequence):
            if isinstance(layer, nn.ReLU):
                last = position
            elif last is not None and not isinstance(layer, nn.MaxPool2d):
                if suits(layer):
                    sequence[last] = nn.Identity()
                    moved.add(layer)
                last = None
    return moved


def winograd(
    base: str = "resnet20",
    relu: str = "spatial",
    num_classes: int | None = None,
    in_channels: int | None = None,
    input_size: int | None = None,
    **options: Any,
) -> nn.Module:
    """Another network with its 3x3 convolutions in Winograd form; weights files of either form fit it.

    Args:
        base: a built-in name or ``torchvision:NAME``.
        relu: spatial or winograd, see `transform`.
        num_classes: outputs, as the others a fact that the base takes if it has such a parameter.
        in_channels: channels of the image.
        input_size: height and width of the image.
        options: of the base.

    Raises:
        SpecError: the base is none of these, has nothing to transform, or refuses an option.
    """
    if base not in BUILT_IN and not base.startswith("torchvision:"):
        raise SpecError(
            f"no base {base}; {nearest(base, BUILT_IN)}; for your own network write a factory that returns "
            "compress_models.winograd.transform(network)"
        )
    facts = {"num_classes": num_classes, "in_channels": in_channels, "input_size": input_size}
    given = {name: value for name, value in facts.items() if value is not None}
    return transform(load(base, options, defaults=given), relu)
