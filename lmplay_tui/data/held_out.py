"""Which rows of a dataset are not trained, because a stage of the plan validates on them.

Two choices, both by the absolute places of rows in their file or split of the hub, whatever slice, configuration or
mixture names them, and whatever rows are appended behind them later:
- a share of the rows, where a dataset has no split of its own to validate on: computed, the same in every stage;
- what another stage validates on: a split may be what another stage trains, by name, as a file, in a slice or a sum.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate

from lmplay_tui.data.rows import Rows
from lmplay_tui.data.shuffle import keyed, mixed
from lmplay_tui.data.splits import Segment, words_of

_COMPARED_ROWS = 16  # before two datasets that begin alike count as the same rows
_DISTINCT_WORDS = 8  # a shorter answer is compared with its prompt: "yes" is that of many questions

Span = tuple[int, int]  # of places: the first, and the one behind the last


# ---- a share of the rows


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
class DatasetPiece:
    """Rows of a dataset that lie together, of which `share` is held out. `row`: the first one's number in it."""

    segment: Segment
    row: int
    share: float


def pieces_of(segments: Sequence[Segment], share: float) -> list[DatasetPiece]:
    """All the rows of a dataset, `share` of each segment held out."""
    before = accumulate((segment.rows for segment in segments), initial=0)
    return [DatasetPiece(segment, row, share) for segment, row in zip(segments, before, strict=False)]


class HeldOutRows:
    """The rows of some pieces, numbered through: those to train on and those held out, each in their order.

    What is held out follows from `seed` and each piece's share, identity and places. Any row is found in the
    logarithm of the number of pieces.
    """

    def __init__(self, pieces: Sequence[DatasetPiece], seed: int) -> None:
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


# ---- what other stages validate on


@dataclass(frozen=True)
class Claim:
    """Rows that a stage validates on: all of `rows`, or (`is_whole` false) those held out of them by their places."""

    stage: str
    rows: Rows
    segments: tuple[Segment, ...]
    is_whole: bool


def claims_on(
    stage: str, train: Rows, segments: tuple[Segment, ...], own: Rows | None, own_segments: tuple[Segment, ...],
    *, share: float, seed: int,
) -> Iterator[Claim]:  # fmt: skip
    """What one dataset of a stage validates on: its own split, else a share of its rows to train on."""
    if own is not None:
        yield Claim(stage, own, own_segments, is_whole=True)
    elif share > 0 and HeldOutRows(pieces_of(segments, share), seed).training_rows:  # else nothing is held out of it
        yield Claim(stage, train, segments, is_whole=False)


@dataclass(frozen=True)
class TakenOut:
    """What other datasets of the plan, or this one's own split, leave of a dataset's rows to train on.

    `rows`: so many are left out because a stage of `by` validates on them. `held_by`: stages that hold rows out of
    the same ones.
    """

    pieces: tuple[DatasetPiece, ...]
    rows: int
    by: tuple[str, ...]
    held_by: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        return not self.rows and not self.held_by

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the pieces."""
        said = "\n".join(f"{p.row} {p.segment.first} {p.segment.rows} {p.share}" for p in self.pieces)
        return hashlib.sha256(said.encode()).hexdigest()


def take_out(
    rows: Rows, segments: Sequence[Segment], claims: Iterable[Claim], *, share: float, holds_out: bool
) -> TakenOut:
    """Cut a dataset's segments by what the plan validates on.

    `share`: of the rows that are held out, where `holds_out` (the dataset has no split of its own to validate on) and
    where another dataset holds them out. Raises `DataError` where a row that is to be compared cannot be read.
    """
    all_out: dict[str, list[Span]] = {}
    share_out: dict[str, list[Span]] = {}
    by: dict[str, None] = {}
    held_by: dict[str, None] = {}
    for claim in claims:
        if not claim.is_whole and (holds_out or not share):
            continue  # the same choice is made here
        for identity, spans in _same_rows(rows, segments, claim).items():
            (all_out if claim.is_whole else share_out).setdefault(identity, []).extend(spans)
            (by if claim.is_whole else held_by)[claim.stage] = None
    pieces: list[DatasetPiece] = []
    out = before = 0
    merged_all = {identity: _merged(spans) for identity, spans in all_out.items()}
    merged_share = {identity: _merged(spans) for identity, spans in share_out.items()}
    for segment in segments:
        here = (segment.first, segment.first + segment.rows)
        for span, is_out in _cut(here, merged_all.get(segment.identity, ())):
            if is_out:
                out += span[1] - span[0]
                continue
            for part, is_held in _cut(span, merged_share.get(segment.identity, ())):
                kept = Segment(segment.identity, part[0], part[1] - part[0])
                pieces.append(
                    DatasetPiece(kept, before + part[0] - segment.first, share if holds_out or is_held else 0.0)
                )
        before += segment.rows
    return TakenOut(tuple(pieces), out, tuple(by), tuple(held_by))


def _same_rows(rows: Rows, segments: Sequence[Segment], claim: Claim) -> Mapping[str, list[Span]]:
    """The places, by identity, that a dataset and a claim have in common, where they hold the same texts."""
    ours, theirs = _by_identity(segments), _by_identity(claim.segments)
    found = {}
    for identity in ours.keys() & theirs.keys():
        common = list(_common(ours[identity], theirs[identity]))
        if common and _say_the_same(rows, claim.rows, common):
            found[identity] = [span for span, _, _ in common]
    return found


def _by_identity(segments: Sequence[Segment]) -> dict[str, list[tuple[Segment, int]]]:
    """The segments in the order of their places, each with the number of its first row in the dataset."""
    found: dict[str, list[tuple[Segment, int]]] = {}
    before = 0
    for segment in segments:
        found.setdefault(segment.identity, []).append((segment, before))
        before += segment.rows
    for of_one in found.values():
        of_one.sort(key=lambda pair: pair[0].first)
    return found


def _common(
    ours: Sequence[tuple[Segment, int]], theirs: Sequence[tuple[Segment, int]]
) -> Iterator[tuple[Span, int, int]]:
    """Spans of places in both, each with the number that its first row has in either dataset."""
    i = j = 0
    while i < len(ours) and j < len(theirs):
        (a, a_row), (b, b_row) = ours[i], theirs[j]
        first, end = max(a.first, b.first), min(a.first + a.rows, b.first + b.rows)
        if first < end:
            yield (first, end), a_row + first - a.first, b_row + first - b.first
        if a.first + a.rows < b.first + b.rows:
            i += 1
        else:
            j += 1


def _say_the_same(ours: Rows, theirs: Rows, common: Sequence[tuple[Span, int, int]]) -> bool:
    """Whether rows spread over the common places hold the same texts: two datasets may begin alike by chance.

    Several rows of one and the same text tell nothing.
    """
    total = sum(span[1] - span[0] for span, _, _ in common)
    taken = min(_COMPARED_ROWS, total)
    wanted = iter([number * (total - 1) // max(1, taken - 1) for number in range(taken)])
    number: int | None = next(wanted)
    before = 0
    seen = set()
    for span, our_row, their_row in common:
        while number is not None and number < before + span[1] - span[0]:
            one, other = ours.items(our_row + number - before), theirs.items(their_row + number - before)
            texts = tuple(words_of(item.truth) for item in one)
            if texts != tuple(words_of(item.truth) for item in other):
                return False
            prompts = [tuple(words_of(item.prompt) for item in items[:1]) for items in (one, other)]
            if sum(text.count(" ") + 1 for text in texts) < _DISTINCT_WORDS and prompts[0] != prompts[1]:
                return False
            seen.add((texts, prompts[0]))
            number = next(wanted, None)
        before += span[1] - span[0]
    return len(seen) > 1 or total == 1


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same places in spans that are apart, in order."""
    found: list[Span] = []
    for first, end in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return found


def _cut(span: Span, by: Sequence[Span]) -> Iterator[tuple[Span, bool]]:
    """The parts of `span`, in order, each with whether it lies within one of the ordered spans `by`."""
    place = span[0]
    for first, end in by[_first_behind(by, place) :]:
        if first >= span[1]:
            break
        if place < first:
            yield (place, first), False
        yield (max(place, first), min(end, span[1])), True
        place = min(end, span[1])
    if place < span[1]:
        yield (place, span[1]), False


def _first_behind(spans: Sequence[Span], place: int) -> int:
    """The number of the first span that ends behind `place`."""
    return bisect_right(spans, place, key=lambda span: span[1])
