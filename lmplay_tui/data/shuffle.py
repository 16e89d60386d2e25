"""Orders that are computed, not stored: the row at any place of a shuffle or a mixture is found at once.

So nothing of an order is saved, and a run that goes on at row 10,000,000 reads none of those before. The hashes are
the same in each process and on each machine.
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

from lmplay_tui.plan.schema import Stopping

_MASK = (1 << 64) - 1
_ROUNDS = 6
BLOCK_ROWS = 4096  # rows that are shuffled among themselves: some megabytes, so that disk reads stay local
SMALLEST_MIX, LARGEST_MIX = 100, 10_000  # rows of a mixture's block


def keyed(*parts: object) -> int:
    """A number of 64 bits that depends on every part: the same in each process and on each machine."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def mixed(number: int) -> int:
    """`number` scattered over 64 bits (the finalizer of SplitMix64: Steele, Lea, Flood 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


class Permutation:
    """A keyed permutation of `range(size)`.

    A Feistel network over pairs (left, right), each half changed by a hash of the other and so invertible, on the
    smallest rectangle that holds `size`; what falls outside is sent through again until it falls inside (cycle
    walking: Black and Rogaway 2002), which the rectangle makes rare.
    """

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self._left = max(1, math.isqrt(size))
        self._right = -(-size // self._left)
        self._keys = [mixed(key + number) for number in range(_ROUNDS)]

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.size:
            raise IndexError(place)
        number = self._scattered(place)
        while number >= self.size:
            number = self._scattered(number)
        return number

    def _scattered(self, number: int) -> int:
        left, right = divmod(number, self._right)
        for round_number, key in enumerate(self._keys):
            if round_number % 2:
                left = (left + mixed(key ^ right)) % self._left
            else:
                right = (right + mixed(key ^ left)) % self._right
        return left * self._right + right


class BlockShuffle:
    """A keyed permutation of `range(size)` that moves blocks about and rows about inside their block."""

    def __init__(self, size: int, key: int, block: int = BLOCK_ROWS) -> None:
        self.size = size
        self._block = block
        self._key = key
        full, self._tail = divmod(size, block)
        self._blocks = Permutation(full, mixed(key))
        self._tail_start = (mixed(key ^ 1) % (full + 1)) * block  # the short block has a place of its own
        self._inside: tuple[int, Permutation] | None = None  # the block last used

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.size:
            raise IndexError(place)
        if self._tail_start <= place < self._tail_start + self._tail:
            return self._blocks.size * self._block + self._within(self._blocks.size, place - self._tail_start)
        slot, offset = divmod(place if place < self._tail_start else place - self._tail, self._block)
        block = self._blocks[slot]
        return block * self._block + self._within(block, offset)

    def _within(self, block: int, offset: int) -> int:
        if self._inside is None or self._inside[0] != block:
            size = self._block if block < self._blocks.size else self._tail
            self._inside = block, Permutation(size, mixed(self._key ^ mixed(block + 2)))
        return self._inside[1][offset]


class Mixture:
    """Rows of several datasets in a seeded order whose shares are exact in each block of rows.

    Without weights the datasets take turns. `rows`: what one pass holds, ended as `datasets.interleave_datasets`
    does: when the first dataset is used up, or when each has been used up once (the shorter ones begin again).
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, stopping: Stopping, key: int) -> None:
        self._key = key
        self._counts = [1] * len(sizes) if weights is None else block_counts(weights)
        self._in_turn = weights is None
        self._block = sum(self._counts)
        self._layout: tuple[int, list[tuple[int, int]]] | None = None  # the block last used
        chosen = min if stopping == "first_exhausted" else max
        if weights is None:
            self.rows = chosen(sizes) * len(sizes)
        else:
            self.rows = chosen(self._place(number, size - 1) + 1 for number, size in enumerate(sizes))

    def __getitem__(self, row: int) -> tuple[int, int]:
        """The dataset of row `row`, and how many rows of that dataset come before it."""
        if not 0 <= row < self.rows:
            raise IndexError(row)
        block, place = divmod(row, self._block)
        dataset, earlier = self._laid_out(block)[place]
        return dataset, block * self._counts[dataset] + earlier

    def _place(self, dataset: int, number: int) -> int:
        """The row at which the dataset's `number`-th row comes."""
        block, earlier = divmod(number, self._counts[dataset])
        return block * self._block + self._laid_out(block).index((dataset, earlier))

    def _laid_out(self, block: int) -> list[tuple[int, int]]:
        if self._layout is not None and self._layout[0] == block:
            return self._layout[1]
        places = [(dataset, 0) for dataset, count in enumerate(self._counts) for _ in range(count)]
        if not self._in_turn:
            scattered = mixed(self._key ^ mixed(block))
            order = sorted(range(len(places)), key=lambda place: mixed(scattered ^ place))
            places = [places[place] for place in order]
        seen = [0] * len(self._counts)
        for place, (dataset, _) in enumerate(places):
            places[place] = dataset, seen[dataset]
            seen[dataset] += 1
        self._layout = block, places
        return places


def block_counts(weights: Sequence[float]) -> list[int]:
    """Rows of each dataset in a block: the weights' smallest whole proportions, at least 100 rows together.

    Weights without such proportions below 10,000 rows are rounded there, the largest remainders first; each dataset
    gets a row at least.
    """
    total = math.fsum(weights)
    shares = [Fraction(weight / total).limit_denominator(1000) for weight in weights]
    block = math.lcm(*(share.denominator for share in shares))
    if sum(shares) == 1 and min(shares) > 0 and block <= LARGEST_MIX:
        block *= max(1, -(-SMALLEST_MIX // block))
        return [int(share * block) for share in shares]
    exact = [weight / total * LARGEST_MIX for weight in weights]
    counts = [max(1, math.floor(count)) for count in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: max(0, LARGEST_MIX - sum(counts))]:
        counts[number] += 1
    return counts
