"""Reads files of text (JSON Lines, JSON, CSV, `.txt`), compressed ones too, as Arrow record batches of strings.

Every scalar is the text that the file spells: numbers keep their zeros, dates stay words, nothing is taken for a
missing value but JSON's null and NaN. Lists and objects are JSON text. So no column has a type that a later row could
break.
"""

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from lmplay_tui.data import column_names as known
from lmplay_tui.data.cells import whole_text, with_kinds
from lmplay_tui.data.conversations import plain
from lmplay_tui.data.csv_files import Chunk, read_csv
from lmplay_tui.data.decoding import BLOCK, Tick, Unreadable, opened, packed, undecodable
from lmplay_tui.data.json_documents import Document, NotJson, find_rows, load, spelled
from lmplay_tui.data.text_rows import divided, division_of
from lmplay_tui.text import one_line

MOST_COLUMNS = 1000  # keys beyond them are data, used as keys
_JUDGED_CHARACTERS = 4 << 20  # of a .txt: what its rows are is decided by its beginning
_KINDS = {str: "string", bool: "bool", type(None): "null", list: "list", dict: "object"}  # anything else: a number
_WITH_ARTICLES = {
    "string": "a text", "bool": "true or false", "null": "null", "list": "a list", "object": "an object",
    "number": "a number",
}  # fmt: skip
_USUAL_NAMES = frozenset(
    (*known.CONVERSATIONS, *known.TEXTS, *known.PROMPT_ORDER, *known.ASKED, *known.TRUTHS, *known.SUMMARIES,
     *known.SUMMARIZED, *known.CHOSEN, *known.REJECTED, *chain(*known.PAIRS), "title")
)  # fmt: skip


@dataclass
class Found:
    """What was found while files were read into common columns."""

    kinds: dict[str, set[str]] = field(default_factory=dict)  # a column's name: what its cells are
    notes: list[str] = field(default_factory=list)  # of the present file: facts to be told
    most_columns: int = MOST_COLUMNS
    mended: int = 0  # of the present file: cells with half a character
    left_out: int = 0  # of the present file: cells of columns beyond `most_columns`
    alone: bool = False  # the present file is a JSON document of one object, which is a row
    rows: int = 0  # of all files


def read_batches(
    path: Path, kind: str, compression: str, found: Found, tick: Tick, *, look: bool = False, block: int = BLOCK
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, all columns strings; those that `found` knows come first, whether the file has them or not.

    `kind`: one of `TEXT_KINDS`. Raises `Unreadable` for what is wrong with the contents, `OSError` for
    what is wrong with the disk. What `tick` raises ends the reading.
    `look`: only the first batch is wanted. `block`: characters read at a time.
    """
    if not compression and (compression := packed(path)):
        found.notes.append(f"is compressed as a {compression} file is, though its name does not say so")
    try:
        for columns in _chunks(path, kind, compression, found, tick, look=look, block=block):
            yield _batch(columns, found)
    except UnicodeDecodeError as error:
        raise Unreadable(undecodable(path, compression, error.encoding)) from error
    except UnicodeError as error:  # UTF-16 that breaks off
        raise Unreadable(f"is not the text that its first bytes announce ({one_line(error, 80)})") from error
    except EOFError as error:
        raise Unreadable("breaks off: its compressed data are incomplete") from error
    except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise Unreadable(f"is no sound {compression} file ({one_line(error, 80)})") from error
    except OSError as error:
        if compression and error.errno is None:  # a codec's, not the disk's
            raise Unreadable(f"is no sound {compression} file ({one_line(error, 80)})") from error
        raise
    except RecursionError as error:
        raise Unreadable("holds values that are nested too deeply") from error
    if found.mended:
        found.notes.append(f"{found.mended:,} cells hold half of a surrogate pair: U+FFFD stands for it")
    if found.left_out:
        said = "those seen later are left out, but for usual names"
        found.notes.append(f"more than {found.most_columns:,} different keys: {said}")
    found.mended = found.left_out = 0


def _chunks(
    path: Path, kind: str, compression: str, found: Found, tick: Tick, *, look: bool, block: int
) -> Iterator[Chunk]:
    match kind:
        case ".csv" | ".tsv":
            own = "\t" if kind == ".tsv" else ","
            return read_csv(path, compression, found.notes, tick, own=own, look=look, block=block)
        case ".json" | ".jsonl" | ".ndjson":
            return _json(path, compression, found, tick, lines=kind != ".json", block=block)
        case _:
            return _txt(path, compression, found, tick, block)


def first_rows(path: Path, kind: str, compression: str) -> tuple[pa.Table, bool]:
    """The first rows of a file, with the kinds of their cells, and whether it is a JSON document of one object.

    Raises as `read_batches`.
    """
    found = Found()
    batch = next(read_batches(path, kind, compression, found, lambda share: None, look=True), None)
    if batch is None:
        return pa.table({}), False
    fields = [with_kinds(field, found.kinds[field.name]) for field in batch.schema]
    return pa.Table.from_arrays(batch.columns, schema=pa.schema(fields)), found.alone


def first_lines(path: Path, compression: str, most: int) -> list[str]:
    """The first lines of a file of text that are not blank, without the white space around them."""
    with opened(path, compression, newline=None) as text, suppress(UnicodeError, EOFError, zlib.error):
        return [line.strip() for line in islice(text, most) if line.strip()]
    return []


def _batch(columns: Chunk, found: Found) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    for name in columns:
        if name not in found.kinds:
            if len(found.kinds) >= found.most_columns and plain(name) not in _USUAL_NAMES:
                found.left_out += rows
                continue
            found.kinds[name] = {"null"} if found.rows else set()
    found.rows += rows
    arrays = []
    for name, kinds in found.kinds.items():
        cells = columns.get(name)
        if cells is None:
            kinds.add("null")
            arrays.append(pa.nulls(rows, pa.string()))
        else:
            arrays.append(_strings(cells, kinds, found))
    names = [whole_text(name) for name in found.kinds]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _strings(cells: Any, kinds: set[str], found: Found) -> pa.Array:
    if isinstance(cells, pa.Array):
        kinds.add("string")
        return cells
    types = set(map(type, cells))
    kinds |= {_KINDS.get(kind, "number") for kind in types}
    if not types <= {str, type(None)}:
        cells = [cell if cell is None or type(cell) is str else spelled(cell) for cell in cells]
    try:
        return pa.array(cells, pa.string())
    except UnicodeEncodeError:  # "\ud800" in JSON
        mended = [None if cell is None else whole_text(cell) for cell in cells]
        found.mended += sum(cell != whole for cell, whole in zip(cells, mended, strict=True))
        return pa.array(mended, pa.string())


# ---- JSON


def _json(path: Path, compression: str, found: Found, tick: Tick, *, lines: bool, block: int) -> Iterator[Chunk]:
    """JSON Lines, objects one after the other, a list of objects, or an object that holds the list.

    What the file holds decides, not its name; only an object that stands alone is a row in a `.jsonl` and looked
    into in a `.json`.
    """
    with opened(path, compression) as text:
        start = text.read(block)
    if not start.strip():
        return
    first, _, rest = start.lstrip().partition("\n")
    if first.startswith("["):  # a list of rows; in a `.jsonl`, one after another are rows themselves, and refused
        is_by_line = lines and _is_whole(first) and _is_whole(rest.lstrip().partition("\n")[0])
    elif lines:  # also where the first line is the broken one
        is_by_line = _is_whole(first) or _is_whole(rest.lstrip().partition("\n")[0])
    else:
        is_by_line = _is_whole(first) and bool(rest.strip())
    if is_by_line:
        rows = _json_lines(path, compression, tick, block)
    else:
        rows = _json_document(path, compression, found, tick, lines=lines, block=block)
    yield from _objects(rows, found)


def _is_whole(line: str) -> bool:
    try:
        load(line)
    except NotJson:
        return False
    return True


Numbered = tuple[list[int], list[Any]]  # the lines of values, and the values


def _json_lines(path: Path, compression: str, tick: Tick, size: int) -> Iterator[Numbered]:
    """The values of a file with one a line. A blank line is none."""
    number = 0
    with opened(path, compression, tick) as text:
        for block in _blocks(text, size):
            values, numbers = [], []
            for given in block.split("\n"):
                number += 1
                line = given.removeprefix("\ufeff")  # of a file that was appended to another
                if not line or line.isspace():
                    continue
                try:
                    values.append(load(line))
                except NotJson as error:
                    raise Unreadable(f"line {number}: no JSON: {error.said} at column {error.column}") from error
                numbers.append(number)
            if values:
                yield numbers, values


def _blocks(text: TextIO, size: int) -> Iterator[str]:
    """The text in blocks that end at line breaks, which are not part of them."""
    parts: list[str] = []
    while block := text.read(size):
        cut = block.rfind("\n")
        if cut < 0:
            parts.append(block)
            continue
        yield "".join([*parts, block[:cut]])
        parts = [block[cut + 1 :]]
    if last := "".join(parts):
        yield last


def _json_document(
    path: Path, compression: str, found: Found, tick: Tick, *, lines: bool, block: int
) -> Iterator[Numbered]:
    """The values of a file that is a JSON document, or several."""
    try:
        with opened(path, compression) as text:
            where = find_rows(Document(text, block), lines=lines)
        if where.note:
            found.notes.append(where.note)
        found.alone = where.alone
        with opened(path, compression, tick) as text:
            document = Document(text, block)
            values: list[Any] = []
            numbers: list[int] = []
            if where.across:
                columns = document.columns()
                values = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
                yield [1] * len(values), values
                return
            begun = 0
            for value in document.rows(where.key):
                values.append(value)
                numbers.append(document.line)
                if document.read - begun >= block:
                    yield numbers, values
                    values, numbers, begun = [], [], document.read
            if values:
                yield numbers, values
    except NotJson as error:
        raise Unreadable(str(error)) from error


def _objects(chunks: Iterable[Numbered], found: Found) -> Iterator[Chunk]:
    """Columns of rows that are objects; rows that are texts are a column `text`."""
    expected: type | None = None
    for numbers, values in chunks:
        if expected is None:
            expected = str if type(values[0]) is str else dict
            if expected is str:
                found.notes.append("its rows are texts without a name: column text")
        if set(map(type, values)) != {expected}:
            at = next(at for at, value in enumerate(values) if type(value) is not expected)
            kind = _WITH_ARTICLES[_KINDS.get(type(values[at]), "number")]
            wanted = "an object" if expected is dict else "a text like those before it"
            raise Unreadable(f"line {numbers[at]}: a row is {kind}, not {wanted}")
        if expected is str:
            yield {"text": values}
            continue
        names = dict.fromkeys(found.kinds)
        fresh = set().union(*values)
        if not fresh <= names.keys():
            names = dict.fromkeys(name for row in values for name in row)
        else:
            names = {name: None for name in names if name in fresh}
        names = names or dict.fromkeys(islice(found.kinds, 1))
        if not names:
            raise Unreadable(f"line {numbers[0]}: an object without any key")
        yield {name: [row.get(name) for row in values] for name in names}


# ---- texts without columns


def _txt(path: Path, compression: str, found: Found, tick: Tick, block: int) -> Iterator[Chunk]:
    """Pieces between blank lines; or the lines, where each of them is a document."""
    with opened(path, compression, newline=None) as text:
        start = text.read(_JUDGED_CHARACTERS)
        rest = text.read(1)
    lines = start.split("\n")
    if rest:
        lines.pop()
    division = division_of(lines)
    found.notes.append(division)
    with opened(path, compression, tick, newline=None) as text:
        # The mark is that of a file that was appended to another.
        pieces = (piece.removeprefix("\ufeff") for piece in divided(text, division))
        for piece in pieces:
            texts, characters = [piece], len(piece)
            for other in pieces:
                texts.append(other)
                characters += len(other)
                if characters >= block:
                    break
            yield {"text": texts}
