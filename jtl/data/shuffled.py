"""Orders of small sets, an epoch at once: Grain 0.2.18's `MapDataset.range(n).shuffle(seed).repeat()`.

Grain enciphers a position by four rounds of Simon (Beaulieu et al. 2013) over 16 bits or more, again and
again until what comes out is below n: of 397 examples 165 times, 80 µs a position, and a batch of them takes
longer than a step of a small head. Here all of an epoch is enciphered at once, in 1 ms.
"""

from dataclasses import dataclass, field

import numpy as np

# The least of Grain's ciphers: words of 8 bits. Larger sets walk a handful of times at most.
WORD_BITS = 8
MAX_SIZE = 1 << 2 * WORD_BITS
# Batches run across the ends of epochs, and threads read ahead.
NUM_KEPT = 3
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Shuffled:
    """The endless order of a set of at most `MAX_SIZE`: another permutation every epoch."""

    size: int
    seed: int
    kept: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        found = self.kept.get(epoch)
        if found is None:
            found = permutation(self.size, (self.seed + epoch) % (MASK + 1))
            for old in sorted(self.kept)[: 1 - NUM_KEPT]:
                self.kept.pop(old, None)  # another thread may have been quicker
            self.kept[epoch] = found
        return int(found[place])


def permutation(size: int, seed: int) -> np.ndarray:
    """Return Grain's permutation of so many numbers, by `index_shuffle`.

    >>> permutation(5, 0).tolist()
    [0, 4, 1, 2, 3]
    """
    assert 1 <= size <= MAX_SIZE, size
    enciphered = _enciphered(seed)
    # What lies outside is enciphered again until it lies inside: each round goes as far as all before it.
    inside = np.where(np.arange(MAX_SIZE) < size, np.arange(MAX_SIZE), enciphered)
    while (inside[enciphered[:size]] >= size).any():
        inside = inside[inside]
    return inside[enciphered[:size]]


def _enciphered(seed: int) -> np.ndarray:
    """Return what each number of two words becomes."""
    keys = _keys(seed)
    numbers = np.arange(MAX_SIZE, dtype=np.uint32)
    left, right = numbers >> WORD_BITS, numbers & 0xFF
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left = left ^ _mixed(right) ^ (first & 0xFF)
        right = right ^ _mixed(left) ^ (second & 0xFF)
    return ((left << WORD_BITS) | right).astype(np.int64)


def _mixed(word: np.ndarray) -> np.ndarray:
    """Return Simon's round function; a rotation by all 8 bits is none."""
    return (_rotated(word, 1) & word) ^ _rotated(word, 2)


def _rotated(word: np.ndarray, by: int) -> np.ndarray:
    return ((word << by) | (word >> (WORD_BITS - by))) & 0xFF


def _keys(seed: int) -> list[int]:
    """Return the four words that C++'s `std::seed_seq{seed}` generates (C++17, 29.6.7.1)."""
    num, words = 4, [0x8B8B8B8B] * 4
    for place in range(num):
        mixed = words[place] ^ words[(place + 1) % num] ^ words[place - 1]
        first = 1664525 * (mixed ^ (mixed >> 27)) & MASK
        second = first + (1, 1 + seed, 2, 3)[place] & MASK
        words[(place + 1) % num] = words[(place + 1) % num] + first & MASK
        words[(place + 2) % num] = words[(place + 2) % num] + second & MASK
        words[place] = second
    for place in range(num):
        mixed = words[place] + words[(place + 1) % num] + words[place - 1] & MASK
        first = 1566083941 * (mixed ^ (mixed >> 27)) & MASK
        second = first - place & MASK
        words[(place + 1) % num] ^= first
        words[(place + 2) % num] ^= second
        words[place] = second
    return words
