"""Files that are whole or absent whatever happens while they are written, and folders that are not trusted.

A run's folder may come out of an archive or from another hand. So what is read and written in it is opened by `Folder`:
by its name in a folder that is held open, never through a link, without waiting for a pipe, and only where it is a
plain file of this user (or root). What is not is refused by an `OSError` that says why in a few words. Temporaries are
new, and their names cannot be foreseen; what a killed process left of them is swept by name and by kind.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SEARCHED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # no right to list it is asked for
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN
_MODE = 0o666  # less the umask
_KINDS = {
    stat.S_IFLNK: (errno.ELOOP, "is a symbolic link, which is not followed"),
    stat.S_IFDIR: (errno.EISDIR, "is a folder, not a file"),
    stat.S_IFIFO: (errno.EINVAL, "is a pipe, not a plain file"),
    stat.S_IFSOCK: (errno.EINVAL, "is a socket, not a plain file"),
    stat.S_IFREG: (errno.ENOTDIR, "is a file, not a folder"),
}


@dataclass(frozen=True)
class Folder:
    """A folder whose files are opened by their names in it.

    `own`: so many of the path's last names must be real folders of this user; those before them may be links of the
    user's own. Each call opens the folder anew, so one that was moved away is not written to behind the user's back.
    A folder of another user may be looked at, where its files are that user's too; nothing is written there.
    Every method raises `OSError`.
    """

    path: Path
    own: int = 1

    @contextlib.contextmanager
    def held(self, flags: int = _SEARCHED, *, writes: bool = False) -> Iterator[int]:
        """A descriptor of the folder."""
        names = self.path.parts[len(self.path.parts) - self.own + 1 :] if self.own > 1 else ()
        first = self.path.parents[len(names) - 1] if names else self.path
        handle = self._opened(first, flags if not names else _SEARCHED, None)
        try:
            for i, name in enumerate(names, 1):
                inner = self._opened(name, flags if i == len(names) else _SEARCHED, handle)
                os.close(handle)
                handle = inner
            if self.own and writes and not _is_ours(os.fstat(handle).st_uid, self.path):
                raise OSError(errno.EPERM, "belongs to another user", str(self.path))
            yield handle
        finally:
            os.close(handle)

    def _opened(self, name: Path | str, flags: int, within: int | None) -> int:
        try:
            return os.open(name, flags | (os.O_NOFOLLOW if self.own else 0), dir_fd=within)
        except OSError as error:
            raise _reason(error, name, within, str(self.path), stat.S_IFDIR) from None

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = _MODE) -> int:
        """The descriptor of a plain file; `flags` and `mode` as those of `os.open`."""
        with self.held(writes=flags & os.O_ACCMODE != os.O_RDONLY) as handle:
            return self._open(name, flags, mode, handle)

    def _open(self, name: str, flags: int, mode: int, handle: int) -> int:
        where = str(self.path / name)
        try:
            descriptor = os.open(name, flags | _PLAIN, mode, dir_fd=handle)
        except OSError as error:
            raise _reason(error, name, handle, where, stat.S_IFREG) from None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(*_of_kind(found.st_mode), where)
            reads = flags & os.O_ACCMODE == os.O_RDONLY
            if not (reads and found.st_uid == os.fstat(handle).st_uid) and not _is_ours(found.st_uid, self.path):
                raise OSError(errno.EPERM, "belongs to another user", where)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A file's bytes; one of more than `limit_bytes` is none of ours."""
        with os.fdopen(self.open(name), "rb") as file:
            return _at_most(limit_bytes, file, self.path / name)

    def append(self, name: str) -> int:
        """A descriptor that reads, and writes at the file's end; the file is made where there is none.

        One that has other names (hard links) is copied first: what those name stays as it is.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        descriptor = self.open(name, flags)
        if os.fstat(descriptor).st_nlink <= 1:
            return descriptor
        with os.fdopen(descriptor, "rb") as shared, self.replacing(name) as file:
            while data := shared.read(1 << 20):
                file.write(data)
        return self.open(name, flags)

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """A new file to write to; it becomes `name` when the block ends, and goes where the block fails.

        It keeps the permissions of what was there before.
        """
        with self.held(writes=True) as handle:
            mode = self._mode_before(name, handle)
            temporary = _temporary_name(name)
            descriptor = os.open(temporary, _NEW, _MODE if mode is None else mode, dir_fd=handle)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if mode is not None:
                        os.fchmod(descriptor, mode)
                    yield file
                os.replace(temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=handle)
                if isinstance(error, OSError) and error.filename == temporary:
                    raise OSError(error.errno, error.strerror, str(self.path / name)) from None
                raise

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole or not at all: a reader sees the old one or the new one."""
        with self.replacing(name) as file:
            file.write(data)

    def overwrite(self, name: str, data: bytes) -> None:
        """Put other bytes into the room that a small text file has already, blanks behind them: a full disk allows it.

        A reader may see half of it for a moment. `OSError` where they do not fit, or the file has other names.
        """
        with os.fdopen(self.open(name, os.O_WRONLY), "wb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if found.st_nlink > 1 or len(data) > found.st_size:
                raise OSError(errno.ENOSPC, "has no room for it", str(self.path / name))
            file.write(data.ljust(found.st_size))

    def _mode_before(self, name: str, handle: int) -> int | None:
        try:
            found = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise OSError(*_of_kind(found.st_mode), str(self.path / name))
        return stat.S_IMODE(found.st_mode) & 0o777

    def status(self, name: str) -> os.stat_result:
        """What `fstat` says of a plain file."""
        descriptor = self.open(name)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        """Whether there is a plain file of that name, to which we have a right."""
        try:
            self.status(name)
        except OSError:
            return False
        return True

    def names(self, limit: int | None = None) -> list[str]:
        """What lies in it, of any kind, in no order; of a monstrous folder the first `limit`."""
        with self.held(_LISTED) as handle, os.scandir(handle) as entries:
            return [entry.name for entry, _ in zip(entries, range(limit or 1 << 62), strict=False)]

    def make(self) -> None:
        """See to it that there is such a folder, of this user."""
        if self.own == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            return
        with contextlib.suppress(FileExistsError):
            if self.own > 1:
                with Folder(self.path.parent, self.own - 1).held(writes=True) as handle:
                    os.mkdir(self.path.name, dir_fd=handle)
            else:
                self.path.mkdir()
        with self.held(writes=True):
            pass

    def remove(self, name: str) -> None:
        """Remove a plain file; what is another kind, or another user's, stays and is refused."""
        with self.held(writes=True) as handle:
            found = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(*_of_kind(found.st_mode), str(self.path / name))
            os.unlink(name, dir_fd=handle)

    def rename(self, name: str, new: str) -> None:
        """Give a plain file another name in this folder."""
        with self.held(writes=True) as handle:
            for each in (name, new):
                self._mode_before(each, handle)
            os.replace(name, new, src_dir_fd=handle, dst_dir_fd=handle)

    def sweep(self, names: re.Pattern[str] | None = None) -> None:
        """Remove the temporaries that a killed process left: of the files that `names` matches, or of any."""
        for name in self.names():
            found = _TEMPORARY.fullmatch(name)
            if found is not None and (names is None or names.fullmatch(found[1])):
                with contextlib.suppress(OSError):
                    self.remove(name)


_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)


def _temporary_name(name: str) -> str:
    return f".{name}.{secrets.token_hex(8)}.tmp"


def _of_kind(mode: int) -> tuple[int, str]:
    return _KINDS.get(stat.S_IFMT(mode), (errno.EINVAL, "is a device, not a plain file"))


def _reason(error: OSError, name: Path | str, within: int | None, where: str, wanted: int) -> OSError:
    """The refusal in words where the kind of what lies there is the reason; else the system's own."""
    try:
        kind = stat.S_IFMT(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
    except OSError:
        kind = wanted
    if kind != wanted and error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EEXIST):
        return OSError(*_of_kind(kind), where)
    return OSError(error.errno, error.strerror, where)


def _is_ours(owner: int, folder: Path) -> bool:
    """Whether a file is this user's, or root's.

    Some file systems give what we make to another number (a mounted share, a network disk that trusts no root): there
    it is that number that is ours.
    """
    if owner in (os.geteuid(), 0):
        return True
    temporary = folder / _temporary_name("owner")
    try:
        descriptor = os.open(temporary, _NEW, 0o600)
    except OSError:
        return False
    try:
        return os.fstat(descriptor).st_uid == owner
    finally:
        os.close(descriptor)
        temporary.unlink()


@contextlib.contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """The name to write to, beside `path`; it becomes `path` when the block ends, and goes where the block fails.

    For what takes no file, but a name. `temporary`: that name, where it is made already. It reaches the disk when the
    block syncs it.
    """
    if temporary is None:
        folder = Folder(path.parent, own=0)
        with folder.held() as handle:
            mode = folder._mode_before(path.name, handle)
        temporary = path.with_name(_temporary_name(path.name))
        create(temporary, mode).close()
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def create(path: Path, mode: int | None = None) -> BinaryIO:
    """A new file to write to; no link is followed, nothing that is there is opened. Raises `OSError`.

    `mode`: its permissions from the first moment on; None: those that the umask leaves.
    """
    descriptor = os.open(path, _NEW, _MODE if mode is None else mode)
    if mode is not None:
        os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "xb")


def mode_of(*paths: Path) -> int | None:
    """The permissions of the first of these files that is there, for the one that takes its place; None: none is."""
    for path in paths:
        with contextlib.suppress(OSError):
            return stat.S_IMODE(path.stat().st_mode) & 0o777
    return None


# Paths that a user has named. `Path`'s own methods raise where the system will not look: at a name that is too long, in
# a folder without the right to search it. To a question of what is there the answer is then: nothing.


def is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def open_given(path: Path) -> BinaryIO:
    """A file that a user has named, to read: a link is followed, but no pipe is waited for. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(*_of_kind(mode), str(path))
    return os.fdopen(descriptor, "rb")


def read_given(path: Path, limit_bytes: int) -> bytes:
    """The bytes of such a file; one of more than `limit_bytes` is refused. Raises `OSError`."""
    with open_given(path) as file:
        return _at_most(limit_bytes, file, path)


def _at_most(limit_bytes: int, file: BinaryIO, path: Path) -> bytes:
    data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"is larger than {limit_bytes >> 10} KiB", str(path))
    return data


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all: a reader sees the old one or the new one. Raises `OSError`."""
    Folder(path.parent, own=0).write(path.name, data)


def sync(path: Path) -> None:
    """Have a file, or a folder's names, on the disk: they then last through a power cut. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
