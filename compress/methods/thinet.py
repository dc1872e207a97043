"""ThiNet: channels go whose share of the next layer's output is smallest; the rest is rescaled to make up for them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.channel_units import Slot
from compress.channels import along, channel_units
from compress.errors import UsageError
from compress.masks import Masks, Values
from compress.method import Outcome, PruningMethod, State, View
from compress.units import layer_name

BATCH = 32
"""Images at once: what enters every layer is held for them."""

Reader = tuple[str, Slot]
"""A block, and the axis of a layer that reads its channels."""


@dataclass(frozen=True)
class ThiNet(PruningMethod):
    r"""Choose channels by what the *next* layer loses, and let it make up for the loss.

    An output of the reading layer is y = sum_j xhat_j + bias, where xhat_j is what channel j contributes. Over
    outputs drawn at random (image, position, output channel), the removed set T is grown greedily:

        j* = argmin_j sum_samples ( sum_{T + j} xhat )^2

    then the kept channels S are rescaled by least squares, and their scales become part of the reader's weights:

        w = argmin sum_samples ( sum_j xhat_j - sum_S w_j xhat_j )^2,   W[:, j] <- w_j W[:, j]

    Both need only the samples' Gram matrix. Where several layers read the same channels their objectives add up,
    and each gets scales of its own. The greedy order is a ranking within the layer, and its place there, from 0 to
    1, is the score: ranked raw, a global budget takes about the same fraction of every layer, as the paper does.

    All layers are measured on the network as it came, at once; the paper goes layer by layer and retrains after
    each, which ``rounds`` come near to.

    Luo et al., ICCV 2017, arXiv:1707.06342: 10 images of each of 1,000 classes, 10 outputs of each.

    Attributes:
        images: training images to look at.
        locations: outputs drawn per image.
    """

    images: int = 512
    locations: int = 10

    trains: ClassVar[bool] = False
    epochs: ClassVar[int] = 0
    refuses: ClassVar[Mapping[str, str]] = {
        "element": "what is rebuilt is the sum over whole input channels of a layer"
    }

    def __post_init__(self) -> None:
        if not (self.images >= 1 and self.locations >= 1):
            raise UsageError(f"thinet needs images >= 1 and locations >= 1; got {self}")

    def check_network(self, view: View) -> None:
        """Every channel is read by a layer whose windows can be had."""
        layers = _layers(_readers(view))
        for image in view.probe.batches(1, 1):
            view.probe.windows(view.values, layers, image)

    def finish(self, view: View, state: State) -> Outcome:
        """Greedy choice under the budget, then least squares on what is left."""
        units, readers = channel_units(view), _readers(view)
        grams = self._grams(view, readers)
        scores = {}
        for block in units.blocks:
            total = torch.stack([gram for (read, _), gram in zip(readers, grams, strict=True) if read == block]).sum(0)
            places = removal_order(total).argsort()
            scores[block] = (places / len(places)).to(view.values[view.prunable[0]].device)
        masks = view.select(scores, state.masks)
        return Outcome(masks, _rescaled(view, readers, grams, masks))

    def _grams(self, view: View, readers: list[Reader]) -> list[Tensor]:
        """Per reader, the inner products of its channels' contributions over all samples; float64, on the CPU."""
        sizes = [view.units.blocks[block] for block, _ in readers]
        grams = [torch.zeros(size, size, dtype=torch.float64) for size in sizes]
        layers = _layers(readers)
        generator = torch.Generator().manual_seed(0)  # the images follow the run's seed; these need only be spread
        size = min(self.images, BATCH)
        for batch in view.probe.batches(math.ceil(self.images / size), size):
            windows = view.probe.windows(view.values, layers, batch)
            for (block, slot), gram in zip(readers, grams, strict=True):
                read, weight = windows[layer_name(slot.name)], view.values[slot.name]
                shares = contributions(*draw(read, weight, self.locations, generator), slot, view.units.blocks[block])
                gram += shares.T @ shares
        return grams


def draw(windows: Tensor, weight: Tensor, locations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows and weights of outputs drawn at random: image by image, at any position, of any output channel.

    Args:
        windows: shape (images, *positions, inputs, *kernel).
        weight: shape (outputs, inputs, *kernel).
        locations: outputs per image.
        generator: where the draws come from.

    Returns:
        Both of shape (images * locations, inputs, *kernel).
    """
    positions = windows.shape[1 : windows.dim() - weight.dim() + 1]
    count = len(windows) * locations
    images = torch.arange(len(windows)).repeat_interleave(locations)
    flat = torch.randint(positions.numel(), (count,), generator=generator)
    at = torch.unravel_index(flat, positions) if positions else ()
    outputs = torch.randint(len(weight), (count,), generator=generator)
    return windows[(images, *at)], weight[outputs]


def contributions(windows: Tensor, weights: Tensor, slot: Slot, size: int) -> Tensor:
    """What each channel of a block adds to each drawn output, shape (samples, units), float64, on the CPU."""
    inputs = (windows * weights).reshape(*windows.shape[:2], -1).sum(2).double().cpu()
    # unit -1 lands in the spare last cell
    return inputs.new_zeros(len(inputs), size + 1).index_add(1, slot.unit % (size + 1), inputs)[:, :-1]


def removal_order(gram: Tensor) -> Tensor:
    """Channels in the order in which the greedy choice removes them, from the Gram matrix of their contributions."""
    # With j the removed sum's square grows by 2 <sum, j> + <j, j>.
    growth, order = gram.diagonal().clone(), []
    for _ in range(len(gram)):
        order.append(int(growth.argmin()))
        growth += 2 * gram[order[-1]]
        growth[order[-1]] = torch.inf
    return torch.tensor(order)


def least_squares(gram: Tensor, kept: Tensor) -> Tensor:
    """Scales of the kept channels with which they come closest to the sum of all; 1 for those that go.

    What the samples leave open stays at 1: the solution nearest to no change is taken.
    """
    scales = torch.ones(len(gram), dtype=gram.dtype)
    lost = gram[kept][:, ~kept].sum(1)
    # activations are float32: directions a millionth as strong are noise
    scales[kept] += torch.linalg.pinv(gram[kept][:, kept], rtol=1e-6, hermitian=True) @ lost
    return scales


def _readers(view: View) -> list[Reader]:
    """Every weight that reads a block's channels, with the axis on which it does."""
    layers = channel_units(view).layers
    found = [(b, s) for b, slots in layers.items() for s in slots if not s.producer and s.name in view.prunable]
    if unread := layers.keys() - {block for block, _ in found}:
        raise UsageError(
            f"thinet rebuilds what the next layer computes, and no convolution or linear layer reads "
            f"{', '.join(sorted(unread))}; choose another method"
        )
    return found


def _layers(readers: list[Reader]) -> tuple[str, ...]:
    """The layers that read, each once."""
    return tuple(dict.fromkeys(layer_name(slot.name) for _, slot in readers))


def _rescaled(view: View, readers: list[Reader], grams: list[Tensor], masks: Masks) -> Values:
    """The readers' weights, with the kept channels' scales folded in."""
    present = view.units.sums({name: mask.float() for name, mask in masks.items()})
    values: dict[str, Tensor] = {}
    for (block, slot), gram in zip(readers, grams, strict=True):
        weight = values.get(slot.name, view.values[slot.name])
        scales = least_squares(gram, present[block].cpu() > 0).to(weight)
        values[slot.name] = weight * along(slot, scales, weight.dim())
    return values
