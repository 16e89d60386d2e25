"""What a user does to a run as a whole: tags and a note, another name, the trash.

All that belongs to a run goes together, while its lock is held. Wherever this is interrupted nothing is lost, and the
same command again completes it.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from lmplay_tui.errors import UserError, os_error
from lmplay_tui.files import Folder, sync
from lmplay_tui.options import shown_value
from lmplay_tui.plan.schema import check_name
from lmplay_tui.run.folder import RunFolder, take_run
from lmplay_tui.run.statistics import SUFFIX, other_run, read_statistics, write_statistics
from lmplay_tui.text import one_line

TRASH = "trash"  # the folder beside the runs that removed ones go to
MAX_TAGS, MAX_TAG, MAX_NOTE = 20, 40, 1000  # tags; characters of one, and of a note
_ABOUT = "about.json"
_RENAMING = "renaming.json"
_ABOUT_BYTES = 64 << 10  # of a file worth reading; ours are far smaller


# ---- tags and a note


@dataclass(frozen=True)
class About:
    """What its user says of a run: words to find it by, and a sentence."""

    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def words(self) -> str:
        """The tags as a list shows them: `#short #baseline`."""
        return " ".join(f"#{tag}" for tag in self.tags)


def about(run: RunFolder) -> About:
    """The run's tags and note, fit for a terminal; nothing where there are none, or the file is none of ours."""
    try:
        said = json.loads(run.files.read(_ABOUT, _ABOUT_BYTES))
    except (OSError, ValueError, RecursionError):
        return About()
    tags, note = (said.get("tags"), said.get("note")) if isinstance(said, dict) else (None, None)
    words = [one_line(tag, MAX_TAG) for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return About(tuple(words[:MAX_TAGS]), one_line(note, MAX_NOTE) if isinstance(note, str) else "")


def set_about(run: RunFolder, said: About) -> None:
    """Replace the run's tags and note; also while it trains. Raises `UserError`."""
    for tag in said.tags:
        if not tag or tag != one_line(tag, MAX_TAG) or " " in tag or tag[0] in "-#":
            raise UserError(f"{shown_value(tag)} is no tag: 1 to {MAX_TAG} characters, no spaces, not a - or # first")
    if len(said.tags) > MAX_TAGS:
        raise UserError(f"{one_line(run.name)}: at most {MAX_TAGS} tags, not {len(said.tags)}")
    if len(said.note) > MAX_NOTE:
        raise UserError(f"{one_line(run.name)}: a note has at most {MAX_NOTE} characters, not {len(said.note)}")
    try:
        run.files.make()
        run.files.write(_ABOUT, json.dumps(asdict(said), ensure_ascii=False).encode("utf-8", "replace"))
    except OSError as error:
        raise os_error(error) from None


# ---- what belongs to it


def checkpoints_of(run: RunFolder) -> list[Path]:
    """The run's checkpoints of every kind, and what was to become one."""
    own = re.compile(r"\.?" + re.escape(run.name) + r"(\.[A-Za-z0-9_-]+)?\.lmp(\.tmp)?")
    found = [path for path in _entries(run.model.parent) if own.fullmatch(path.name)]
    return [path for path in found if path.is_symlink() or path.is_file()]


def files_of(run: RunFolder, statistics: Path) -> list[Path]:
    """The run's beside its folders: checkpoints and their parts, and in `statistics` its figures and pictures."""
    figures = re.compile(re.escape(run.name) + r"(_step_[A-Za-z0-9_-]+)?_(train|validate)_stats\.(json|png)")
    files = [*checkpoints_of(run), *run.parts_folders()]
    files += [path for path in _entries(statistics) if figures.fullmatch(path.name) and _is_of(path, run.name)]
    return files


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_of(figures: Path, name: str) -> bool:
    """Whether statistics, or their picture, are those of the run of that name."""
    return other_run(figures.with_suffix(".json"), name) is None


@contextlib.contextmanager
def _held(run: RunFolder) -> Iterator[None]:
    """While no process can train the run. Raises `UserError`, also for what the disk refuses in between."""
    lock = take_run(run)
    try:
        yield
    except OSError as error:
        raise os_error(error) from None
    finally:
        lock.release()


# ---- another name


def rename(run: RunFolder, name: str, statistics: Path) -> RunFolder:
    """Give a run, and all that belongs to it, another name. Raises `UserError`.

    Each file gets its new name beside the old one first, then the folders move, then the old names go: at every moment
    one of the two runs is whole. A file in the run's folder says what is being done, until it is.
    """
    if (problem := check_name("model", name)) is not None:
        raise UserError(f"{shown_value(name)} {problem}")
    new = RunFolder(run.model.with_name(f"{name}.lmp"))
    if name == run.name:
        raise UserError(f"{name}: it is called so already")
    files = {path: path.with_name(path.name.replace(run.name, name, 1)) for path in files_of(run, statistics)}
    if _being_renamed(new) == run.name:  # the folder has moved already
        with _held(new):
            _check_goes_on(run, new, files, has_moved=True)
            _finish(run, new, files, statistics)
        return new
    with _held(run):
        if _being_renamed(run) == name:
            _check_goes_on(run, new, files, has_moved=False)
        else:
            _check_free(run, new, files)
            run.files.write(_RENAMING, json.dumps({"from": run.name, "to": name}).encode())
        for path, target in files.items():
            if path.is_dir() and not path.is_symlink():  # of parts: a checkpoint finds it by the other end of its name
                path.rename(target)
            elif not _is_same(path, target):  # else an interrupted rename came that far
                _name_too(path, target)
        if run.past.exists():
            run.past.rename(new.past)
        run.folder.rename(new.folder)
        _finish(run, new, files, statistics)
    return new


def _being_renamed(run: RunFolder) -> str | None:
    """The other name of a run whose rename was interrupted."""
    try:
        said = json.loads(run.files.read(_RENAMING, _ABOUT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    names = (said.get("from"), said.get("to")) if isinstance(said, dict) else ()
    return next((name for name in names if isinstance(name, str) and name != run.name), None)


def _check_goes_on(run: RunFolder, new: RunFolder, files: dict[Path, Path], *, has_moved: bool) -> None:
    """Raise `UserError` where the two names are of two runs, whatever a file in a folder says of a rename.

    Another hand may have written that, or the run was trained since: the old names would then go with all they hold.
    `has_moved`: the folder has its new name, which all else had before it.
    """
    folders = {run.folder: new.folder, run.past: new.past}
    for path, target in (folders | files).items():
        if not os.path.lexists(path) or not (has_moved or os.path.lexists(target)):
            continue
        if path in folders or not _is_same(path, target):
            raise UserError(
                f"{one_line(target)}: it is not {one_line(path.name)} under another name; {one_line(run.name)} and "
                f"{new.name} are two runs, or parts of two; rename or remove one of them first"
            )


def _is_same(path: Path, target: Path) -> bool:
    """Whether both are names of one file; of a link, of the link itself."""
    try:
        return os.path.samestat(path.lstat(), target.lstat())
    except OSError:
        return False


def _finish(run: RunFolder, new: RunFolder, files: dict[Path, Path], statistics: Path) -> None:
    """All has its new name: the old ones go, that of the newest checkpoint last, by which the run is found."""
    if said := new.status():
        new.write_status(_renamed(said, run, new))
    sync(new.model.parent)
    old = [path for path, target in files.items() if _is_same(path, target)]
    for path in old:
        if path != run.model:
            path.unlink()
    for path in files_of(new, statistics):
        if path.name.endswith(SUFFIX):
            _say_name(path, new.name)
    if run.model in old:
        run.model.unlink()
    if new.files.has(_RENAMING):
        new.files.remove(_RENAMING)


def _check_free(run: RunFolder, new: RunFolder, files: dict[Path, Path]) -> None:
    """Raise `UserError` where the new name, in large letters or small, is another run's.

    So it is where a disk takes both for one: there, a name cannot change in its case alone.
    """
    folders = {new.model.parent, *(path.parent for path in files.values())}
    own = {run.folder.name, run.past.name, *(path.name for path in files)}
    names = {entry.name.lower() for folder in folders for entry in _entries(folder) if entry.name not in own}
    wanted = (new.folder, new.past, new.model, *files.values())
    if any(path.name.lower() in names or os.path.lexists(path) for path in wanted):
        raise UserError(f"{new.name}: there is a run of that name, or a part of one; rename or remove it first")


def _name_too(path: Path, target: Path) -> None:
    """Let a file have its new name too; where there are no links it moves at once."""
    try:
        os.link(path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        path.rename(target)


def _say_name(figures: Path, name: str) -> None:
    """Let statistics say that they are of the run of that name. Raises `OSError`."""
    with contextlib.suppress(UserError):  # no file of ours: it keeps what it holds
        write_statistics(figures, replace(read_statistics(figures), name=name))


def _renamed(said: dict[str, Any], run: RunFolder, new: RunFolder) -> dict[str, Any]:
    """A `run.json` with the new name for the old one: the command that goes on is typed as it stands there."""
    old, called = run.model.name, new.model.name
    values = said | {"name": new.name, "model": str(new.model.resolve())}
    if isinstance(command := said.get("command"), str):
        values["command"] = re.sub(rf"(?<![^\s/'\"]){re.escape(old)}(?![^\s'\"])", called, command)
    checkpoint = said.get("checkpoint")
    if isinstance(checkpoint, dict) and PurePath(str(checkpoint.get("path"))).name == old:
        values["checkpoint"] = checkpoint | {"path": str(PurePath(checkpoint["path"]).with_name(called))}
    return values


# ---- the trash


def remove(run: RunFolder, statistics: Path) -> Path:
    """Move a run, and all that belongs to it, to a folder of its own in the trash; which one. Raises `UserError`.

    Its folder goes last: until then the run is still listed, and can be removed again.
    """
    with _held(run):
        target = _new_folder(run.model.parent / TRASH, f"{run.name}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        for path in (*files_of(run, statistics), run.past, run.folder):
            if path.is_symlink() or path.exists():
                shutil.move(path, target / path.name)  # statistics may lie on another disk
        return target


def _new_folder(parent: Path, name: str) -> Path:
    Folder(parent).make()
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise UserError(f"{one_line(parent / name)}: a thousand of these are there already; empty the trash")
