"""Checkpoints: written whole or not at all, verified before they are trusted, loaded without running any code.

A checkpoint holds exactly the components `curriculum`, `model`, `runner`, `optimizers` and `lr_schedulers`, each a
dictionary of `state_args` (what it was built with) and `state`. Plain values and tensors only.
"""

import contextlib
import errno
import os
import pickletools
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lmplay_tui.errors import DamagedFileError, DataError, OutOfMemoryError, UserError, os_error, unchain
from lmplay_tui.files import create, mode_of, open_given, sync
from lmplay_tui.formats import format_megabytes
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.upkeep import checkpoints_of
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint_fields import FORMAT, problem_of, problem_of_parts, shown
from lmplay_tui.train.checkpoint_parts import OwnRows, PartsSave, found_in, remove_folder, token_of
from lmplay_tui.train.device import is_out_of_memory

COMPONENTS = ("curriculum", "model", "runner", "optimizers", "lr_schedulers")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of a machine at that moment, not of a file's bytes. A sector that is bad (EIO) is damage: the checkpoint before helps.
_LACKS = (
    errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES,
)  # fmt: skip
_DOS_FOLDER = 0x10
_NO_MEMORY_TO_LOAD = "no memory to load it; close other programs"
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_PLAIN = {
    opcode.name for opcode in pickletools.opcodes
    if not opcode.stack_before and opcode.stack_after not in ([], [pickletools.markobject]) and opcode.name not in _GETS
}  # fmt: skip
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_MOST_IN_TUPLE = 1 << 12  # a state of Python's own random numbers has 627
_MAY_BE_LONG = (str, list, tuple, dict)
_MOST_REPEATED = 1 << 20  # values and characters; a run repeats its plan's text (64 KiB), and some words


class SaveError(OSError):
    """A checkpoint could not be written; the one before it is untouched."""


def write_checkpoint(
    checkpoint: dict[str, Any], path: Path, previous: Path | None = None, like: Sequence[Path] = ()
) -> int:
    """Write `checkpoint` to `path`, whole or not at all, and return its size in bytes.

    The bytes lie beside `path` until they are on the disk and their checksums have been read back; then one rename
    puts them in its place. What `path` was before stays as `previous`. Of a checkpoint in parts the folder is complete
    before that. It is as private as what was there before: `path`, `previous`, or the first of `like` that is there.
    Raises `SaveError`; the temporary file is gone then, and so is that folder.
    """
    temporary = temporary_path(path)
    before = (path, *like) if previous is None else (path, previous, *like)
    parts = parts_of(checkpoint)
    is_there = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed under a run of many hours
        if parts is not None:
            checkpoint = _with_runner_state(checkpoint, parts=parts.finish())
        check_room(checkpoint, path.parent)
        temporary.unlink(missing_ok=True)
        # New, so that no link is followed. A file object: torch then lets other threads run while it writes.
        with create(temporary, mode_of(*before)) as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if damage := damage_of(temporary):
            raise OSError(f"what was written cannot be read back: {damage}")
        if previous is not None and path.exists():
            link_whole(path, previous)
        temporary.replace(path)
        is_there = True
        sync(path.parent)  # the rename, too, lasts through a power cut
    except (OSError, RuntimeError, MemoryError) as error:
        if parts is not None and not is_there:
            parts.abandon()
        # A full disk reaches us as torch's RuntimeError about positions in the file, the OSError beneath it.
        raise SaveError(why_not_saved(error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # there is none after the rename
    return size if parts is None else size + parts.num_bytes


def parts_of(checkpoint: Mapping[str, Any]) -> PartsSave | None:
    """The tensors of a checkpoint that are being written beside it; None where all are in it."""
    runner = checkpoint.get("runner")
    parts = runner["state"].get("parts") if isinstance(runner, dict) else None
    return parts if isinstance(parts, PartsSave) else None


def _with_runner_state(checkpoint: dict[str, Any], **fields: Any) -> dict[str, Any]:
    runner = checkpoint["runner"]
    return checkpoint | {"runner": runner | {"state": runner["state"] | fields}}


def check_room(checkpoint: dict[str, Any], folder: Path) -> None:
    """Raise `OSError` where the disk has no room for the checkpoint: found before, not half-way."""
    needed = int(num_bytes(checkpoint) * 1.02) + (1 << 16)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"disk full: needs {format_megabytes(needed)}, {format_megabytes(free)} free")


def num_bytes(tree: Any) -> int:
    """Bytes of all tensors in a tree of plain values."""
    if isinstance(tree, torch.Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(num_bytes(value) for value in tree.values())
    if isinstance(tree, list | tuple):
        return sum(num_bytes(value) for value in tree)
    return 0


def devices_of(tree: Any) -> set[torch.device]:
    """The devices of all tensors in a tree of plain values."""
    if isinstance(tree, torch.Tensor):
        return {tree.device}
    if isinstance(tree, dict):
        return {device for value in tree.values() for device in devices_of(value)}
    if isinstance(tree, list | tuple):
        return {device for value in tree for device in devices_of(value)}
    return set()


def why_not_saved(error: BaseException) -> str:
    """What hindered a write, in words."""
    cause = unchain(error)
    if is_out_of_memory(cause):
        return "no memory for it"
    if isinstance(cause, OSError) and cause.strerror:
        full = cause.errno in _FULL and not cause.strerror.startswith("disk full")
        return f"disk full ({cause.strerror})" if full else cause.strerror
    if "unexpected pos" in str(error) or "file write failed" in str(error):
        return "disk full, or a limit on file sizes was reached"
    return one_line(cause)


def temporary_path(path: Path) -> Path:
    """Where a checkpoint lies while it is written: one fixed name a target, so that a start can sweep it."""
    return path.with_name(f".{path.name}.tmp")


def link_whole(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source` without a moment in which there is none. Raises `OSError`."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            with source.open("rb") as whole, create(temporary, mode_of(source)) as copy:
                shutil.copyfileobj(whole, copy, 1 << 20)
        temporary.replace(target)
    finally:
        # Also after the rename: renaming one name of a file over another of the same file does nothing.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def damage_of(path: Path) -> str | None:
    """What is wrong with the file as an archive; None if every byte is what was written. Raises `OSError`.

    torch reads without checking sums: of single flipped bits it lets 98 % pass. The archive's own CRC-32 finds them.
    """
    with open_given(path) as file:
        return _damage_in(file)


def _damage_in(file: BinaryIO) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            if claim := _false_claim(archive.infolist(), os.fstat(file.fileno()).st_size):
                return claim
            if (bad := archive.testzip()) is not None:
                return f"the checksum of {one_line(bad)} is wrong"
            return "it holds tuples in tuples that no checkpoint has" if _has_large_tuples(archive) else None
    except MemoryError:  # it says nothing about the file's bytes
        raise
    except Exception as error:  # zipfile raises a dozen kinds for what is cut or altered
        if (lack := _lack(error)) is not None:
            raise lack from None
        return one_line(unchain(error)) or type(error).__name__


def _false_claim(members: list[zipfile.ZipInfo], size_bytes: int) -> str | None:
    """What the archive's own list says that is true of no checkpoint; found without reading the parts."""
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "it holds compressed parts, which no checkpoint does"
    # One bit outside of all checksums makes a part a folder, and torch then reads nothing where numbers were.
    if any(member.is_dir() or member.external_attr & _DOS_FOLDER for member in members):
        return "one of its parts claims to be a folder"
    if sum(member.file_size for member in members) > size_bytes:
        return "its parts claim to be larger than the file"
    return None


def _has_large_tuples(archive: zipfile.ZipFile) -> bool:
    names = [name for name in archive.namelist() if name.endswith("data.pkl")]
    return any(_makes_large_tuple(archive.read(name)) for name in names)


def _makes_large_tuple(pickled: bytes) -> bool:
    """Whether some tuple has more than `_MOST_IN_TUPLE` values, counted through the tuples within.

    One that is a dictionary's key is hashed through all of them, each as often as it is met, in one call that no signal
    ends: a few bytes a level would take years, and ten thousand levels end the process. So the stack of the pickle's
    machine is followed with a size for each value; whatever else a pickle does, torch refuses.
    """
    stack: list[int] = []
    marks: list[int] = []  # where on the stack they stand
    memo: dict[object, int] = {}
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in _PLAIN:
                stack.append(1)
            elif opcode.name == "MARK":
                marks.append(len(stack))
            elif opcode.name in _PUTS:
                memo[argument] = stack[-1]
            elif opcode.name in _GETS:
                stack.append(memo.get(argument, 1))
            else:
                taken = opcode.stack_before
                to_mark = pickletools.markobject in taken
                start = max(
                    marks.pop() - taken.index(pickletools.markobject) if to_mark else len(stack) - len(taken), 0
                )
                size = 1 + (sum(stack[start:]) if opcode.name in _TUPLES else 0)
                if size > _MOST_IN_TUPLE:
                    return True
                del stack[start:]
                stack += [size] * len(opcode.stack_after)
    except Exception:  # no pickle: torch says so in its own words
        return False
    return False


def _lack(error: BaseException) -> OSError | None:
    """What the machine did not give at that moment, where that is why a file was not read: it may be whole."""
    cause = unchain(error)
    return cause if isinstance(cause, OSError) and cause.errno in _LACKS else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint, tensors on the CPU.

    Raises `UserError` if there is no such file, `DamagedFileError` if it is not a whole checkpoint of a format
    that we know, or one of its fields is not what `checkpoint_fields` declares.
    """
    checkpoint = load_archive(path)
    missing = [name for name in COMPONENTS if not isinstance(checkpoint.get(name), dict)]
    if missing or any({"state_args", "state"} - checkpoint[name].keys() for name in COMPONENTS):
        lacks = ", ".join(missing) or "state"
        raise DamagedFileError(f"{one_line(path)}: not a checkpoint of this program (no {lacks})")
    state = checkpoint["runner"]["state"]
    number = state.get("format") if isinstance(state, dict) else None
    if type(number) is not int or number != FORMAT:
        said = number[:60] if isinstance(number, str) else shown(number)
        raise DamagedFileError(
            f"{one_line(path)}: checkpoint format {one_line(said)}, this version reads {FORMAT}"
            "; weights alone can be taken with --initial-model"
        )
    with _reading(path):
        problem = problem_of(checkpoint)
    if problem:
        raise DamagedFileError(f"{one_line(path)}: not a checkpoint that a run can go on with: {problem}")
    return checkpoint


def load_archive(path: Path) -> dict[str, Any]:
    """Any dictionary that torch saved, checksums verified, without running code in it (`weights_only`).

    Raises `DamagedFileError`; another `UserError` where the file may be whole, but this process cannot read it: it is
    not set aside then.
    """
    try:
        damage = damage_of(path)
    except FileNotFoundError:
        raise UserError(f"{one_line(path)}: no such file") from None
    except PermissionError:
        raise UserError(f"{one_line(path)}: cannot be read (permission denied); is the file yours?") from None
    except OSError as error:  # a pipe, a device, a folder; what the machine lacks
        raise type(os_error(error))(f"{one_line(path)}: cannot be read: {error.strerror}") from None
    except MemoryError:
        raise OutOfMemoryError(f"{one_line(path)}: {_NO_MEMORY_TO_LOAD}") from None
    if damage is not None:
        raise DamagedFileError(f"{one_line(path)}: damaged: {damage}")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that asks for anything but plain values, or lies about its shapes
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"{one_line(path)}: {_NO_MEMORY_TO_LOAD}") from None
        if (lack := _lack(error)) is not None:
            raise DataError(f"{one_line(path)}: cannot be read: {lack.strerror}") from None
        raise DamagedFileError(f"{one_line(path)}: cannot be loaded safely: {one_line(error, 120)}") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{one_line(path)}: not a checkpoint")
    if (place := _repeated(value)) is not None:
        raise DamagedFileError(
            f"{one_line(path)}: not a checkpoint that can be read: {place or 'it'} repeats what it holds "
            "far more often than any run"
        )
    with _reading(path):
        _take_parts(value, path)
    return value


def _repeated(archive: dict[str, Any]) -> str | None:
    """Where a file says the same texts, lists or tables over and over; None: nowhere.

    A pickle holds such a value once, and who looks at the file meets it each time: few bytes can take hours. What is
    met for the first time is not counted: its bytes lie in the file, as many of them as a long run needs.
    """
    seen: set[int] = set()
    repeated = 0
    waiting: list[tuple[Any, Any]] = [(archive, None)]  # each with the fields that lead to it, the last one first
    while waiting:
        value, fields = waiting.pop()
        if id(value) in seen:
            repeated += 1 + len(value)
            if repeated > _MOST_REPEATED:
                return _place(fields)
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += [(each, (name, fields)) for name, each in value.items() if isinstance(each, _MAY_BE_LONG)]
        elif not isinstance(value, str) and any(issubclass(kind, _MAY_BE_LONG) for kind in set(map(type, value))):
            waiting += [(each, fields) for each in value if isinstance(each, _MAY_BE_LONG)]
    return None


def _place(fields: Any) -> str:
    names = []
    while fields is not None:
        name, fields = fields
        names.append(one_line(name[:60]) if isinstance(name, str) else shown(name))
    return one_line("/".join(reversed(names)), 150)


def _said_of_parts(archive: Mapping[str, Any]) -> Any:
    """What a head says of its parts, whatever that is; None where all is in the file."""
    runner = archive.get("runner")
    state = runner.get("state") if isinstance(runner, dict) else None
    return state.get("parts") if isinstance(state, dict) else None


def _take_parts(archive: dict[str, Any], path: Path) -> None:
    """Put the weights that lie beside a head in their places, and for the optimizer's tensors what reads them later.

    Raises `OSError`, `DamagedFileError`.
    """
    if (said := _said_of_parts(archive)) is None:
        return
    if problem := problem_of_parts(said):
        raise DamagedFileError(f"{one_line(path)}: not a checkpoint that can be read: {problem}")
    del archive["runner"]["state"]["parts"]
    found = found_in(path, said)
    read: dict[str, torch.Tensor] = {}  # a tied weight is one
    for component in ("model", "optimizers"):
        table = archive[component].get("state") if isinstance(archive.get(component), dict) else None
        tables = [table] if component == "model" else table.values() if isinstance(table, dict) else []
        for each in [each for each in tables if isinstance(each, dict)]:
            for name, key in each.items():
                if not isinstance(key, str) or key not in found:
                    continue
                if component == "model" and key not in read:
                    read[key] = found[key].whole(check=True)
                each[name] = read[key] if component == "model" else found[key]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What hinders the reading of parts: damage, a machine that lacks something, or what is not to be trusted."""
    try:
        yield
    except OSError as error:
        if _lack(error) is None and error.errno in (errno.EIO, errno.ENOENT):
            raise DamagedFileError(f"{one_line(error.filename or path)}: damaged: {error.strerror}") from None
        raise os_error(error) from None
    except MemoryError:
        raise OutOfMemoryError(f"{one_line(path)}: {_NO_MEMORY_TO_LOAD}") from None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{one_line(path)}: {_NO_MEMORY_TO_LOAD}") from None


def newest_checkpoint(run: RunFolder, warn: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
    """The run's newest whole checkpoint and where it was; None if the run has none.

    A damaged `NAME.lmp` is set aside as `NAME.damaged.lmp`, `warn` says so, and the one before it is used.
    Raises `DamagedFileError` if there are checkpoints, but none can be used.
    """
    problems: list[DamagedFileError] = []
    for path in run.newest:
        if not path.exists():
            continue
        if path.is_symlink():
            warn(f"{one_line(path)} is a link: it is read where it leads, and stays as it is there; saves go beside it")
        try:
            checkpoint = load_checkpoint(path)
        except DamagedFileError as error:
            problems.append(error)
            continue
        if problems:
            aside = run.checkpoint("damaged")
            run.model.replace(aside)
            warn(f"{problems[0]}; set aside as {one_line(aside.name)}, going on from {one_line(path.name)}")
        elif path != run.model:
            warn(f"{one_line(run.model)} is not there: going on from {one_line(path.name)}, the one before it")
        return checkpoint, path
    if problems:
        raise DamagedFileError(f"{problems[0]}; no earlier checkpoint can be used: start anew with --reset-history")
    return None


def sweep_parts(run: RunFolder) -> None:
    """Remove the folders of parts that no checkpoint of the run needs any more, and those that a killed save left.

    Where one of its checkpoints is whole, but cannot be looked into at this moment, all stay. Raises `OSError`.
    """
    if not (folders := run.parts_folders()):
        return
    used = set()
    for path in checkpoints_of(run):
        try:
            used.add(_token_in(path))
        except OSError:
            return
        except Exception:  # torch raises any kind
            if damage_of(path) is None:
                return
    for folder in folders:
        if token_of(folder.name) not in used:
            remove_folder(folder)


def _token_in(path: Path) -> str | None:
    """Which folder a checkpoint names, found out without reading its tensors; None: none."""
    with open_given(path) as file, zipfile.ZipFile(file) as archive:  # torch would wait for a pipe
        # What it unpacks has no bound; or the reading of it.
        if _false_claim(archive.infolist(), os.fstat(file.fileno()).st_size) or _has_large_tuples(archive):
            return None
        head = torch.load(path, map_location="cpu", mmap=True, weights_only=True)  # mapped by its name
    said = _said_of_parts(head) if isinstance(head, dict) else None
    return token_of(said.get("folder")) if isinstance(said, dict) else None


def copied(own: Sequence[OwnRows], buffers: dict[str, torch.Tensor]) -> list[OwnRows]:
    """The rows that this process is to write, on the CPU, as `cpu_copy` copies."""
    copies = [replace(each, rows=cpu_copy(each.rows, buffers, each.key)) for each in own]
    for device in {each.rows.device for each in own}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return copies


def cpu_copy(tree: Any, buffers: dict[str, torch.Tensor], path: str = "") -> Any:
    """A copy of `tree` on the CPU that later training does not change.

    Tensors are copied into `buffers` (made at the first call, reused after), because fresh memory of a model's size
    costs more than the copy itself. On a GPU the buffers are pinned, so that all copies run at once.
    """
    if isinstance(tree, torch.Tensor):
        source = tree.detach()
        buffer = buffers.get(path)
        if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
            buffer = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            buffers[path] = buffer
        return buffer.copy_(source, non_blocking=source.is_cuda)
    if isinstance(tree, dict):
        return {key: cpu_copy(value, buffers, f"{path}/{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(cpu_copy(value, buffers, f"{path}/{i}") for i, value in enumerate(tree))
    return tree
