"""The tensors of a checkpoint that lie in a folder beside it, into which each process writes the rows that it holds.

The `.lmp` is the head: all of a checkpoint but these tensors. Where one stood, there is its key; `runner/state/parts`
says where its rows lie: the file, the first byte, a checksum. So a checkpoint is there, or not, by the one rename of
its head, and copies and links of the head share one folder.

The files are those of torch.distributed.checkpoint with safetensors (a file a rank, each tensor's place in its header),
whose `HuggingFaceStorageReader` reads the folder as it is. They are written here because torch's writer sends pickles
from process to process and holds each part twice; of its other format the index is a pickle, which must not be loaded.
Nothing in a file is interpreted: what is read are bytes, at the places that the head names.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lmplay_tui.errors import DamagedFileError
from lmplay_tui.files import Folder, mode_of, sync
from lmplay_tui.formats import format_megabytes
from lmplay_tui.run.folder import PARTS_SUFFIX, RunFolder
from lmplay_tui.text import one_line

_FILE = "shard-{:05d}-model-00001-of-00001.safetensors"
_MOST_OPEN = 64  # files at a time
_FILES = re.compile(r"shard-\d{5,}-model-00001-of-00001\.safetensors")
# By torch's names, which the head has: those of safetensors.
FORMATS: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class OwnRows:
    """Rows of a tensor that this process is to write: `first` is the place of the first of them in the whole tensor."""

    key: str
    shape: tuple[int, ...]  # of the whole
    first: int
    rows: Tensor


class TensorPiece(NamedTuple):
    """Where rows of a tensor lie. `rank`: which wrote the file; `byte`: where they begin in it; `checksum`: CRC-32."""

    rank: int
    byte: int
    first: int
    num_rows: int
    checksum: int


class Written(NamedTuple):
    """A piece that has been written, and the tensor that it is of."""

    key: str
    dtype: str
    shape: Sequence[int]
    piece: Sequence[int]


class PartFiles:
    """The files of a folder of parts, to read: a few of them stay open."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._open: dict[int, int] = {}

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def path(self, rank: int) -> Path:
        return self.folder.path / file_name(rank)

    def size(self, rank: int) -> int:
        """How large the file of a rank is. Raises `OSError`."""
        return os.fstat(self._of(rank)).st_size

    def read(self, piece: TensorPiece, into: memoryview) -> None:
        """Fill `into` from where a piece begins. Raises `OSError`."""
        descriptor, byte, rest = self._of(piece.rank), piece.byte, into
        while rest:
            count = os.preadv(descriptor, [rest], byte)
            if not count:
                raise OSError(errno.EIO, "is cut short", str(self.path(piece.rank)))
            byte, rest = byte + count, rest[count:]

    def _of(self, rank: int) -> int:
        if rank not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._close()
            self._open[rank] = self.folder.open(file_name(rank))
        return self._open[rank]


@dataclass(frozen=True)
class Deferred:
    """A tensor that is read from its folder where it is wanted."""

    files: PartFiles
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[TensorPiece, ...]

    def whole(self, *, check: bool = False) -> Tensor:
        """The tensor. `check`: its checksums too. Raises `OSError`, `DamagedFileError`."""
        whole = torch.empty(self.shape, dtype=self.dtype)
        for piece in self.pieces:
            into = _bytes_of(whole[piece.first : piece.first + piece.num_rows])
            self.files.read(piece, into)
            if check and zlib.crc32(into) != piece.checksum:
                where, what = one_line(self.files.path(piece.rank)), one_line(self.key, 100)
                raise DamagedFileError(f"{where}: damaged: the checksum of {what} is wrong")
        return whole


def whole(value: Any) -> Any:
    """A tensor of a checkpoint as one, wherever it lies; anything else as it is."""
    return value.whole() if isinstance(value, Deferred) else value


def file_name(rank: int) -> str:
    """The file that a rank writes, called as torch calls it."""
    return _FILE.format(rank + 1)


def _bytes_of(rows: Tensor) -> memoryview:
    return memoryview(cast(Any, rows.detach().reshape(-1).view(torch.uint8).numpy()))


# ---- written


def new_folder(run: RunFolder, num_bytes: int) -> Path:
    """A new, empty folder for parts of so many bytes in all. Raises `OSError`, also where the disk lacks the room."""
    parent = run.model.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < num_bytes * 1.02:
        raise OSError(errno.ENOSPC, f"disk full: needs {format_megabytes(num_bytes)}, {format_megabytes(free)} free")
    folder = parent / f"{run.name}.{secrets.token_hex(8)}{PARTS_SUFFIX}"
    folder.mkdir()
    if (mode := mode_of(*run.newest)) is not None:  # as private as the checkpoint before it
        folder.chmod(mode | 0o300 | (mode & 0o044) >> 2)
    return folder


def write_part(folder: Path, rank: int, own: Iterable[OwnRows]) -> list[Written]:
    """Write a rank's rows, which lie on the processor, as its file; they are on the disk and have been read back then.

    Raises `OSError`.
    """
    # The widest numbers first: each tensor then begins at a multiple of what its numbers take.
    rows = sorted((each for each in own if each.rows.numel()), key=lambda each: -each.rows.element_size())
    if not rows:
        return []
    header, begin = _header(rows)
    files, written = Folder(folder), list[Written]()
    descriptor = files.open(file_name(rank), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "xb") as file:
        file.write(header)
        for each in rows:
            data = _bytes_of(each.rows)
            piece = TensorPiece(rank, begin, each.first, len(each.rows), zlib.crc32(data))
            written.append(Written(each.key, _name_of(each.rows.dtype), each.shape, piece))
            file.write(data)
            begin += len(data)
        file.flush()
        os.fsync(descriptor)
    sync(folder)
    read = PartFiles(files)
    for each, (_, _, _, placed) in zip(rows, written, strict=True):
        piece, again = TensorPiece(*placed), _bytes_of(torch.empty_like(each.rows))
        read.read(piece, again)
        if zlib.crc32(again) != piece.checksum:
            raise OSError(errno.EIO, "what was written cannot be read back", str(folder / file_name(rank)))
    return written


def _header(rows: Sequence[OwnRows]) -> tuple[bytes, int]:
    """What stands before the rows of a safetensors file, and its length. Raises `OSError`.

    https://huggingface.co/docs/safetensors/index#format; the places in the whole tensors are torch's addition.
    """
    said: dict[str, Any] = {}
    places: dict[str, Any] = {}
    begin = 0
    for each in rows:
        if (name := _name_of(each.rows.dtype)) not in FORMATS:
            raise OSError(errno.EINVAL, f"{one_line(each.key, 100)} is of {name}, which cannot be written in parts")
        end = begin + each.rows.nbytes
        said[each.key] = {"dtype": FORMATS[name], "shape": list(each.rows.shape), "data_offsets": [begin, end]}
        places[each.key] = {"saved_offsets": [each.first, *[0] * (len(each.shape) - 1)]}
        begin = end
    about = {"DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"}
    words = json.dumps({"__metadata__": about, **said}).encode("ascii")
    words = words.ljust(-(-len(words) // 8) * 8)
    return struct.pack("<Q", len(words)) + words, 8 + len(words)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class PartsSave:
    """The tensors of one save, while the processes write them: what a head has in `parts` until it is written."""

    def __init__(
        self, folder: Path | None, own: Iterable[OwnRows], others: Callable[[], list[Written]], num_bytes: int, *,
        problem: OSError | None = None, over: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`folder` None: there is none, by `problem`. `own`: of rank 0. `others`: waits until the others have written
        theirs; raises `OSError` once all have ended, where one could not. `over`: called when nothing is written more.
        """
        self._folder, self._own, self._others, self._problem, self._over = folder, own, others, problem, over
        self._is_over = False
        self.num_bytes = num_bytes

    def finish(self) -> dict[str, Any]:
        """Write rank 0's part and wait for those of the others; what the head says of all. Raises `OSError`."""
        written: list[Written] = []
        problem = self._problem
        try:
            if self._folder is None:
                assert problem is not None
                raise problem
            if problem is None:
                try:
                    written = write_part(self._folder, 0, self._own)
                except OSError as error:
                    problem = error
            written = [*written, *self._others()]  # whatever has failed here: no process writes on behind our back
            if problem is not None:
                raise problem
            sync(self._folder.parent)
            return self._said(self._folder, written)
        finally:
            self._own, self._is_over = (), True
            self._over()

    @staticmethod
    def _said(folder: Path, written: Iterable[Written]) -> dict[str, Any]:
        tensors: dict[str, list[Any]] = {}
        for key, dtype, shape, piece in written:
            tensors.setdefault(key, [dtype, list(shape), []])[2].append(list(piece))
        said = {"folder": folder.name, "tensors": tensors}
        try:
            found_in(folder, said)  # as it will be read: all files are here, and are as long
        except (OSError, DamagedFileError) as error:
            raise OSError(
                errno.EIO, f"not all processes have written into {one_line(folder)} as it is here ({one_line(error)}): "
                "all machines must see the run's folder; else use --shard-save file"
            ) from None  # fmt: skip
        return said

    def abandon(self) -> None:
        """There will be no head: remove what has been written, once all processes have stopped writing."""
        if not self._is_over:
            self._problem = self._problem or OSError("is not wanted any more")
            with contextlib.suppress(OSError):
                self.finish()
        if self._folder is not None:
            remove_folder(self._folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder of parts; what else lies in it stays, and it with that."""
    files = Folder(folder)
    with contextlib.suppress(OSError):
        for name in files.names():
            if _FILES.fullmatch(name):
                files.remove(name)
        folder.rmdir()


# ---- read


def found_in(path: Path, said: Mapping[str, Any]) -> dict[str, Deferred]:
    """The tensors of a head at `path` that says `said` of them (`checkpoint_fields.problem_of_parts` has looked at it).

    Raises `OSError`, and `DamagedFileError` where the folder's files cannot hold them.
    """
    files = PartFiles(_folder_of(path, said["folder"]))
    tensors: dict[str, Deferred] = {}
    held: dict[int, int] = {}  # bytes of each file that are some tensor's
    ends: dict[int, int] = {}
    for key, (name, shape, pieces) in said["tensors"].items():
        dtype = getattr(torch, name)
        row_bytes = dtype.itemsize
        for size in shape[1:]:
            row_bytes *= size
        placed = sorted((TensorPiece(*piece) for piece in pieces), key=lambda piece: piece.first)
        first = 0
        for piece in placed:
            if piece.first != first:
                break
            first += piece.num_rows
            held[piece.rank] = held.get(piece.rank, 0) + piece.num_rows * row_bytes
            ends[piece.rank] = max(ends.get(piece.rank, 0), piece.byte + piece.num_rows * row_bytes)
        if not placed or not shape or first != shape[0] or not row_bytes:
            raise DamagedFileError(f"{one_line(path)}: the rows of {one_line(key, 100)} are not all there")
        tensors[key] = Deferred(files, key, dtype, tuple(shape), tuple(placed))
    for rank, end in ends.items():
        if max(held[rank], end) > files.size(rank):
            raise DamagedFileError(f"{one_line(files.path(rank))}: damaged: it is cut short")
    return tensors


def _folder_of(path: Path, name: str) -> Folder:
    """The folder of parts that a head names, beside it; the name's beginning is another one since the run's is."""
    if (token := token_of(name)) is None:
        raise DamagedFileError(f"{one_line(path)}: names no folder of parts: {one_line(name, 100)}")
    for parent in (path.parent, path.resolve().parent):
        others = sorted(each for each in Folder(parent, own=0).names() if token_of(each) == token)
        for each in (name, *others):
            folder = Folder(parent / each)
            with contextlib.suppress(FileNotFoundError), folder.held():
                return folder
    raise DamagedFileError(
        f"{one_line(path)}: its weights lie in the folder {one_line(name)} beside it, which is not there; the two "
        "belong together"
    )


def token_of(name: object) -> str | None:
    """What tells a folder of parts from all others, by its name; None: it is none."""
    found = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*\.([0-9a-f]{16})" + re.escape(PARTS_SUFFIX), str(name))
    return None if found is None else found[1]
