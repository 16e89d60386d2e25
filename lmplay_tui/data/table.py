"""Rows of an Arrow table, read one at a time from where they lie on disk."""

import hashlib

import pyarrow as pa

from lmplay_tui.data.columns import Columns
from lmplay_tui.data.samples import Item
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.text import one_line

_SAMPLED_ROWS = 64
_LOOKED_AT_ROWS = 1000


class Rows:
    """The rows of one split of a dataset. Nothing is read before it is asked for."""

    def __init__(self, name: str, table: pa.Table, columns: Columns) -> None:
        self.num_rows: int = table.num_rows
        self._name = name
        self.columns = columns
        # One cell through its column costs 2 us, a slice of the table 14, a row of `datasets` 40.
        self._cells = {column: table.column(column) for column in columns.used()}

    def items(self, row: int) -> list[Item]:
        """The texts of a row. Raises `DataError` if the disk no longer gives it."""
        try:
            return self.columns.items({name: column[row].as_py() for name, column in self._cells.items()})
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"dataset {self._name}: row {row} cannot be read ({one_line(error, 120)})") from error

    def check_samples(self) -> None:
        """Raise `UserError` where none of the first rows gives a sample."""
        looked_at = min(_LOOKED_AT_ROWS, self.num_rows)
        cells = ({name: column[row].as_py() for name, column in self._cells.items()} for row in range(looked_at))
        if looked_at and not any(map(self.columns.items, cells)):
            raise UserError(
                f"dataset {self._name}: none of the {looked_at:,} rows looked at gives a sample "
                f"({self.columns.described()}): there are no words in them"
            )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the number of rows and a sample of their texts: wherever the copy lies, it is the same."""
        digest = hashlib.sha256(f"{self.num_rows} {self.columns}".encode())
        taken = min(_SAMPLED_ROWS, self.num_rows)
        for number in range(taken):
            items = self.items(number * self.num_rows // taken)
            for text in (*(item.truth for item in items), *(item.prompt for item in items[:1])):
                digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
