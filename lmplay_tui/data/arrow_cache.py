"""Files of rows as Arrow tables: each is converted once, into the user's cache, and mapped from there.

An entry is a folder named by the contents it was made of, so another content is another entry, whatever the file's
name and time say. It holds `rows-N.arrow` (a new N wherever new columns begin) and, written last, `about.json`.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from lmplay_tui.data.cells import with_kinds
from lmplay_tui.data.decoding import Unreadable
from lmplay_tui.data.mapped_files import check_places
from lmplay_tui.data.text_files import Found, read_batches
from lmplay_tui.files import open_given, read_given, sync
from lmplay_tui.plan.dataset_specs import TABLE_KINDS, file_kind
from lmplay_tui.text import one_line

_FORMAT = 3  # of the entries: a change of what they hold must not find the old ones
_ABOUT_BYTES = 1 << 28  # a million small files that share entries take a tenth of it
_LFS = b"version https://git-lfs.github.com/spec/v1"
_NOT_WHOLE = (  # what the reading of an entry raises that is not there, or damaged
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, pa.ArrowException,
)  # fmt: skip
_UNUSED_S = 30 * 86400.0  # an entry that was not opened for so long is removed
_ABANDONED_S = 3600.0  # an unfinished entry that has not grown for so long has lost its process
_ENTRY = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.[^.]+")


@dataclass(frozen=True)
class Sizes:
    """How much of a file decides what it is, and how much is written together. Bytes, but for `samples` and rows."""

    whole: int = 64 << 20  # of a file up to this size every byte counts; of a larger one its ends, samples and time
    many: int = 4 << 30  # of all files of a dataset; then `whole` is ...
    whole_of_many: int = 1 << 20
    samples: int = 64  # of a large file; together as many bytes as of one that counts whole
    together: int = 32 << 20  # small files share an entry
    batch: int = 4 << 20
    parquet_rows: int = 4096  # decoded at a time


class BadFile(Exception):
    """What is wrong with one of the files: `path`, and a sentence."""

    def __init__(self, path: Path, said: str) -> None:
        super().__init__(said)
        self.path = path


class Stopped(Exception):
    """The conversion is not waited for any more."""


@dataclass
class Work:
    """How far the opening of files is; shared with the thread that waits for it."""

    total: int = 0  # bytes to convert
    done: int = 0  # bytes of the files that were converted
    part: float = 0.0  # bytes of the present one
    stopped: bool = False

    def fraction(self) -> float | None:
        """The share of the bytes; None before any is converted."""
        return min(1.0, (self.done + self.part) / self.total) if self.total else None

    def tick(self, size: int) -> Callable[[float], None]:
        """What a reader calls with the share of a file of `size` bytes. It raises `Stopped` where that is wanted."""

        def moved(share: float) -> None:
            if self.stopped:
                raise Stopped
            self.part = share * size

        return moved


@dataclass
class FileRows:
    """The rows of one file, and what there is to tell of it."""

    path: Path
    table: pa.Table
    notes: list[str] = field(default_factory=list)


def cache_folder() -> Path:
    """Where converted files are kept."""
    return Path(platformdirs.user_cache_path("lmplay-tui")) / "datasets"


def open_files(paths: Sequence[Path], work: Work, sizes: Sizes = Sizes()) -> tuple[list[FileRows], list[str]]:
    """The rows of each file, from the cache or converted into it, and notes about the cache itself.

    Raises `BadFile` for a file's contents, `OSError` for the disk.
    """
    opened: list[FileRows] = []
    notes: list[str] = []
    groups = list(_groups(paths, sizes.together))
    whole = sizes.whole if sum(path.stat().st_size for path in paths) <= sizes.many else sizes.whole_of_many
    keys = [_key(group, whole, sizes.samples, work) for group in groups]
    entries = [None if key is None else _entry(key) for key in keys]
    work.total = sum(
        path.stat().st_size for group, key, entry in zip(groups, keys, entries, strict=True)
        if key is not None and entry is None for path in group
    )  # fmt: skip
    for group, key, known in zip(groups, keys, entries, strict=True):
        if key is None:
            opened.append(mapped(group[0]))
            continue
        rows = known if known is not None else _convert(group, key, work, notes, sizes)
        opened += [FileRows(path, table, said) for path, (table, said) in zip(group, rows, strict=True)]
    return opened, list(dict.fromkeys(notes))


def _groups(paths: Sequence[Path], together: int) -> Iterator[list[Path]]:
    """The files that share an entry: neighbours of one kind, if they are small and text."""
    group: list[Path] = []
    size, last = 0, None
    for path in paths:
        kind = file_kind(path.name)
        assert kind is not None
        bytes_ = path.stat().st_size
        if group and (kind != last or kind[0] in TABLE_KINDS or size + bytes_ > together):
            yield group
            group, size = [], 0
        group.append(path)
        size, last = size + bytes_, kind
    if group:
        yield group


def _key(group: list[Path], whole: int, samples: int, work: Work) -> str | None:
    """The name of the entry made of these files; None for what needs none: an Arrow file is mapped as it is."""
    kind = file_kind(group[0].name)
    assert kind is not None
    if kind[0] == ".arrow":
        return None
    digest = xxhash.xxh3_128(f"{_FORMAT} {kind} {len(group)}".encode())
    for path in group:
        if work.stopped:
            raise Stopped
        digest.update(_content(path, whole, samples))
    return str(digest.hexdigest())


def _content(path: Path, whole: int, samples: int) -> bytes:
    """A hash of a file's contents; of more than `whole` bytes, of its ends, samples between, its path and its time."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        digest = xxhash.xxh3_128(str(about.st_size).encode())
        sample = whole // samples
        if about.st_size <= whole:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            digest.update(f"{path} {about.st_mtime_ns}".encode("utf-8", "surrogateescape"))
            for number in range(samples):
                file.seek(number * (about.st_size - sample) // (samples - 1))
                digest.update(file.read(sample))
    return bytes(digest.digest())


_Tables = list[tuple[pa.Table, list[str]]]  # of each file of an entry: its rows, its notes


def _entry(key: str) -> _Tables | None:
    """What an entry of the cache holds; None where there is none that is whole."""
    folder = cache_folder() / key
    try:
        rows = _read(folder)
        with suppress(OSError):  # a cache that another user owns is as good
            os.utime(folder)
    except _NOT_WHOLE:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return rows


def _read(folder: Path) -> _Tables:
    about = json.loads(read_given(folder / "about.json", _ABOUT_BYTES))
    parts = []
    for name in about["parts"]:
        with open_given(folder / name), pa.memory_map(str(folder / name)) as source:  # Arrow would wait for a pipe
            parts.append(pa.ipc.open_file(source).read_all())
            check_places(parts[-1])
    table = _joined(parts, about["kinds"])
    rows: _Tables = []
    first = 0
    for file in about["files"]:
        rows.append((table.slice(first, file["rows"]), file["notes"]))
        first += file["rows"]
    if first != table.num_rows:
        raise ValueError("rows")
    return rows


def _joined(parts: list[pa.Table], kinds: dict[str, list[str]]) -> pa.Table:
    """The parts one after the other. Those written before a column came get it, empty."""
    if not parts:
        return pa.table({})
    schema = parts[-1].schema
    if kinds:
        schema = pa.schema([with_kinds(pa.field(f.name, f.type), kinds[f.name]) for f in schema])
    whole = []
    for part in parts:
        columns = [
            part.column(field.name) if field.name in part.schema.names else pa.nulls(part.num_rows, field.type)
            for field in schema
        ]
        whole.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(whole)


def _convert(group: list[Path], key: str, work: Work, notes: list[str], sizes: Sizes) -> _Tables:
    """Make an entry, whole or not at all; where no cache can be written, one that goes with this process."""
    folder = cache_folder()
    kept = True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder) from error
        kept = False
        notes.append(
            f"the cache {one_line(folder, 120)} cannot be written ({error.strerror}): files are converted at each start"
        )
        temporary = Path(tempfile.mkdtemp(prefix="lmplay-tui-"))
    try:
        _write(group, temporary, work, sizes)
        if kept:
            with suppress(OSError):  # another process was faster, and its entry is as good
                temporary.rename(folder / key)
                temporary = folder / key
            return _read(folder / key)
        return _read(temporary)  # what is mapped stays, though its name goes
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(temporary.parent) from error
        raise
    finally:
        if temporary != folder / key:
            shutil.rmtree(temporary, ignore_errors=True)


def _full(folder: Path) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"the disk is full: no room to convert it in {one_line(folder, 120)}; free some, or set XDG_CACHE_HOME to a "
        "folder on another disk",
    )


def _write(group: list[Path], folder: Path, work: Work, sizes: Sizes) -> None:
    found = Found()
    writer = _Writer(folder, sizes.batch)
    files: list[dict[str, Any]] = []
    try:
        for path in group:
            before = path.stat()
            if before.st_size < 1024 and path.read_bytes().startswith(_LFS):
                raise BadFile(path, "is a pointer of Git LFS, not the data; fetch them with: git lfs pull")
            rows = writer.rows
            found.notes = []
            kind = file_kind(path.name)
            assert kind is not None
            tick = work.tick(before.st_size)
            try:
                is_parquet = kind[0] == ".parquet"
                for batch in (
                    _parquet(path, tick, sizes.parquet_rows) if is_parquet else read_batches(path, *kind, found, tick)
                ):
                    writer.write(batch)
            except Unreadable as error:
                raise BadFile(path, str(error)) from error
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk's
                raise BadFile(path, f"cannot be read: {one_line(error, 160)}") from error
            after = path.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise BadFile(path, "has changed while it was read; start again when it is complete")
            files.append({"rows": writer.rows - rows, "notes": found.notes})
            work.done, work.part = work.done + before.st_size, 0.0
    finally:
        writer.close()
    kinds = dict(zip(writer.names, map(sorted, found.kinds.values()), strict=True)) if found.kinds else {}
    about = {"parts": [part.name for part in writer.parts], "files": files, "kinds": kinds}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    for file in folder.iterdir():  # what bears the entry's name is whole, also after a power cut
        sync(file)


class _Writer:
    """Writes batches to Arrow files: small ones together, and a new file wherever the columns are others."""

    def __init__(self, folder: Path, batch_bytes: int) -> None:
        self._folder = folder
        self._batch_bytes = batch_bytes
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._writer: Any = None
        self.names: list[str] = []
        self.parts: list[Path] = []
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if self._waiting and batch.schema != self._waiting[0].schema:
            self._flush()
        if batch.schema.names != self.names or self._writer is None:
            self._end()
            self.names = batch.schema.names
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes >= self._batch_bytes:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        if self._writer is None:
            path = self._folder / f"rows-{len(self.parts)}.arrow"
            self._writer = pa.ipc.new_file(str(path), table.schema)
            self.parts.append(path)
        self._writer.write_table(table)
        self._waiting, self._bytes = [], 0

    def _end(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        """Write what waits."""
        self._end()


def _parquet(path: Path, tick: Callable[[float], None], at_a_time: int) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, a few thousand at a time; dictionaries become the values they stand for."""
    with pq.ParquetFile(path) as file:
        rows, done = max(file.metadata.num_rows, 1), 0
        fields = [pa.field(f.name, _plain(f.type), f.nullable) for f in file.schema_arrow]
        schema = pa.schema(fields, file.schema_arrow.metadata)
        for batch in file.iter_batches(batch_size=at_a_time):
            done += batch.num_rows
            tick(done / rows)
            columns = [
                column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
                for column in batch.columns
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def mapped(path: Path) -> FileRows:
    """An Arrow file, in the form for files or for streams, as it lies on the disk."""
    try:
        with pa.memory_map(str(path)) as source:
            try:
                table = pa.ipc.open_file(source).read_all()
            except pa.ArrowInvalid:
                source.seek(0)
                table = pa.ipc.open_stream(source).read_all()
        check_places(table)
    except pa.ArrowException as error:
        raise BadFile(path, f"cannot be read: {one_line(error, 160)}") from error
    return FileRows(path, table)


def _sweep(folder: Path) -> None:
    """Remove entries that were not opened for a month, and what killed processes have left."""
    now = time.time()
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if _ENTRY.fullmatch(entry.name):
                    is_old = now - entry.stat().st_mtime > _UNUSED_S
                elif _TEMPORARY.fullmatch(entry.name):
                    written = max(file.stat().st_mtime for file in (entry, *os.scandir(entry)))
                    is_old = now - written > _ABANDONED_S
                else:
                    continue
                if is_old:
                    shutil.rmtree(entry.path, ignore_errors=True)
