"""Reads files of text (JSON Lines, JSON, CSV, `.txt`), compressed ones too, as Arrow record batches of strings.

Every scalar is the text that the file spells: numbers keep their zeros, dates stay words, nothing is taken for a
missing value but JSON's null. Lists and objects are JSON text. So no column has a type that a later row could break.
"""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from lmplay_tui.data import column_names as known
from lmplay_tui.data.json_documents import Document, NotJson, find_rows, load, spelled
from lmplay_tui.data.messages import plain
from lmplay_tui.data.text_rows import divided, division_of
from lmplay_tui.text import one_line

BLOCK = 4 << 20  # characters read at a time: what bounds the memory that a conversion takes
MOST_COLUMNS = 1000  # keys beyond them are data that somebody used as keys
_RECORDS = 2000  # of a CSV at a time, at most: Python would search more of them for garbage again and again
_SNIFFED_CHARACTERS = 1 << 16
_JUDGED_CHARACTERS = 4 << 20  # of a .txt: what its rows are is decided by its beginning
_SEPARATORS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
_KINDS = {str: "string", bool: "bool", type(None): "null", list: "list", dict: "object"}  # anything else: a number
_WITH_ARTICLES = {
    "string": "a text", "bool": "true or false", "null": "null", "list": "a list", "object": "an object",
    "number": "a number",
}  # fmt: skip
_USUAL_NAMES = frozenset(
    (*known.CONVERSATIONS, *known.TEXTS, *known.PROMPT_ORDER, *known.ASKED, *known.TRUTHS, *known.SUMMARIES,
     *known.SUMMARIZED, *known.CHOSEN, *known.REJECTED, *chain(*known.PAIRS), "title")
)  # fmt: skip

csv.field_size_limit(sys.maxsize)  # a story may stand in one field


class Unreadable(Exception):
    """What is wrong with a file's contents: `line 3: ...`, or a sentence about the whole."""


@dataclass
class Found:
    """What was found while files were read into common columns."""

    kinds: dict[str, set[str]] = field(default_factory=dict)  # a column's name: what its cells are
    notes: list[str] = field(default_factory=list)  # of the present file: facts to be told
    mended: int = 0  # of the present file: cells with half a character
    left_out: int = 0  # of the present file: cells of columns beyond `MOST_COLUMNS`
    alone: bool = False  # the present file is a JSON document of one object, which is a row
    rows: int = 0  # of all files


Tick = Callable[[float], None]  # the share of a file's bytes that was read


def read_batches(
    path: Path, kind: str, compression: str, found: Found, tick: Tick, *, look: bool = False
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, all columns strings; those that `found` knows come first, whether the file has them or not.

    `kind`: one of `TEXT_KINDS`. Raises `Unreadable` for what is wrong with the contents, `OSError` for
    what is wrong with the disk. What `tick` raises ends the reading.
    `look`: only the first batch is wanted, which a CSV then gives without being read to its end.
    """
    reader = _READERS[kind]
    if not compression and (compression := _packed(path)):
        found.notes.append(f"is compressed as a {compression} file is, though its name does not say so")
    if look and reader.func is _csv:
        reader = partial(reader, look=True)
    try:
        for columns in reader(path, compression, found, tick):
            yield _batch(columns, found)
    except UnicodeDecodeError as error:
        raise Unreadable(_undecodable(path, compression, error.encoding)) from error
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
        found.notes.append(f"more than {MOST_COLUMNS:,} different keys: {said}")
    found.mended = found.left_out = 0


def first_rows(path: Path, kind: str, compression: str) -> tuple[pa.Table, bool]:
    """The first rows of a file, with the kinds of their cells, and whether it is a JSON document of one object.

    Raises as `read_batches`.
    """
    found = Found()
    batch = next(read_batches(path, kind, compression, found, lambda share: None, look=True), None)
    if batch is None:
        return pa.table({}), False
    fields = [field.with_metadata({"kinds": ",".join(sorted(found.kinds[field.name]))}) for field in batch.schema]
    return pa.Table.from_arrays(batch.columns, schema=pa.schema(fields)), found.alone


def first_lines(path: Path, compression: str, most: int) -> list[str]:
    """The first lines of a file of text that are not blank, without the white space around them."""
    with opened(path, compression, newline=None) as text, suppress(UnicodeError, EOFError, zlib.error):
        return [line.strip() for line in islice(text, most) if line.strip()]
    return []


Columns = dict[str, Any]  # a column's name: the list of its cells, or an Arrow array of strings


def _batch(columns: Columns, found: Found) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    for name in columns:
        if name not in found.kinds:
            if len(found.kinds) >= MOST_COLUMNS and plain(name) not in _USUAL_NAMES:
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
    names = [_whole(name) for name in found.kinds]
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
        mended = [None if cell is None else _whole(cell) for cell in cells]
        found.mended += sum(cell != whole for cell, whole in zip(cells, mended, strict=True))
        return pa.array(mended, pa.string())


def _whole(text: str) -> str:
    """The text with U+FFFD for each half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


# Bytes to characters


@contextmanager
def opened(path: Path, compression: str, tick: Tick | None = None, newline: str | None = "") -> Iterator[TextIO]:
    """The characters of a file without its byte-order mark: UTF-8, or the UTF-16 or UTF-32 that its mark announces."""
    size = path.stat().st_size or 1
    with path.open("rb", buffering=1 << 20) as raw:
        counted = raw if tick is None else _Counted(raw, lambda place: tick(min(1.0, place / size)))
        with _decompressed(counted, compression) as stream:
            buffered = io.BufferedReader(stream, 1 << 20)
            encoding, mark = _encoding(buffered.peek(4)[:4])
            if not mark and (seen := buffered.peek(4096)[:4096]).count(0) > len(seen) / 10:
                raise Unreadable(
                    "holds many zero bytes: UTF-16 or UTF-32 without its mark, or no text; write it anew as UTF-8 (see "
                    "iconv)"
                )
            while mark and buffered.peek(len(mark)).startswith(mark):
                buffered.read(len(mark))
            with io.TextIOWrapper(buffered, encoding=encoding, newline=newline) as text:
                yield text


class _Counted(io.RawIOBase):
    """A file that says how far it was read."""

    def __init__(self, raw: Any, say: Callable[[int], None]) -> None:
        self._raw = raw
        self._say = say

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        count: int = self._raw.readinto(buffer)
        self._say(self._raw.tell())
        return count


_PACKED = {
    ".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh",
}  # fmt: skip
_BLOCK_OF_BZ2 = b"1AY&SY"


def _packed(path: Path) -> str:
    """How a file is compressed, by its first bytes, which no text begins with; "" where it is not."""
    with path.open("rb") as file:
        start = file.read(10)
    found = next((name for name, mark in _PACKED.items() if start.startswith(mark)), "")
    return "" if found == ".bz2" and not start.endswith(_BLOCK_OF_BZ2) else found


@contextmanager
def _decompressed(raw: Any, compression: str) -> Iterator[Any]:
    match compression:
        case ".gz":
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream
        case ".bz2":
            with bz2.BZ2File(raw) as stream:
                yield stream
        case ".xz":
            with lzma.LZMAFile(raw) as stream:
                yield stream
        case ".zst":
            yield _Raw(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
        case _:
            yield raw


class _Raw(io.RawIOBase):
    """A stream of pyarrow as Python's own buffers take it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


_MARKS = (  # the longer ones first: UTF-32's begins as UTF-16's does
    ("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE), ("utf-8", codecs.BOM_UTF8),
    ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
)  # fmt: skip


def _encoding(start: bytes) -> tuple[str, bytes]:
    """The encoding that the first bytes announce, and the mark that does so."""
    return next(((name, mark) for name, mark in _MARKS if start.startswith(mark)), ("utf-8", b""))


def _undecodable(path: Path, compression: str, encoding: str) -> str:
    """Where the bytes are that are no characters: read once more, for the decoder knows its own block only."""
    if encoding != "utf-8":
        return f"is no sound {encoding.upper()}, which its first bytes announce"
    line = 1
    with (
        path.open("rb") as raw, _decompressed(raw, compression) as stream, io.BufferedReader(stream) as parts
    ):  # fmt: skip
        for part in parts:
            try:
                part.decode("utf-8-sig")
            except UnicodeDecodeError as found:
                byte = part[found.start]
                return f"line {line}: byte 0x{byte:02x} is no UTF-8; write the file anew as UTF-8 (see iconv)"
            line += 1
    return "holds bytes that are no UTF-8; write the file anew as UTF-8 (see iconv)"


# JSON


def _json(path: Path, compression: str, found: Found, tick: Tick, *, lines: bool) -> Iterator[Columns]:
    """JSON Lines, objects one after the other, a list of objects, or an object that holds the list.

    What the file holds decides, not its name; only an object that stands alone is a row in a `.jsonl` and looked
    into in a `.json`.
    """
    with opened(path, compression) as text:
        start = text.read(BLOCK)
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
        rows = _json_lines(path, compression, tick)
    else:
        rows = _json_document(path, compression, found, tick, lines=lines)
    yield from _objects(rows, found)


def _is_whole(line: str) -> bool:
    try:
        load(line)
    except NotJson:
        return False
    return True


Numbered = tuple[list[int], list[Any]]  # the lines of values, and the values


def _json_lines(path: Path, compression: str, tick: Tick) -> Iterator[Numbered]:
    """The values of a file with one a line. A blank line is none."""
    number = 0
    with opened(path, compression, tick) as text:
        for block in _blocks(text):
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


def _blocks(text: TextIO) -> Iterator[str]:
    """The text in blocks that end at line breaks, which are not part of them."""
    parts: list[str] = []
    while block := text.read(BLOCK):
        cut = block.rfind("\n")
        if cut < 0:
            parts.append(block)
            continue
        yield "".join([*parts, block[:cut]])
        parts = [block[cut + 1 :]]
    if last := "".join(parts):
        yield last


def _json_document(path: Path, compression: str, found: Found, tick: Tick, *, lines: bool) -> Iterator[Numbered]:
    """The values of a file that is a JSON document, or several."""
    try:
        with opened(path, compression) as text:
            where = find_rows(Document(text), lines=lines)
        if where.note:
            found.notes.append(where.note)
        found.alone = where.alone
        with opened(path, compression, tick) as text:
            document = Document(text)
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
                if document.read - begun >= BLOCK:
                    yield numbers, values
                    values, numbers, begun = [], [], document.read
            if values:
                yield numbers, values
    except NotJson as error:
        raise Unreadable(str(error)) from error


def _objects(chunks: Iterable[Numbered], found: Found) -> Iterator[Columns]:
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


# CSV


def _csv(path: Path, compression: str, found: Found, tick: Tick, *, own: str, look: bool = False) -> Iterator[Columns]:
    """Fields as they stand between separators and quotes. The first record names the columns."""
    separator, skipped = _sniffed(path, compression, own)
    if separator != own:
        found.notes.append(f"separated by {_SEPARATORS.get(separator, repr(separator))}")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    if (line := _open_quote(path, compression, separator, skipped, look=look)) is not None:
        if separator == "\t":
            quoting = csv.QUOTE_NONE
            found.notes.append("its quotes are read as they stand: each line has the header's number of fields")
        else:
            found.notes.append(
                f"line {line}: its quote is closed in another line, and what is between is one field, though each line "
                "alone has the header's number of fields; is a quote too many there?"
            )
    with opened(path, compression) as text:
        records = csv.reader(islice(text, skipped, None), delimiter=separator, quoting=quoting)
        header = next((record for record in records if record), None)
    if header is None:
        return
    form = _Form(separator, skipped, quoting, header, _names(header, found))
    is_all, done = False, 0
    if not look and quoting == csv.QUOTE_MINIMAL and _is_plain(path, compression, separator):
        is_all, done = yield from _plain_records(path, compression, form, tick)
    if not is_all:
        yield from _strict_records(path, compression, form, tick, done)


@dataclass(frozen=True)
class _Form:
    """How a CSV is written."""

    separator: str
    skipped: int  # lines before the header
    quoting: Literal[0, 3]  # as fields need it, or never
    header: list[str]
    names: list[str]  # of the columns: the header's, each once

    def records(self, text: TextIO) -> Any:
        """The records of the file. Python's reader refuses quotes that do not fit."""
        lines = islice(text, self.skipped, None)
        return csv.reader(lines, delimiter=self.separator, quoting=self.quoting, strict=True)


def _open_quote(path: Path, compression: str, separator: str, skipped: int, *, look: bool) -> int | None:
    """The first line whose quotes do not fit it, in a file whose lines, quotes or not, all have as many fields.

    There a quote is a character like others: a field that went on in the next line would break the number of fields.
    None: the file is no such one, or has no such line. `look`: only its beginning is wanted.
    """
    with opened(path, compression) as text:
        while (block := text.read(BLOCK)) and '"' not in block:
            if look:
                return None
    if not block:
        return None
    first = separators = None
    with opened(path, compression, newline=None) as text:
        for number, line in enumerate(islice(text, _RECORDS if look else None), start=1):
            if number <= skipped or line.isspace():
                continue
            count = line.count(separator)
            if separators is None:
                separators = count
            if count != separators or not count:
                return None
            if first is None and '"' in line:
                try:
                    records = list(csv.reader([line], delimiter=separator, strict=True))
                except csv.Error:
                    records = []
                if [len(record) for record in records] != [count + 1]:
                    first = number
    return first


def _strict_records(path: Path, compression: str, form: _Form, tick: Tick, done: int) -> Iterator[Columns]:
    """The records after the first `done`."""
    with opened(path, compression, tick) as text:
        records = form.records(text)
        try:
            full = (record for record in records if record)  # no blank lines
            count = _RECORDS
            for _ in islice(full, 1 + done):
                pass
            while rows := list(islice(full, count)):
                if set(map(len, rows)) != {len(form.names)}:
                    raise csv.Error
                yield dict(zip(form.names, map(list, zip(*rows, strict=True)), strict=True))
                characters = sum(len(cell) for row in rows[:100] for cell in row) / min(len(rows), 100)
                count = int(min(max(BLOCK / (characters + 1), 1), _RECORDS))
        except csv.Error as error:
            raise Unreadable(_ragged(path, compression, form)) from error


def _is_plain(path: Path, compression: str, separator: str) -> bool:
    """Whether a CSV is of UTF-8 and each of its quotes begins or ends a field, or is one of two within quotes.

    Then pyarrow reads it as Python's strict reader does, at four times the speed; of others it would make something
    without a word. Of the quotes in their order, each second one ends what the one before it began.
    """
    beside = np.zeros(256, bool)
    beside[list(f'{separator}\r\n"'.encode())] = True
    ends = False  # whether the next quote ends something
    left = b"\n"
    with path.open("rb") as raw, _decompressed(raw, compression) as stream:
        block = stream.read(BLOCK)
        if not separator.isascii() or _encoding(block[:4]) != ("utf-8", b""):
            return False
        while True:
            text = np.frombuffer(left + (block or b"\n"), np.uint8)
            quotes = np.flatnonzero(text[1:-1] == ord('"')) + 1
            if not beside[text[quotes[int(ends) :: 2] - 1]].all() or not beside[text[quotes[1 - ends :: 2] + 1]].all():
                return False
            ends ^= bool(len(quotes) % 2)
            if not block:
                return not ends
            left = text[-2:].tobytes()
            block = stream.read(BLOCK)


def _plain_records(path: Path, compression: str, form: _Form, tick: Tick) -> Generator[Columns, None, tuple[bool, int]]:
    """The records; returns whether these were all and how many. A record longer than a block ends them before."""
    done = 0
    size = path.stat().st_size
    with path.open("rb") as raw, _decompressed(raw, compression) as stream:
        try:
            reader = pyarrow.csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK, skip_rows=form.skipped),
                pyarrow.csv.ParseOptions(delimiter=form.separator, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(form.header, pa.string()), strings_can_be_null=False
                ),
            )
            with reader:
                if reader.schema.names != form.header:
                    return False, 0
                for batch in reader:
                    tick(min(1.0, raw.tell() / size))
                    if batch.num_rows:
                        yield dict(zip(form.names, batch.columns, strict=True))
                        done += batch.num_rows
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise Unreadable(_undecodable(path, compression, "utf-8")) from error
            if "straddling" in str(error):
                return False, done
            raise Unreadable(_ragged(path, compression, form)) from error
    return True, done


def _names(header: list[str], found: Found) -> list[str]:
    """The columns' names, each once: Arrow's tables find their columns by them."""
    names: dict[str, None] = {}
    for place, given in enumerate(header, start=1):
        name = bare = given.strip() or f"column {place}"
        again = 1
        while name in names:
            again += 1
            name = f"{bare} {again}"
        if again > 1:
            found.notes.append(f"column {bare} is there more than once: column {place} is called {name}")
        names[name] = None
    return list(names)


def _sniffed(path: Path, compression: str, own: str) -> tuple[str, int]:
    """How fields are separated, and how many lines to skip before the header.

    The ending's own, if it divides the header, and the first records alike; else another that does; else its own.
    """
    with opened(path, compression) as text:
        start = text.read(_SNIFFED_CHARACTERS)
        is_all = not text.read(1)
    if said := re.match(r"sep=(.)\r?\n", start):  # a spreadsheet's own way to say it
        return said[1], 1
    lines = list(io.StringIO(start, newline=""))
    if not is_all and len(lines) > 1:
        lines.pop()
    found = {}
    for separator in (own, *(other for other in _SEPARATORS if other != own)):
        widths: list[int] = []
        with suppress(csv.Error):  # the last record may go on where the look ends
            widths.extend(map(len, csv.reader(lines, delimiter=separator, strict=True)))
        if widths and widths[0] > 1 and set(widths) <= {widths[0], 0}:  # 0: a blank line
            if separator == own:
                return own, 0
            found[separator] = widths[0]
    return max(found, key=lambda separator: found[separator], default=own), 0


def _ragged(path: Path, compression: str, form: _Form) -> str:
    """Which record cannot be read: read once more, for the chunks that are read at once have no lines."""
    with opened(path, compression) as text:
        records = form.records(text)
        width, line = 0, 1 + form.skipped
        while True:
            try:
                record = next(records, None)
            except csv.Error as error:
                return f"line {line}: the quotes of this record do not fit ({one_line(error, 80)})"
            if record is None:
                return "its records do not fit the header"
            if record and width and len(record) != width:
                return f"line {line}: {len(record)} fields, where the header names {width} columns"
            width = width or len(record)
            line = records.line_num + 1 + form.skipped


# Text


def _txt(path: Path, compression: str, found: Found, tick: Tick) -> Iterator[Columns]:
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
                if characters >= BLOCK:
                    break
            yield {"text": texts}


_READERS: dict[str, partial[Iterator[Columns]]] = {
    ".jsonl": partial(_json, lines=True), ".ndjson": partial(_json, lines=True), ".json": partial(_json, lines=False),
    ".csv": partial(_csv, own=","), ".tsv": partial(_csv, own="\t"),
    ".txt": partial(_txt), ".text": partial(_txt), ".md": partial(_txt),
}  # fmt: skip
