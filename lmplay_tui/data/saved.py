"""The datasets folder: copies of hub datasets for runs without network, LMPlay's included.

A dataset is `NAME.train` and, where it has a split of its own for that, `NAME.validation`, each a folder written by
`datasets.save_to_disk`. Each is there whole or not at all; `NAME.train` comes last and says that all is there. Files
beside its rows say whose they are, for several datasets' names may be the same words, and where they lay in the whole
dataset, so that the same are held out of the copy of a slice.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmplay_tui.background import call_with_ticks
from lmplay_tui.data import hub, local, pydocs
from lmplay_tui.data.library import listening, quiet_datasets
from lmplay_tui.data.splits import ReportProgress, Segment, SplitRows, Splits, choose, identified, split_names
from lmplay_tui.errors import DataError
from lmplay_tui.files import is_file, sync
from lmplay_tui.plan.schema import DatasetSpec, Plan
from lmplay_tui.process import is_alive
from lmplay_tui.text import one_line

_PLACES = "lmplay_tui_places.json"  # in a saved folder: its rows' segments
_MOST_ROWS = 2**53
_ABOUT = "lmplay_tui_dataset.json"  # in a saved folder: what the plan said of the dataset


@dataclass(frozen=True)
class Saved:
    """A copy: the dataset that it was made of, and its folders."""

    of: DatasetSpec
    train: Path
    validation: Path | None


def saved_names(spec: DatasetSpec) -> list[str]:
    """The stems that a dataset's folders may have in the datasets folder.

    One of plain words, which another dataset may have taken, and one by a digest of what they do not tell. A slice has
    this one alone: `train[:50%]` and `train[50%:]` are the same words.
    """
    if spec.saved_as is not None:
        parts = [spec.saved_as, spec.split if "[" in spec.split else None]
    else:
        parts = [spec.path, spec.config, spec.revision, None if spec.split == "train" else spec.split]
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join(part for part in parts if part))
    digest = hashlib.blake2b(json.dumps(_about(spec)).encode(), digest_size=4).hexdigest()
    is_plain = re.fullmatch(r"[\w.-]+", spec.split, re.ASCII) is not None
    return [words, f"{words}_{digest}"] if is_plain else [f"{words}_{digest}"]


def _about(spec: DatasetSpec) -> dict[str, str | None]:
    """What decides which rows are saved."""
    return {key: getattr(spec, key) for key in ("path", "config", "revision", "split", "validation")}


def find(spec: DatasetSpec, datasets_folder: Path) -> Saved | None:
    """The copy that holds the rows of a dataset; None if it is not saved."""
    for base in _bases(spec):
        for train, validation in _folders(base, datasets_folder):
            if _is_whole(train) and _is_of(base, train):
                return Saved(base, train, validation if _is_whole(validation) and _is_of(base, validation) else None)
    return None


def passed_over(spec: DatasetSpec, datasets_folder: Path) -> list[str]:
    """Of a dataset that is not saved: a line for each copy that bears its name and is of other rows."""
    return [
        f"{one_line(train.name, 120)} in the datasets folder is of another split or validation split, and is not read"
        for train, _ in _folders(spec, datasets_folder)
        if _is_whole(train)
    ]


def _bases(spec: DatasetSpec) -> list[DatasetSpec]:
    """The datasets whose copies hold the rows of `spec`: its own, and the whole split that slices can be cut from."""
    names = set(split_names(spec.split))
    if len(names) != 1:
        return [spec]
    whole = replace(spec, split=names.pop())
    found = [spec, whole]
    if spec.validation is not None and set(split_names(spec.validation)) == {whole.split}:
        found.append(replace(whole, validation=None))
    return list(dict.fromkeys(found))


def read(spec: DatasetSpec, saved: Saved) -> Splits:
    """The rows of a dataset of which `find` has found a copy."""
    rows = _read(spec, saved.train)
    own = None if saved.validation is None else _read(spec, saved.validation)
    if saved.of == spec:
        return Splits(rows, own)
    known = {saved.of.split: rows}
    if own is not None and saved.of.validation == spec.validation:
        known[spec.validation or "validation"] = own
    return choose(spec, known)


def _read(spec: DatasetSpec, folder: Path) -> SplitRows:
    """The rows with the places that they had when they were saved; a copy that does not say has its own."""
    rows = identified(spec, local.read_saved(spec, folder))
    segments = _segments(local.json_in(folder / _PLACES))
    if not segments or sum(one.rows for one in segments) != rows.table.num_rows:
        return rows
    return replace(rows, segments=segments)


def _segments(said: Any) -> tuple[Segment, ...]:
    """The places that a file beside saved rows gives; none where it is of another form."""
    found = []
    for one in said if isinstance(said, list) else ():
        match one:
            case {"identity": str(identity), "first": first, "rows": rows} if _is_count(first) and _is_count(rows):
                found.append(Segment(identity, first, rows))
            case _:
                return ()
    return tuple(found)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_ROWS


def _folders(spec: DatasetSpec, datasets_folder: Path) -> list[tuple[Path, Path]]:
    return [(datasets_folder / f"{name}.train", datasets_folder / f"{name}.validation") for name in saved_names(spec)]


def _is_of(spec: DatasetSpec, folder: Path) -> bool:
    """Whether a saved folder is of these rows; one that does not say (LMPlay's) has the splits that its names say."""
    said = local.json_in(folder / _ABOUT)
    return said == _about(spec) if isinstance(said, dict) else spec.validation in (None, "validation")


def _is_whole(folder: Path) -> bool:
    return is_file(folder / "state.json")


def save_datasets(plan: Plan, datasets_folder: Path, report: ReportProgress) -> list[Path]:
    """Save every dataset of `plan` that needs the network, and give the folders, also of those saved before.

    Raises what opening them raises, and `DataError` where the folder cannot be written.
    """
    paths: dict[Path, None] = {}
    for spec in (spec for stage in plan.stages for spec in stage.datasets):
        if spec.path == pydocs.NAME or local.is_local(spec.path):
            continue
        saved = find(spec, datasets_folder) or _save(spec, datasets_folder, report)
        paths |= {path: None for path in (saved.train, saved.validation) if path is not None}
    return list(paths)


def _save(spec: DatasetSpec, datasets_folder: Path, report: ReportProgress) -> Saved:
    found = hub.read(spec, report)
    *taken, last = _folders(spec, datasets_folder)
    free = (pair for pair in taken if all(_is_of(spec, folder) for folder in pair if _is_whole(folder)))
    train, validation = next(free, last)
    try:
        datasets_folder.mkdir(parents=True, exist_ok=True)
        if found.validation is not None:
            _write(spec, found.validation, validation, report)
        _write(spec, found.train, train, report)
    except OSError as error:
        shown = one_line(datasets_folder, 120)
        raise DataError(f"dataset {spec.name}: {shown}: {one_line(error.strerror or error)}") from error
    return Saved(spec, train, None if found.validation is None else validation)


def _write(spec: DatasetSpec, rows: SplitRows, folder: Path, report: ReportProgress) -> None:
    """Write beside `folder` and rename: what bears its name is whole, also after a power cut."""
    if _is_whole(folder):
        return
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
        if not _has_writer(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    library = quiet_datasets()
    # The fingerprint is given: the library would read all rows to make one.
    dataset: Any = library.Dataset(library.table.InMemoryTable(rows.table), fingerprint=folder.name)
    try:
        with listening() as progress:
            call_with_ticks(
                lambda: dataset.save_to_disk(str(temporary)),
                lambda: report("saving", f"{spec.name}: {one_line(folder.name, 80)}", progress.fraction()),
            )
        places = json.dumps([asdict(segment) for segment in rows.segments])
        (temporary / _PLACES).write_text(places, encoding="utf-8")
        (temporary / _ABOUT).write_text(json.dumps(_about(spec)), encoding="utf-8")
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _has_writer(temporary: Path) -> bool:
    pid = temporary.name.rsplit(".", 2)[1]
    return pid.isdecimal() and is_alive(int(pid))
