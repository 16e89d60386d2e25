"""Orders that are computed, not stored: any place of a permutation is found at once, whatever its length."""

import hashlib
import math

_MASK = (1 << 64) - 1
_ROUNDS = 6
BLOCK_ROWS = 4096  # rows that are shuffled among themselves: some megabytes, so that disk reads stay local


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
