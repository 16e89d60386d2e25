"""Which rows of a dataset are trained on, which are its own for validation, and where they lie in the whole.

Which rows of a dataset are held out for validation: computed, the same in every stage, never trained in any.

A row is held out, or not, by its absolute place in its file or split of the hub, whatever slice, configuration or
mixture names it, and whatever rows are appended behind it later.
"""

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import Any

import pyarrow as pa

from lmplay_tui.data.columns import find_columns
from lmplay_tui.data.table import Rows
from lmplay_tui.errors import UserError
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

Report = Callable[[str, str, float | None], None]  # activity, detail, fraction

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test", "eval")
_KINDS = b"kinds"  # of a field's metadata: what the cells of a column were in a text file


@dataclass(frozen=True)
class Segment:
    """Rows of a split that lie together, in one file or in one split of the hub.

    `identity` decides, with the rows' places, which are held out: the same however the rows are named.
    `first`: the absolute place of the first of its `rows` in that file or split, unsliced.
    """

    identity: str
    first: int
    rows: int


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split, or of a slice of one; the segments' rows together are the table's."""

    table: pa.Table
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Splits:
    """A dataset's rows to train on, those of its own split for validation, and facts to be told, a line each."""

    train: SplitRows
    validation: SplitRows | None
    notes: tuple[str, ...] = ()


def of_table(table: pa.Table) -> SplitRows:
    """The rows of a whole file or split."""
    return SplitRows(table, (Segment(identity_of_rows(table), 0, table.num_rows),))


def of_dataset(dataset: Any) -> SplitRows:
    """The rows of a whole split, a `datasets.Dataset`."""
    if dataset._indices is not None:  # a selection of rows: the table underneath holds them all
        dataset = dataset.flatten_indices()
    return of_table(dataset.data.table)


def of_saved(spec: DatasetSpec, found: Any) -> dict[str, SplitRows]:
    """The splits of what `datasets.load_from_disk` gives; one that was saved alone has the name that `spec` uses."""
    named = found if isinstance(found, dict) else {split_names(spec.split)[0]: found}
    return {name: of_dataset(dataset) for name, dataset in named.items()}


def identity_of_rows(table: pa.Table) -> str:
    """What tells a file or a split from others where it is not known what is read: its first row's longest text."""
    texts = [words_of(text) for column in table.columns for text in _texts(_first_cell(column))]
    return _identity(max(texts, key=lambda text: (text.count(" "), len(text), text), default=""))


def identified(spec: DatasetSpec, rows: SplitRows) -> SplitRows:
    """The rows of whole files or splits, told from others by what is read of the first row: the text, the truth.

    So the identity is the same for a copy under another name, in another format, with other columns beside the text,
    and with rows appended. Where nothing is read of that row, it stays what `identity_of_rows` gives.
    """
    read = None
    for asked in (spec, DatasetSpec(spec.name, spec.path)):  # a saved copy may have columns of other names
        try:
            read = read or Rows(spec.name, rows.table, find_columns(asked, rows.table))
        except UserError:  # it will be said when the columns are looked for in earnest
            continue
    segments = []
    before = 0
    for segment in rows.segments:
        items = read.items(before) if read is not None and segment.first == 0 and segment.rows else []
        segments.append(replace(segment, identity=_identity(words_of(items[0].truth))) if items else segment)
        before += segment.rows
    return rows if tuple(segments) == rows.segments else replace(rows, segments=tuple(segments))


def words_of(text: str) -> str:
    """A text without its line breaks and indents: what copies of it in other formats have in common."""
    return " ".join(text.split())


def _identity(words: str) -> str:
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _first_cell(column: pa.ChunkedArray) -> Any:
    try:
        return column[0].as_py()
    except (IndexError, ValueError, pa.ArrowException):  # no rows, or bytes and times that Python cannot hold
        return None


def _texts(cell: Any) -> Iterator[str]:
    """The texts in a cell, which may be nested, as Arrow or as JSON text."""
    if isinstance(cell, str):
        nested = None
        if cell.lstrip()[:1] in ("[", "{"):
            try:
                nested = json.loads(cell)
            except (ValueError, RecursionError):
                nested = None
        if isinstance(nested, dict | list):
            yield from _texts(nested)
        else:
            yield cell
    elif isinstance(cell, Mapping):
        for value in cell.values():
            yield from _texts(value)
    elif isinstance(cell, list | tuple):
        for value in cell:
            yield from _texts(value)
    elif cell is not None and not isinstance(cell, bytes):
        yield str(cell)


def split_names(split: str) -> list[str]:
    """The splits that a spelling names: `train[:50%]+test` names `train` and `test`."""
    return [re.split(r"[\[(]", part)[0].strip() for part in split.split("+")]


def own_validation(spec: DatasetSpec, known: Mapping[str, Any]) -> str | None:
    """The split to validate on: the one that `spec` names, else one with a usual name beside `train`."""
    if spec.validation is not None:
        return spec.validation
    trained = split_names(spec.split)
    if "train" not in trained:
        return None
    return next((name for name in VALIDATION_NAMES if name in known and name not in trained), None)


def choose(spec: DatasetSpec, known: Mapping[str, SplitRows], notes: tuple[str, ...] = ()) -> Splits:
    """The rows to train and to validate on, of the splits `known`, in whole, in slices and in sums of both.

    Raises `UserError` where a split is not there, and where a slice cannot be read or holds nothing.
    """
    validation = own_validation(spec, known)
    wanted = {spec.split, *split_names(spec.split)}
    if validation is not None:
        wanted |= {validation, *split_names(validation)}
    known = {name: identified(spec, rows) if name in wanted else rows for name, rows in known.items()}
    train = _split(spec, spec.split, known)
    return Splits(train, None if validation is None else _split(spec, validation, known), notes)


def _split(spec: DatasetSpec, name: str, known: Mapping[str, SplitRows]) -> SplitRows:
    if name in known:
        return known[name]
    for part in split_names(name):
        if part not in known:
            raise UserError(
                f"dataset {spec.name}: there is no split {one_line(part, 60)}{nearest(part, known)}; "
                f"it has {one_line(', '.join(known), 200)}"
            )
    from lmplay_tui.data.hub import quiet_datasets  # which imports this module

    shown = f"dataset {spec.name}: its split {one_line(name, 80)}"
    sizes = {part: rows.table.num_rows for part, rows in known.items()}
    try:
        wanted = quiet_datasets().ReadInstruction.from_spec(name).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        said = one_line(error, 120)
        raise UserError(f"{shown} cannot be read ({said}); write train[:50%], train[10:20] or train+test") from None
    for part in wanted:
        if part.to <= part.from_:
            rows = f"{sizes[part.splitname]:,}"
            raise UserError(f"{shown} holds nothing in rows {part.from_:,} to {part.to:,}; "
                            f"{one_line(part.splitname, 60)} has {rows} rows")  # fmt: skip
    try:
        return _joined([_sliced(known[part.splitname], part.from_, part.to) for part in wanted])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{shown} cannot be put together: {one_line(error, 160)}") from None


def _sliced(whole: SplitRows, start: int, stop: int) -> SplitRows:
    """The rows from `start` up to `stop`: the same memory, and the places that they had."""
    segments = []
    before = 0
    for segment in whole.segments:
        first, end = max(start - before, 0), min(stop - before, segment.rows)
        if first < end:
            segments.append(Segment(segment.identity, segment.first + first, end - first))
        before += segment.rows
    return SplitRows(whole.table.slice(start, stop - start), tuple(segments))


def _joined(parts: Sequence[SplitRows]) -> SplitRows:
    if len(parts) == 1:
        return parts[0]
    tables = [part.table for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    fields = []
    for field in table.schema:
        found = [t.schema.field(field.name).metadata or {} for t in tables if field.name in t.schema.names]
        kinds = {kind for metadata in found for kind in metadata.get(_KINDS, b"").split(b",") if kind}
        merged = (field.metadata or {}) | ({_KINDS: b",".join(sorted(kinds))} if kinds else {})
        fields.append(field.with_metadata(merged) if merged else field)
    table = pa.Table.from_arrays(table.columns, schema=pa.schema(fields, table.schema.metadata))
    return SplitRows(table, tuple(segment for part in parts for segment in part.segments))


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
        from lmplay_tui.data.order import mixed  # which imports this module

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
        from lmplay_tui.data.order import keyed  # which imports this module

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
