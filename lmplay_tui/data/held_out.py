"""Which rows of a dataset are held out for validation: computed, the same in every stage, never trained in any."""

import math

from lmplay_tui.data.shuffle import keyed, mixed

MOST_ROWS = 5000  # held out of a large dataset, about


class HeldOut:
    """One row of each block of `max(1 / share, rows / 5000)` rows, chosen by a hash of `key` and the block.

    A last, shorter block holds one out only if the choice falls into it. A single row is never held out.
    """

    def __init__(self, rows: int, share: float, key: int) -> None:
        self.rows = rows
        self._key = key
        # The last bits of a quotient are no reason for a larger block.
        block = max(1 / share, rows / MOST_ROWS) - 1e-9 if share > 0 and rows > 1 else 0
        self._block = rows if block > rows else math.ceil(block)
        self._full, self._tail = divmod(rows, self._block) if self._block else (0, rows)
        tail_held = self._block > 0 and self._tail > 0 and self._choice(self._full) < self._tail
        self.held_rows = self._full + tail_held
        self.training_rows = rows - self.held_rows

    def _choice(self, block: int) -> int:
        return mixed(self._key ^ mixed(block)) % self._block

    def held(self, number: int) -> int:
        """The row of the dataset that is the `number`-th one held out."""
        if not 0 <= number < self.held_rows:
            raise IndexError(number)
        return number * self._block + self._choice(number)

    def training(self, number: int) -> int:
        """The row of the dataset that is the `number`-th one to train on."""
        if not 0 <= number < self.training_rows:
            raise IndexError(number)
        if not self._block:
            return number
        block, place = divmod(number, self._block - 1) if self._block > 1 else (0, number)
        if block >= self._full:  # the last block may keep all its rows
            block, place = self._full, number - self._full * (self._block - 1)
        return block * self._block + place + (place >= self._choice(block))


def held_out(rows: int, share: float, seed: int, identity: str) -> HeldOut:
    """The rows held out of the dataset called `identity`."""
    return HeldOut(rows, share, keyed(seed, "held out", identity))
