"""What a dataset's name in a plan stands for: one of the plan's own, a known one, a file or folder, a name on the hub.

And the rules that hold for each: how a file is read, which columns go together.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from lmplay_tui.options import nearest, shown_value
from lmplay_tui.plan.builtin import KNOWN_NAMES, known_dataset
from lmplay_tui.plan.schema import DatasetSpec

MAX_WORD = 500  # characters; with each one escaped, a line of a written plan stays within its limit

TEXT_KINDS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".text", ".md")  # also compressed
TABLE_KINDS = (".parquet", ".arrow")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
KINDS_SAID = f"{', '.join((*TEXT_KINDS, *TABLE_KINDS))}, the text ones also compressed: {', '.join(COMPRESSIONS)}"

# What a row is made of: one of these, in whole.
_COLUMN_SETS = (("messages",), ("text", "title"), ("prompt", "system", "truth"))
COLUMNS = tuple(column for columns in _COLUMN_SETS for column in columns)
_DECIDING = {"messages", "text", "prompt", "truth"}  # these say which of the sets was meant
_NEEDED = {"title": {"text"}, "prompt": {"truth"}, "truth": {"prompt"}, "system": {"prompt", "truth"}}

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def file_kind(name: str) -> tuple[str, str] | None:
    """How a file is read, by the name it bears: its kind and its compression ("": none); None where it is not."""
    path = PurePath(name.lower())
    kind = path.suffix
    if kind in COMPRESSIONS:
        inner = PurePath(path.stem).suffix
        return (inner, kind) if inner in TEXT_KINDS else None
    return (kind, "") if kind in TEXT_KINDS or kind in TABLE_KINDS else None


class Shelf:
    """The datasets that a plan may name: its own, the known ones, what lies on this disk, the hub's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._own: dict[str, DatasetSpec | None] = {}
        self._used: set[Path] = set()

    @property
    def folder(self) -> Path:
        """Where relative paths start: the plan's folder, or the working folder if all of them were found there.

        So a run that is resumed from elsewhere still finds its files.
        """
        return next(iter(self._used)) if len(self._used) == 1 else self._folder

    def define(self, name: str, spec: DatasetSpec | None) -> None:
        """Put a dataset of the plan's own here. None: there is one, but something is wrong with it."""
        self._own[name] = spec

    def find(self, name: str) -> tuple[DatasetSpec | None, str | None]:
        """What a stage means by `name`, and what is wrong with it (None: nothing that was not said before)."""
        if name in self._own:
            return self._own[name], None
        return self.at(name, name=name)

    def at(self, place: str, *, name: str) -> tuple[DatasetSpec | None, str | None]:
        """The dataset called `name` that lies at `place`: a known name, a local path or a hub name."""
        if (known := known_dataset(place)) is not None:
            return replace(known, name=name), None
        if (path := self._on_disk(place)) is not None:
            return _local(name, path)
        if place.startswith((".", "/", "~")) or file_kind(place) is not None:
            return None, f"no such file or folder: {shown_value(place)}"
        if _HUB_NAME.fullmatch(place):
            return DatasetSpec(name=name, path=place), None
        hint = nearest(place, [*KNOWN_NAMES, *self._own]) or (
            f": neither known ({', '.join(KNOWN_NAMES)}) nor a hub name (owner/name) nor the path of a file or folder"
        )
        return None, f"unknown dataset {shown_value(place)}{hint}"

    def _on_disk(self, place: str) -> Path | None:
        try:
            starts = [self._folder, Path.cwd()]
            path = Path(place).expanduser()
            if not place.startswith("~/") and any((start / place).exists() for start in starts):
                path = Path(place)  # a file of that name is nearer than another user's home
        except (RuntimeError, OSError):  # no such user; the working folder is gone
            path, starts = Path(place), [self._folder]
        for start in starts:
            try:
                found = _absolute(start / path)
                if not found.exists():
                    continue
            except (OSError, RuntimeError, ValueError):  # too long a name, no right to look, links in a circle, a NUL
                continue
            if not path.is_absolute():
                self._used.add(start)
            return found
        return None


def _absolute(path: Path) -> Path:
    """The path without `..`; a link keeps the name that it bears, which says how the file is read."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _local(name: str, path: Path) -> tuple[DatasetSpec | None, str | None]:
    if not path.is_dir() and file_kind(path.name) is None:
        return None, f"must be a folder or a file that ends in {KINDS_SAID}; got {shown_value(path.name)}"
    if len(str(path)) > MAX_WORD:
        return None, f"its whole path must have at most {MAX_WORD} characters"
    return DatasetSpec(name=name, path=str(path)), None


def altered(base: DatasetSpec, given: Mapping[str, str]) -> DatasetSpec:
    """The dataset with what a plan says of it; columns are given all or none."""
    values: dict[str, Any] = {}
    if given:  # no longer what LMPlay saved under that name
        values["saved_as"] = None
    if any(column in given for column in COLUMNS):
        values |= dict.fromkeys(COLUMNS)
    return replace(base, **(values | dict(given)))


def column_problems(given: Iterable[str]) -> list[tuple[str, str]]:
    """Columns that do not go together, or that need another beside them: each with what is wrong."""
    there = set(given)
    sets = [[column for column in columns if column in there] for columns in _COLUMN_SETS]
    sets.sort(key=lambda columns: not _DECIDING & set(columns))
    first, *others = [columns for columns in sets if columns] or [[]]
    problems = [(column, f"does not go together with {first[0]}") for columns in others for column in columns]
    missing = sorted({other for column in first for other in _NEEDED.get(column, ())} - there)
    if missing:
        problems.append((first[0], f"needs {' and '.join(missing)} beside it"))
    return problems
