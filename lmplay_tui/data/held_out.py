"""Which rows of a dataset are held out for validation: computed, the same in every stage, never trained in any.

A row is held out, or not, by its absolute place in its file or split of the hub, whatever slice, configuration or
mixture names it, and whatever rows are appended behind it later.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate

from lmplay_tui.data.shuffle import keyed, mixed
from lmplay_tui.data.splits import Segment


@cache
def _ratio(share: float) -> tuple[int, int]:
    """The share as it is written: 0.3 is three tenths."""
    return Fraction(repr(float(share))).as_integer_ratio()


class HeldOut:
    """One place of each interval `[ceil(m / share), ceil((m + 1) / share))` of all places from 0 on, without an end.

    A hash of `key` and `m` chooses it, so that every place is found at once. The arithmetic is exact.
    """

    def __init__(self, share: float, key: int) -> None:
        """`share`: at least 0 and below 1."""
        assert 0 <= share < 1
        self._per, self._of = _ratio(share)  # so many are held out, of so many
        self._key = key

    def _start(self, interval: int) -> int:
        return -(-interval * self._of // self._per)

    def _chosen(self, interval: int) -> int:
        start = self._start(interval)
        return start + mixed(self._key ^ mixed(interval)) % (self._start(interval + 1) - start)

    def held_before(self, place: int) -> int:
        """How many places below `place` are held out."""
        if not self._per or not place:
            return 0
        interval = place * self._per // self._of
        return interval + (self._chosen(interval) < place)

    def held(self, number: int) -> int:
        """The `number`-th place that is held out."""
        return self._chosen(number)

    def training(self, number: int) -> int:
        """The `number`-th place that is not held out."""
        if not self._per:
            return number
        # Interval m begins behind ceil(m * (of - per) / per) places to train on.
        interval = number * self._per // (self._of - self._per)
        earlier = -(-interval * (self._of - self._per) // self._per)
        place = self._start(interval) + number - earlier
        return place + (place >= self._chosen(interval))


@dataclass(frozen=True)
class Piece:
    """Rows of a dataset that lie together, of which `share` is held out. `row`: the first one's number in it."""

    segment: Segment
    row: int
    share: float


def whole(segments: Sequence[Segment], share: float) -> list[Piece]:
    """All the rows of a dataset."""
    before = accumulate((segment.rows for segment in segments), initial=0)
    return [Piece(segment, row, share) for segment, row in zip(segments, before, strict=False)]


class HeldOutRows:
    """The rows of some pieces, numbered through: those to train on and those held out, each in their order.

    What is held out follows from `seed` and each piece's share, identity and places. Any row is found in the
    logarithm of the number of pieces.
    """

    def __init__(self, pieces: Sequence[Piece], seed: int) -> None:
        segments = [piece.segment for piece in pieces]
        self._choices = [
            HeldOut(piece.share, keyed(seed, "held out", piece.segment.identity)) for piece in pieces
        ]  # fmt: skip
        self._firsts = [segment.first for segment in segments]
        self._first_rows = [piece.row for piece in pieces]
        ends = zip(self._choices, segments, strict=True)
        spans = [(choice.held_before(s.first), choice.held_before(s.first + s.rows)) for choice, s in ends]
        self._first_held = [first for first, _ in spans]
        self._held_before = list(accumulate((end - first for first, end in spans), initial=0))
        rows_before = accumulate((segment.rows for segment in segments), initial=0)
        self._training_before = [rows - held for rows, held in zip(rows_before, self._held_before, strict=True)]
        self.held_rows = self._held_before[-1]
        self.training_rows = self._training_before[-1]

    def held(self, number: int) -> int:
        """The row that is the `number`-th one held out."""
        if not 0 <= number < self.held_rows:
            raise IndexError(number)
        segment = bisect_right(self._held_before, number) - 1
        place = self._choices[segment].held(self._first_held[segment] + number - self._held_before[segment])
        return self._first_rows[segment] + place - self._firsts[segment]

    def training(self, number: int) -> int:
        """The row that is the `number`-th one to train on."""
        if not 0 <= number < self.training_rows:
            raise IndexError(number)
        segment = bisect_right(self._training_before, number) - 1
        first = self._firsts[segment]
        earlier = first - self._first_held[segment]  # places to train on before the segment
        place = self._choices[segment].training(earlier + number - self._training_before[segment])
        return self._first_rows[segment] + place - first
