"""From the bytes of a file to its characters: what compresses it, how it is encoded, and where it is no text."""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

BLOCK = 4 << 20  # characters read at a time: what bounds the memory that a conversion takes
_PACKED = {
    ".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh",
}  # fmt: skip
_BLOCK_OF_BZ2 = b"1AY&SY"
_MARKS = (  # the longer ones first: UTF-32's begins as UTF-16's does
    ("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE), ("utf-8", codecs.BOM_UTF8),
    ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
)  # fmt: skip

Tick = Callable[[float], None]  # the share of a file's bytes that was read


class Unreadable(Exception):
    """What is wrong with a file's contents: `line 3: ...`, or a sentence about the whole."""


@contextmanager
def opened(path: Path, compression: str, tick: Tick | None = None, newline: str | None = "") -> Iterator[TextIO]:
    """The characters of a file without its byte-order mark: UTF-8, or the UTF-16 or UTF-32 that its mark announces."""
    size = path.stat().st_size or 1
    with path.open("rb", buffering=1 << 20) as raw:
        counted = raw if tick is None else _Counted(raw, lambda place: tick(min(1.0, place / size)))
        with decompressed(counted, compression) as stream:
            buffered = io.BufferedReader(stream, 1 << 20)
            encoding, mark = announced_encoding(buffered.peek(4)[:4])
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


def packed(path: Path) -> str:
    """How a file is compressed, by its first bytes, which no text begins with; "" where it is not."""
    with path.open("rb") as file:
        start = file.read(10)
    found = next((name for name, mark in _PACKED.items() if start.startswith(mark)), "")
    return "" if found == ".bz2" and not start.endswith(_BLOCK_OF_BZ2) else found


@contextmanager
def decompressed(raw: Any, compression: str) -> Iterator[Any]:
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


def announced_encoding(start: bytes) -> tuple[str, bytes]:
    """The encoding that the first bytes announce, and the mark that does so."""
    return next(((name, mark) for name, mark in _MARKS if start.startswith(mark)), ("utf-8", b""))


def undecodable(path: Path, compression: str, encoding: str) -> str:
    """Where the bytes are that are no characters: read once more, for the decoder knows its own block only."""
    if encoding != "utf-8":
        return f"is no sound {encoding.upper()}, which its first bytes announce"
    line = 1
    with (
        path.open("rb") as raw, decompressed(raw, compression) as stream, io.BufferedReader(stream) as parts
    ):  # fmt: skip
        for part in parts:
            try:
                part.decode("utf-8-sig")
            except UnicodeDecodeError as found:
                byte = part[found.start]
                return f"line {line}: byte 0x{byte:02x} is no UTF-8; write the file anew as UTF-8 (see iconv)"
            line += 1
    return "holds bytes that are no UTF-8; write the file anew as UTF-8 (see iconv)"
