"""Append-only JSON lines: how a run is written while it happens, and how other processes read along.

A line is one object. Numbers that are not finite are written as strings (`"NaN"`). A resume appends
`{"resumed_from": STEP}`; readers then drop what was written beyond that step.
"""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from lmplay_tui.files import Folder

LATEST_S = 2.0**33  # the year 2242: far from where `datetime` ends, in any time zone
_DIGITS = 9  # a float32 has as many; all others would be a third of a journal, and of the time in which it opens
_ANEW = b'{"resumed_from":-1}\n'
_MOST_OF_FIRST_LINE = 1 << 20  # that of events has a plan's text, of at most 64 KiB
_MOST_OF_A_LINE = 1 << 25  # a prediction of a model that reads a million tokens has some 10 MB
_CUT = b"\0"  # in place of what a longer line has begun with: no JSON, whatever comes behind it
_TOO_LARGE = 4  # times its limit: no journal that is thinned grows to that
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def encode(record: dict[str, Any], *, ascii_only: bool = False) -> str:
    """The record as one line of strict JSON, without the line's end. `ascii_only`: nothing that a terminal acts on."""
    try:
        return json.dumps(record, ensure_ascii=ascii_only, separators=(",", ":"), allow_nan=False)
    except ValueError:  # rare: only then is a copy with strings for NaN worth its time
        return json.dumps(_plain(record), ensure_ascii=ascii_only, separators=(",", ":"), allow_nan=False)


def rounded(value: Any) -> Any:
    """A measured number in the digits that it is worth."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def number(value: object) -> float:
    """A journal's number; `"NaN"` and its kin are numbers too. What is none, or beyond all measure, becomes NaN."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return _NON_FINITE.get(str(value), math.nan)


class Journal:
    """Writes one JSONL file, line by line.

    A write that fails (disk full, folder gone) is counted in `failed` and does not raise: training goes on.
    `limit_bytes`: beyond it every other record is dropped, the oldest and the newest stay. Where a disk has no room
    for that, it is counted too and all records stay; it is tried again when as much as an eighth has come.
    """

    def __init__(self, path: Path, limit_bytes: int | None = None) -> None:
        self.path = path
        self._folder = Folder(path.parent)
        self.failed = 0
        self.last_error = ""
        self._limit_bytes = limit_bytes
        self._thin_beyond = limit_bytes  # the size that is worth a try
        self._descriptor: int | None = None
        self._torn = False  # the last write ended inside a line

    def write(self, record: dict[str, Any]) -> bool:
        """Append `record`; whether it is on the disk."""
        line = (encode(record) + "\n").encode("utf-8", errors="replace")
        try:
            descriptor = self._open()
            if self._torn:
                line = b"\n" + line
            self._torn = True
            if os.write(descriptor, line) != len(line):
                raise OSError("the disk took only part of a line")
            self._torn = False
            size = os.fstat(descriptor).st_size
        except OSError as error:
            self._fail(error)
            return False
        if self._limit_bytes is not None and self._thin_beyond is not None and size > self._thin_beyond:
            try:
                if size > _TOO_LARGE * self._limit_bytes:  # by another hand; to read it could take hours
                    raise OSError(errno.EFBIG, "far larger than its limit")
                self._thin()
                self._thin_beyond = self._limit_bytes
            except OSError as error:  # the record itself is on the disk
                self._fail(error)
                self.last_error += ", while it was thinned"
                self._thin_beyond = size + self._limit_bytes // 8
        return True

    def _fail(self, error: OSError) -> None:
        self.failed += 1
        self.last_error = error.strerror or str(error)
        self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = self._folder.append(self.path.name)
            size = os.fstat(self._descriptor).st_size
            # A process that was killed may have left half a line: end it, so that ours stands alone.
            self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
            if self._limit_bytes is not None:
                self._folder.sweep(re.compile(re.escape(self.path.name)))  # it may have been killed while it thinned
        return self._descriptor

    def _thin(self) -> None:
        """Leave out every other record. The file is replaced whole, once the new bytes are on the disk, or stays."""
        with (
            os.fdopen(self._folder.open(self.path.name), "rb") as journal,
            self._folder.replacing(self.path.name) as file,
        ):
            newest = b""
            for i, line in enumerate(_sound_lines(journal)):
                is_kept = i % 2 == 0 or b'"resumed_from"' in line
                newest = b"" if is_kept else line
                if is_kept:
                    file.write(line)
            file.write(newest)
            file.flush()
            os.fsync(file.fileno())  # some disks say only now that they are full
        self.close()


class Tail:
    """Reads a JSONL file as it grows.

    `read` gives the whole objects that are new. A torn last line waits for its rest; a line that is no JSON object is
    passed over, and so is one too long to be ours, in bounded memory. `{"resumed_from": STEP}` is given too, with the
    file's name as `journal`: what it means for what that file has told is the reader's to do. A file that was thinned
    is read again from its start, without the rows up to the last step seen. One that begins with another line is that
    of a run that was started anew: a `resumed_from` of -1, before its first step, comes before its lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = Folder(path.parent)
        self.behind = False  # the last read left something in the file
        self._offset = 0
        self._rest = b""
        self._inode: int | None = None
        self._first_line = b""  # a thinned file keeps it; empty: nothing whole has been read
        self._last_step = -1
        self._seen_step = -1  # after a replacement: rows up to here are known

    def read(self, limit_bytes: int = 1 << 22) -> list[dict[str, Any]]:
        """At most `limit_bytes` of the file's new lines; an empty list where there is nothing new (or no file).

        Empty too where all of these bytes are none of ours; `behind` says whether more come.
        """
        return self._records(self._take(limit_bytes))

    def _take(self, limit_bytes: int) -> bytes:
        """The whole lines of the file's next `limit_bytes`, and of what was left the last time."""
        self.behind = False
        try:
            with os.fdopen(self._folder.open(self.path.name), "rb") as file:
                status = os.fstat(file.fileno())
                if self._inode is not None and (status.st_ino != self._inode or status.st_size < self._offset):
                    begun_anew = self._first_line != _first_line(file)
                    self._offset, self._rest = 0, _ANEW if begun_anew and self._first_line else b""
                    self._seen_step = -1 if begun_anew else self._last_step
                self._inode = status.st_ino
                if not self._first_line or not self._offset:
                    self._first_line = _first_line(file)
                if self._rest == _CUT:
                    self._offset = _behind_hole(file, self._offset, status.st_size)
                if status.st_size == self._offset:
                    return b""
                file.seek(self._offset)
                data = file.read(limit_bytes)
        except OSError:
            return b""
        self._offset += len(data)
        self.behind = self._offset < status.st_size
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        is_cut = len(data) - end > _MOST_OF_A_LINE or data.startswith(_CUT, end)
        self._rest = _CUT if is_cut else data[end:]
        return data[:end]

    def _records(self, lines: bytes) -> list[dict[str, Any]]:
        return [record for record in _parsed_all(lines.split(b"\n")[:-1]) if self._is_new(record)]

    def _is_new(self, record: dict[str, Any]) -> bool:
        resumed_from = record.get("resumed_from")
        if isinstance(resumed_from, int):
            self._last_step = min(self._last_step, resumed_from)
            if "event" not in record:
                record["journal"] = self.path.stem
            return True
        step = record.get("step")
        if not isinstance(step, int):
            return self._seen_step < 0
        if step <= self._seen_step:
            return False
        self._last_step = max(self._last_step, step)
        return True


def _first_line(file: BinaryIO) -> bytes:
    """Its first line; empty while there is no whole one."""
    file.seek(0)
    line = file.readline(_MOST_OF_FIRST_LINE)
    return line if line.endswith(b"\n") else b""


def _behind_hole(file: BinaryIO, offset: int, size: int) -> int:
    """Where the next bytes are: a hole has no line's end, and takes no room in an archive, but hours to read."""
    try:
        return os.lseek(file.fileno(), offset, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else offset


def _sound_lines(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file, but for those too long to be ours."""
    goes_on = False
    while line := file.readline(_MOST_OF_A_LINE):
        is_end = line.endswith(b"\n")
        if is_end and not goes_on:
            yield line
        goes_on = not is_end


def _parsed_all(lines: list[bytes]) -> list[dict[str, Any]]:
    """The objects of many lines. Read as one array where all are whole: a third less time in a journal of a million."""
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(b"[" + b",".join(lines) + b"]")
        if len(values) == len(lines) and all(isinstance(value, dict) for value in values):
            return values  # type: ignore[no-any-return]
    return [record for line in lines if (record := _parsed(line)) is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def stamp(text: object) -> float | None:
    """Seconds since 1970 of a journal's time; None where it has none, or one that no clock of ours can have shown."""
    if not isinstance(text, str):
        return None
    try:
        seconds = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < LATEST_S else None


def utc_time(seconds: float) -> str:
    """A time as the journals write it: UTC, ISO 8601, milliseconds. `stamp` is the way back."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
