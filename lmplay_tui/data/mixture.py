"""A mixture's schedule: which dataset gives the next row, computed for any row at once."""

import math
from collections.abc import Sequence
from fractions import Fraction

from lmplay_tui.data.shuffle import mixed
from lmplay_tui.plan.schema import Stopping

LARGEST_BLOCK = 10_000
SMALLEST_BLOCK = 100


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
    if sum(shares) == 1 and min(shares) > 0 and block <= LARGEST_BLOCK:
        block *= max(1, -(-SMALLEST_BLOCK // block))
        return [int(share * block) for share in shares]
    exact = [weight / total * LARGEST_BLOCK for weight in weights]
    counts = [max(1, math.floor(count)) for count in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: max(0, LARGEST_BLOCK - sum(counts))]:
        counts[number] += 1
    return counts
