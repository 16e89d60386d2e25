"""Files whose rows are mapped into memory: whether they still have the length that they were mapped with.

The kernel ends a process that touches a page behind a file's end (SIGBUS), and with it a training of days. What cuts a
file under a run is an `rsync --inplace`, a truncation, another machine on a network's disk. So each file is asked for
its length just before a row of it is read: 2 us, where reading and cutting a row takes 100. A disk that no longer
gives a page of a file of the right length is not found so; in the reader's own process (`worker.py`) it ends that one.

What a file says of itself is looked at once, when it is opened: Arrow believes where a text begins and ends, and would
read there, in whatever memory that is (SIGSEGV).
"""

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from lmplay_tui.text import one_line

_MAPS = "/proc/self/maps"  # without it nothing is known of the files, and nothing is looked at


def check_places(table: pa.Table) -> None:
    """Raise `pa.ArrowInvalid` where a cell of a table, as a file gives it, would lie outside of its column's bytes.

    The bytes of texts themselves are not read: a row's are decoded, and so checked, when the row is read.
    """
    for column in table.columns:
        for chunk in column.chunks:
            try:
                unread = chunk.view(_undecoded(chunk.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                unread = chunk  # of a type that cannot be seen as bytes: all of it is checked
            unread.validate(full=True)


def _undecoded(kind: pa.DataType) -> pa.DataType:
    """The type of the same layout in which texts are bytes."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_undecoded(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _undecoded(field.type)) for field in kind])
    return kind


@dataclass(frozen=True)
class MappedFile:
    """A file as it lay on the disk when its rows were mapped."""

    path: str
    device: int
    inode: int
    size_bytes: int

    def problem(self) -> str | None:
        """What has become of it that its rows cannot be read any more; None: they can."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 - once a row
        except OSError:  # removed or renamed: what was mapped stays
            return None
        # Another file in its place leaves the one that is mapped as it was.
        if now.st_size >= self.size_bytes or (now.st_dev, now.st_ino) != (self.device, self.inode):
            return None
        return (
            f"{one_line(self.path, 160)} was cut short while it was read: {now.st_size:,} bytes, "
            f"it had {self.size_bytes:,}"
        )


def _mappings() -> list[tuple[int, int, str]]:
    """First address, end and path of each file that is mapped into this process, in order."""
    found = []
    try:
        with open(_MAPS, "rb") as lines:  # noqa: PTH123 - no file of a disk
            for line in lines:
                place, _, _, _, inode, *path = line.rstrip(b"\n").split(maxsplit=5)
                if inode != b"0" and path:
                    first, end = place.split(b"-")
                    found.append((int(first, 16), int(end, 16), os.fsdecode(path[0])))
    except (OSError, ValueError):
        return []
    return found


class MappedRows:
    """The files behind the rows of a table."""

    def __init__(self, columns: list[pa.ChunkedArray]) -> None:
        """`columns`: of one length, each cut into chunks wherever another file begins, or more often."""
        mappings = _mappings()
        firsts = [first for first, _, _ in mappings]
        known: dict[str, MappedFile | None] = {}
        # For each column: the rows where its chunks end, and each chunk's file.
        self._columns: list[tuple[list[int], list[MappedFile]]] = []
        for column in columns:
            ends, files, end = [], [], 0
            for chunk in column.chunks:
                end += len(chunk)
                for address in _addresses(chunk):
                    number = bisect.bisect_right(firsts, address) - 1
                    if number < 0 or address >= mappings[number][1]:
                        continue
                    path = mappings[number][2]
                    if path not in known:
                        known[path] = _as_it_is(path)
                    if (file := known[path]) is not None:
                        ends.append(end)
                        files.append(file)
                        break
            if files and (ends, files) not in self._columns:
                self._columns.append((ends, files))
        self._all = list({file for _, files in self._columns for file in files})

    def problem(self, row: int | None = None) -> str | None:
        """What is wrong with the files that hold a row; without `row` with any of them."""
        if row is None:
            return next((said for file in self._all if (said := file.problem())), None)
        for ends, files in self._columns:
            number = bisect.bisect_right(ends, row)
            if number < len(files) and (said := files[number].problem()) is not None:
                return said
        return None


def _addresses(chunk: pa.Array) -> Iterator[int]:
    """Where the bytes of a chunk lie; those of a table in memory lie in no file."""
    yield from (buffer.address for buffer in chunk.buffers() if buffer is not None and buffer.size)


def _as_it_is(path: str) -> MappedFile | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return MappedFile(path, found.st_dev, found.st_ino, found.st_size)
