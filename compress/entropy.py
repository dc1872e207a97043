"""Size of a network under entropy coding: canonical Huffman codes of where the nonzero weights are and what they are.

The last stage of Deep Compression (Han, Mao and Dally, ICLR 2016, arXiv:1510.00149, section 3; the codes: Huffman 1952,
doi 10.1109/JRPROC.1952.273898). No runtime reads this form: it says how small a download could be. Decoding gives back
the weights to the bit, but for -0.0, which becomes 0.0.

    tensor    nonzeros, width, runs, size of the codebook, codebook and indices (or plain values)
    runs      zeros before each nonzero; 2^width - 1 of them or more go on in the next symbol
    symbols   count, size of the table, code length of every symbol (0 where it does not occur), codes
"""

import heapq
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

WIDEST = 8
"""Bits of a run at most, as in the paper; the width that takes the fewest bytes is used."""

LARGEST_BOOK = 1 << 16
"""Distinct values beyond which nobody meant to share any, and a code would take long to find."""


def size_bytes(tensors: Iterable[Floats]) -> int:
    """What `encode` would take for all tensors together, names and shapes not counted."""
    return sum(_Parts.of(tensor).size_bytes() for tensor in tensors)


def encode(weights: Floats) -> bytes:
    """A tensor as a stream of bytes.

    >>> len(encode(np.array([0, 0, 0, 1.5, 0, 0, 0, 1.5, 1.5], np.float32)))
    33
    """
    parts = _Parts.of(weights)
    head = struct.pack("<IB", len(parts.values), parts.width)
    middle = _encode_symbols(_symbols(parts.runs, parts.width)) + struct.pack("<I", len(parts.book))
    if not len(parts.book):
        return head + middle + parts.values.tobytes()
    return head + middle + parts.book.tobytes() + _encode_symbols(parts.indices)


def decode(data: bytes, size: int) -> Floats:
    """The tensor again, flat.

    Args:
        data: of `encode`.
        size: entries of the tensor.
    """
    nonzeros, width = struct.unpack_from("<IB", data)
    numbers, at = _decode_symbols(data, 5)
    (book_size,) = struct.unpack_from("<I", data, at)
    book = np.frombuffer(data, np.float32, book_size or nonzeros, at + 4)
    values = book[_decode_symbols(data, at + 4 + book.nbytes)[0]] if book_size else book
    weights = np.zeros(size, np.float32)
    weights[_positions(numbers, width)] = values
    return weights


@dataclass(frozen=True)
class _Parts:
    """A tensor taken apart.

    Attributes:
        runs: zeros before each nonzero.
        values: the nonzeros.
        book: their distinct values; empty where a codebook does not pay.
        indices: of the values in the codebook.
        width: bits of a run.
    """

    runs: Integers
    values: Floats
    book: Floats
    indices: Integers
    width: int

    @classmethod
    def of(cls, weights: Floats) -> "_Parts":
        flat = weights.reshape(-1)
        positions = np.flatnonzero(flat)
        runs, values = np.diff(positions, prepend=-1) - 1, flat[positions]
        width = min(range(1, WIDEST + 1), key=lambda width: _symbols_bytes(_run_counts(runs, width)))
        book, indices = np.unique(values, return_inverse=True)
        pays = len(book) <= LARGEST_BOOK and book.nbytes + _symbols_bytes(np.bincount(indices)) < values.nbytes
        return cls(runs, values, book if pays else book[:0], indices, width)

    def size_bytes(self) -> int:
        """Length of the stream, without writing it."""
        coded = self.book.nbytes + _symbols_bytes(np.bincount(self.indices)) if len(self.book) else self.values.nbytes
        return 9 + _symbols_bytes(_run_counts(self.runs, self.width)) + coded


def _run_counts(runs: Integers, width: int) -> Integers:
    """How often each symbol of the runs occurs."""
    longest = (1 << width) - 1
    counts = np.bincount(runs % longest, minlength=longest + 1)
    counts[longest] = (runs // longest).sum()
    return counts


def _symbols(runs: Integers, width: int) -> Integers:
    """Runs as symbols: as often the longest as it goes in, then what remains."""
    longest = (1 << width) - 1
    ends = np.cumsum(runs // longest + 1) - 1
    numbers = np.full(ends[-1] + 1 if len(ends) else 0, longest)
    numbers[ends] = runs % longest
    return numbers


def _positions(numbers: Integers, width: int) -> Integers:
    """Where the nonzeros are, from the symbols of the runs."""
    last = numbers != (1 << width) - 1
    positions: Integers = np.cumsum(numbers + last)[last] - 1
    return positions


def code_lengths(counts: Integers) -> Integers:
    """Bits of each symbol in a Huffman code; 0 for one that does not occur, 1 for one that is alone.

    >>> code_lengths(np.array([5, 0, 2, 1])).tolist()
    [1, 0, 2, 2]
    """
    lengths = np.zeros(len(counts), np.int64)
    used = np.flatnonzero(counts)
    leaves, nodes = len(used), max(2 * len(used) - 1, 0)
    heap = [(int(counts[symbol]), node) for node, symbol in enumerate(used)]
    heapq.heapify(heap)
    parent = [0] * nodes
    for node in range(leaves, nodes):
        (first, one), (second, other) = heapq.heappop(heap), heapq.heappop(heap)
        parent[one] = parent[other] = node
        heapq.heappush(heap, (first + second, node))
    depth = [0] * nodes
    for node in reversed(range(nodes - 1)):
        depth[node] = depth[parent[node]] + 1
    lengths[used] = depth[:leaves] if leaves > 1 else 1
    return lengths


def codes(lengths: Integers) -> Integers:
    """The canonical code: symbols in the order of their lengths count upwards.

    >>> [f"{code:b}" for code in codes(np.array([1, 0, 2, 2]))]
    ['0', '0', '10', '11']
    """
    found = np.zeros(len(lengths), np.int64)
    code = before = 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda symbol: int(lengths[symbol])):
        code <<= int(lengths[symbol]) - before
        before = int(lengths[symbol])
        found[symbol] = code
        code += 1
    return found


def _symbols_bytes(counts: Integers) -> int:
    """Length of `_encode_symbols` for symbols of these frequencies."""
    lengths = code_lengths(np.trim_zeros(counts, "b"))
    bits = int((counts[: len(lengths)] * lengths).sum()) if np.count_nonzero(lengths) > 1 else 0
    return 8 + len(lengths) + -(-bits // 8)


def _encode_symbols(numbers: Integers) -> bytes:
    lengths = code_lengths(np.bincount(numbers))
    head = struct.pack("<II", len(numbers), len(lengths)) + lengths.astype(np.uint8).tobytes()
    if np.count_nonzero(lengths) <= 1:
        return head  # the count says it all
    code, length = codes(lengths)[numbers], lengths[numbers]
    start = np.cumsum(length) - length
    bits = np.zeros(int(length.sum()), np.uint8)
    for bit in range(int(length.max())):
        has = length > bit
        bits[start[has] + bit] = code[has] >> (length[has] - 1 - bit) & 1
    return head + np.packbits(bits).tobytes()


def _decode_symbols(data: bytes, at: int) -> tuple[Integers, int]:
    """The numbers, and where the stream goes on."""
    count, table = struct.unpack_from("<II", data, at)
    lengths = np.frombuffer(data, np.uint8, table, at + 8).astype(np.int64)
    at += 8 + table
    used = np.flatnonzero(lengths)
    if len(used) <= 1:
        return np.repeat(used, count), at
    symbol_of = {(int(lengths[s]), int(code)): int(s) for s, code in enumerate(codes(lengths)) if lengths[s]}
    bits = iter(np.unpackbits(np.frombuffer(data, np.uint8, offset=at)).tolist())
    numbers, total = [], 0
    for _ in range(count):
        length = code = 0
        while (length, code) not in symbol_of or not length:
            length, code = length + 1, code << 1 | next(bits)
        numbers.append(symbol_of[length, code])
        total += length
    return np.array(numbers), at + -(-total // 8)
