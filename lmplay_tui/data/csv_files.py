"""Reads CSV, and files separated by tabs and others: every field is the text that stands there, nothing is guessed.

How a file is written is found by its beginning. pyarrow reads those in which each quote has its place, four times as
fast as Python's strict reader, which reads the others and says which line is wrong.
"""

import csv
import io
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from lmplay_tui.data.decoding import BLOCK, Tick, Unreadable, announced_encoding, decompressed, opened, undecodable
from lmplay_tui.text import one_line

_RECORDS = 2000  # at a time, at most: Python would search more of them for garbage again and again
_SNIFFED_CHARACTERS = 1 << 16
_SEPARATORS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}

csv.field_size_limit(sys.maxsize)  # a story may stand in one field

Chunk = dict[str, Any]  # some rows: a column's name, and the list of its cells or an Arrow array of strings


def read_csv(
    path: Path, compression: str, notes: list[str], tick: Tick, *, own: str, look: bool = False, block: int = BLOCK
) -> Iterator[Chunk]:
    """Fields as they stand between separators and quotes. The first record names the columns.

    `own`: the separator that the file's ending stands for. `notes`: takes facts to be told of the file. `look`: only
    the first rows are wanted, which then come without the file being read to its end. `block`:
    characters read at a time. Raises `Unreadable`.
    """
    separator, skipped = _sniffed(path, compression, own)
    if separator != own:
        notes.append(f"separated by {_SEPARATORS.get(separator, repr(separator))}")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    if (line := _open_quote(path, compression, separator, skipped, block, look=look)) is not None:
        if separator == "\t":
            quoting = csv.QUOTE_NONE
            notes.append("its quotes are read as they stand: each line has the header's number of fields")
        else:
            notes.append(
                f"line {line}: its quote is closed in another line, and what is between is one field, though each line "
                "alone has the header's number of fields; is a quote too many there?"
            )
    with opened(path, compression) as text:
        records = csv.reader(islice(text, skipped, None), delimiter=separator, quoting=quoting)
        header = next((record for record in records if record), None)
    if header is None:
        return
    form = _Form(separator, skipped, quoting, header, _names(header, notes))
    is_all, done = False, 0
    if not look and quoting == csv.QUOTE_MINIMAL and is_plain(path, compression, separator, block):
        is_all, done = yield from _plain_records(path, compression, form, tick, block)
    if not is_all:
        yield from _strict_records(path, compression, form, tick, done=done, block=block)


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


def _open_quote(path: Path, compression: str, separator: str, skipped: int, size: int, *, look: bool) -> int | None:
    """The first line whose quotes do not fit it, in a file whose lines, quotes or not, all have as many fields.

    There a quote is a character like others: a field that went on in the next line would break the number of fields.
    None: the file is no such one, or has no such line. `look`: only its beginning is wanted.
    """
    with opened(path, compression) as text:
        while (block := text.read(size)) and '"' not in block:
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


def _strict_records(path: Path, compression: str, form: _Form, tick: Tick, *, done: int, block: int) -> Iterator[Chunk]:
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
                count = int(min(max(block / (characters + 1), 1), _RECORDS))
        except csv.Error as error:
            raise Unreadable(_ragged(path, compression, form)) from error


def is_plain(path: Path, compression: str, separator: str, size: int = BLOCK) -> bool:
    """Whether a CSV is of UTF-8 and each of its quotes begins or ends a field, or is one of two within quotes.

    Then pyarrow reads it as Python's strict reader does, at four times the speed; of others it would make something
    without a word. Of the quotes in their order, each second one ends what the one before it began.
    `size`: bytes read at a time.
    """
    beside = np.zeros(256, bool)
    beside[list(f'{separator}\r\n"'.encode())] = True
    ends = False  # whether the next quote ends something
    left = b"\n"
    with path.open("rb") as raw, decompressed(raw, compression) as stream:
        block = stream.read(size)
        if not separator.isascii() or announced_encoding(block[:4]) != ("utf-8", b""):
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
            block = stream.read(size)


def _plain_records(
    path: Path, compression: str, form: _Form, tick: Tick, block: int
) -> Generator[Chunk, None, tuple[bool, int]]:
    """The records; returns whether these were all and how many. A record longer than a block ends them before."""
    done = 0
    size = path.stat().st_size
    with path.open("rb") as raw, decompressed(raw, compression) as stream:
        try:
            reader = pyarrow.csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                pyarrow.csv.ReadOptions(use_threads=False, block_size=block, skip_rows=form.skipped),
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
                raise Unreadable(undecodable(path, compression, "utf-8")) from error
            if "straddling" in str(error):
                return False, done
            raise Unreadable(_ragged(path, compression, form)) from error
    return True, done


def _names(header: list[str], notes: list[str]) -> list[str]:
    """The columns' names, each once: Arrow's tables find their columns by them."""
    names: dict[str, None] = {}
    for place, given in enumerate(header, start=1):
        name = bare = given.strip() or f"column {place}"
        again = 1
        while name in names:
            again += 1
            name = f"{bare} {again}"
        if again > 1:
            notes.append(f"column {bare} is there more than once: column {place} is called {name}")
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
