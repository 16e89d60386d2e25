"""A dataset's splits: which rows are trained on, which are its own to validate on, and where they lie in the whole."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from lmplay_tui.data.cells import kinds_of, with_kinds
from lmplay_tui.data.columns import find_columns
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.data.mapped_files import check_places
from lmplay_tui.data.rows import Rows
from lmplay_tui.errors import UserError
from lmplay_tui.formats import counted
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

ReportProgress = Callable[[str, str, float | None], None]  # activity, detail, fraction

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test", "eval")


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
    check_places(dataset.data.table)
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
    except (IndexError, ValueError, OverflowError, pa.ArrowException):
        return None  # no rows, or bytes and times that Python cannot hold


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
    shown = f"dataset {spec.name}: its split {one_line(name, 80)}"
    sizes = {part: rows.table.num_rows for part, rows in known.items()}
    try:
        wanted = quiet_datasets().ReadInstruction.from_spec(name).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        said = one_line(error, 120)
        raise UserError(f"{shown} cannot be read ({said}); write train[:50%], train[10:20] or train+test") from None
    for part in wanted:
        if part.to <= part.from_:
            rows = counted(sizes[part.splitname], "row")
            raise UserError(f"{shown} holds nothing in rows {part.from_:,} to {part.to:,}; "
                            f"{one_line(part.splitname, 60)} has {rows}")  # fmt: skip
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
        found = (t.schema.field(field.name) for t in tables if field.name in t.schema.names)
        kinds = {kind for one in found for kind in kinds_of(one) or ()}
        fields.append(with_kinds(field, kinds) if kinds else field)
    table = pa.Table.from_arrays(table.columns, schema=pa.schema(fields, table.schema.metadata))
    return SplitRows(table, tuple(segment for part in parts for segment in part.segments))
