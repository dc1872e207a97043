"""Sizes written into a file's Reshape nodes, said in terms of the input's sizes instead.

`Reshape(x, [1, 400])` of a tensor of shape (1, 16, 5, 5) means "join the last three axes". Said so, it still
holds when channels are gone or the batch is another.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

Sizes = tuple[tuple[int, ...] | None, ...]
"""For each axis of the output: the axes of the input whose product it is, or None for the size that was written."""


def in_terms_of_input(old: Sequence[int], new: Sequence[int]) -> Sizes:
    """Which axes of the output are axes of the input, alone or joined; a split axis keeps its written sizes.

    >>> in_terms_of_input((1, 16, 5, 5), (1, 400))
    ((0,), (1, 2, 3))
    >>> in_terms_of_input((2, 7, 12), (2, 7, 3, 4))
    ((0,), (1,), None, None)
    """
    sizes: dict[int, tuple[int, ...] | None] = {}
    for inside, outside in blocks(old, new):
        long = [axis for axis in outside if new[axis] != 1]
        for axis in outside:
            sizes[axis] = None if len(long) > 1 or (len(outside) > 1 and axis not in long) else tuple(inside)
    return tuple(sizes[axis] for axis in range(len(new)))


def blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes, left and right, with the same number of elements.

    >>> list(blocks((1, 6, 4, 4), (1, 2, 3, 16)))
    [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    """
    i = j = 0
    while i < len(old) or j < len(new):
        left = [i] if i < len(old) else []
        right = [j] if j < len(new) else []
        while (a := math.prod(old[axis] for axis in left)) != (b := math.prod(new[axis] for axis in right)):
            if a < b:
                left.append(i + len(left))
            else:
                right.append(j + len(right))
        i, j = i + len(left), j + len(right)
        yield left, right


def from_input(sizes: Sizes, shape: Sequence[Any], written: Sequence[Any]) -> list[Any]:
    """The sizes for an input of this shape.

    >>> from_input(((0,), (1, 2, 3)), (4, 10, 5, 5), (1, 400))
    [4, 250]
    """
    return [
        number if axes is None else math.prod(shape[axis] for axis in axes)
        for axes, number in zip(sizes, written, strict=True)
    ]
