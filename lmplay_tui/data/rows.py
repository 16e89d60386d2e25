"""Rows of an Arrow table, read one at a time from where they lie on disk."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from lmplay_tui.data.columns import Columns, find_columns
from lmplay_tui.data.samples import Item
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_SAMPLED_ROWS = 64
_LOOKED_AT_ROWS = 1000  # at the beginning, for a sample
_SPREAD_BLOCKS = 32  # and then over all the rows
_BLOCK = 16  # rows


class Rows:
    """The rows of one split of a dataset. Nothing is read before it is asked for."""

    def __init__(self, name: str, table: pa.Table, columns: Columns) -> None:
        self.num_rows: int = table.num_rows
        self.columns = columns
        self._name = name
        # One cell through its column costs 2 us, a slice of the table 14, a row of `datasets` 40.
        self._cells = {column: table.column(table.schema.names.index(column)) for column in columns.used()}
        self._decoding = columns.decoding

    def items(self, row: int) -> list[Item]:
        """The texts of a row. Raises `DataError` if the disk no longer gives it."""
        try:
            cells = {name: column[row].as_py() for name, column in self._cells.items()}
            for name, decode in self._decoding.items():
                cells[name] = decode(cells[name])
            return self.columns.items(cells)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"dataset {self._name}: row {row} cannot be read ({one_line(error, 120)})") from error

    def check_samples(self) -> None:
        """Raise `UserError` that names what was found where no row gives a sample, of the first and others between."""
        seen = _Seen(self.columns)
        for start, stop in self._looked_at():
            for cells in self._block(start, stop):
                if self.columns.items(cells):
                    return
                seen.add(cells)
        if self.num_rows:
            raise UserError(f"dataset {self._name}: {seen.described(self.num_rows)}")

    def _looked_at(self) -> Iterator[tuple[int, int]]:
        first = min(_LOOKED_AT_ROWS, self.num_rows)
        for start in range(0, first, _BLOCK):
            yield start, min(start + _BLOCK, first)
        if self.num_rows > first:
            for number in range(_SPREAD_BLOCKS):
                start = first + number * (self.num_rows - first) // _SPREAD_BLOCKS
                yield start, min(start + _BLOCK, self.num_rows)

    def _block(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Rows read at once, decoded."""
        try:
            cells = {name: column.slice(start, stop - start).to_pylist() for name, column in self._cells.items()}
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            said = one_line(error, 120)
            raise DataError(f"dataset {self._name}: rows {start} to {stop} cannot be read ({said})") from error
        for name, decode in self._decoding.items():
            cells[name] = list(map(decode, cells[name]))
        return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the number of rows and a sample of their texts: wherever the copy lies, it is the same."""
        digest = hashlib.sha256(f"{self.num_rows} {self.columns.key()}".encode())
        taken = min(_SAMPLED_ROWS, self.num_rows)
        for number in range(taken):
            items = self.items(number * self.num_rows // taken)
            for text in (*(item.truth for item in items), *(item.prompt for item in items[:1])):
                digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class _Seen:
    """What rows without a sample hold."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rows = 0
        self._turns = 0
        self._roles: Counter[str] = Counter()
        self._truths = 0
        self._kinds: Counter[str] = Counter()

    def add(self, cells: dict[str, Any]) -> None:
        columns = self._columns
        self._rows += 1
        if columns.messages or columns.transcript:
            turns = columns.turns(cells)
            self._turns += len(turns)
            self._truths += sum(turn.truth for turn in turns)
            self._roles.update(turn.speaker or "none" for turn in turns)
        else:
            self._kinds[type(cells[columns.text or columns.truth or ""]).__name__] += 1

    def described(self, num_rows: int) -> str:
        """One sentence."""
        columns = self._columns
        rows = (
            f"none of its {num_rows:,} rows"
            if self._rows == num_rows
            else (f"none of the {self._rows:,} rows looked at, of {num_rows:,},")
        )
        return f"{rows} gives a sample ({columns.described()}): {self._cause()}"

    def _cause(self) -> str:
        columns = self._columns
        if not columns.messages and not columns.transcript:
            name = one_line(columns.text or columns.truth, 60)
            if set(self._kinds) <= {"NoneType", "str"}:
                return f"{name} is empty or null in all of them"
            return f"{name} holds {', '.join(sorted(self._kinds))}"
        name = one_line(" + ".join(columns.messages or (columns.truth or "",)), 60)
        if not self._turns:
            return f"{name} holds no turns with a role and a content"
        roles = one_line(", ".join(f"{role} ({count:,})" for role, count in self._roles.most_common(8)), 200)
        if self._truths:
            return f"what the model is to say is empty in all of them; the roles are {roles}"
        return f"no turn is that of a model (assistant, gpt, model, bot, ai, ...); the roles are {roles}"


def open_rows(spec: DatasetSpec, table: pa.Table, like: Columns | None = None) -> Rows:
    """The rows of a table, the columns found that are read.

    `like`: those of the split to train on, to be read here too where they give a sample.
    Raises `UserError` where no columns fit, or, of the split to train on, where no row that is looked at gives a
    sample.
    """
    rows = Rows(spec.name, table, find_columns(spec, table, like))
    try:
        rows.check_samples()
    except UserError:
        if like is None:
            raise
        return _of_own_form(spec, table) or rows
    return rows


def _of_own_form(spec: DatasetSpec, table: pa.Table) -> Rows | None:
    """The rows by the columns of their own table, where these give samples."""
    try:
        return open_rows(spec, table)
    except UserError:
        return None
