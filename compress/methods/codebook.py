"""Trained quantisation: the weights that are left share a few values per layer (Deep Compression, Han et al.)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.errors import UsageError
from compress.masks import Masks, Values, burn
from compress.method import Outcome, PruningMethod, State, View
from compress.splitting import pack, unpack

ITERATIONS = 100
"""At most, of k-means; more of them take off 2 % of the error of 30,000 pruned weights at 5 bits."""


@dataclass(frozen=True)
class Codebook(PruningMethod):
    r"""Cluster the surviving weights of each layer by k-means, and train the 2^bits centroids in their place.

        forward    w_i = c[index_i]  where the weight is left, 0 elsewhere;  the indices stay as k-means left them
        gradient   dL/dc_k = sum of dL/dw_i  over the members of cluster k

    Centroids start at even distances between the smallest and the largest weight, which serves the few large weights
    better than density or chance do. A step after any other: it prunes nothing and undoes nothing, so that its budget
    says nothing; biases and normalisation train along. The sparse file stores shared values as indices; but where batch
    normalisation follows a convolution, the export folds it into the weights, each output channel by its own factor,
    and that layer is stored as plain values. Its entropy-coded size counts the shared values in any network.

    Han, Mao and Dally, ICLR 2016, arXiv:1510.00149, section 3.

    Attributes:
        bits_conv: of an index in a convolution.
        bits_linear: of an index in any other layer.
    """

    bits_conv: int = 8
    bits_linear: int = 5

    retrains: ClassVar[bool] = False
    meets_budget: ClassVar[bool] = False

    @property
    def needs_budget(self) -> bool:
        """It shares values, and prunes nothing."""
        return False

    def __post_init__(self) -> None:
        if not (1 <= self.bits_conv <= 16 and 1 <= self.bits_linear <= 16):
            raise UsageError(f"codebook needs bits_conv and bits_linear in 1..16; got {self}")

    def init(self, view: View, masks: Masks) -> State:
        """Cluster the weights of every layer."""
        books: dict[str, Tensor] = {}
        indices: dict[str, Tensor] = {}
        for name in view.prunable:
            weight = view.values[name]
            left = weight[masks[name]] if name in masks else weight.reshape(-1)
            bits = self.bits_conv if weight.dim() > 2 else self.bits_linear
            # On the CPU, where sums are taken in the same order every time.
            book = centroids(left.cpu(), 2**bits).to(weight)
            books[name] = book.requires_grad_()
            indices[name] = nearest(weight.reshape(-1), book)
        return State(masks=masks, trainable=books, tensors=pack(index=indices))

    def effective(self, values: Values, state: State, *, training: bool) -> Values:
        """Every weight's centroid, zeros where the masks say so."""
        return burn({**values, **_shared(values, state.trainable, state)}, state.masks)

    def finish(self, view: View, state: State) -> Outcome:
        """The centroids as values."""
        # A centroid of exactly 0 would prune its members: the smallest normal number stands in for it.
        least = torch.finfo(torch.float32).tiny
        books = {name: torch.where(book == 0, least, book) for name, book in state.trainable.items()}
        return Outcome(state.masks, burn(_shared(view.values, books, state), state.masks))


def _shared(values: Values, books: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    indices = unpack(state.tensors, "index")
    return {name: book.index_select(0, indices[name]).view(values[name].shape) for name, book in books.items()}


def centroids(weights: Tensor, count: int) -> Tensor:
    """At most ``count`` centroids of k-means on a line, ascending; those without a member are left out.

    >>> centroids(torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]), 2).tolist()
    [0.5, 11.0]
    """
    weights = weights.double()
    book = torch.linspace(float(weights.min()), float(weights.max()), count, dtype=torch.float64)
    for _ in range(ITERATIONS):
        index = nearest(weights, book)
        members = torch.bincount(index, minlength=count)
        sums = torch.bincount(index, weights, minlength=count)
        moved = torch.where(members > 0, sums / members.clamp_min(1), book)
        if torch.equal(moved, book):
            break
        book = moved
    return book[members > 0]


def nearest(weights: Tensor, book: Tensor) -> Tensor:
    """Index of the nearest of the ascending centroids, in the shape of the weights."""
    return torch.bucketize(weights, (book[1:] + book[:-1]) / 2)
