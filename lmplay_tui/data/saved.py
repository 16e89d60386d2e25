"""The datasets folder: copies of hub datasets for runs without network, LMPlay's included.

A dataset is `NAME.train` and, where it has a split of its own for that, `NAME.validation`, each a folder written by
`datasets.save_to_disk`. Each is there whole or not at all; `NAME.train` comes last and says that all is there. A file
beside its rows says where they lay in the whole dataset, so that the same are held out of the copy of a slice.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lmplay_tui.background import call_with_ticks
from lmplay_tui.data import hub, local, pydocs
from lmplay_tui.data.library import listening, quiet_datasets
from lmplay_tui.data.splits import Report, Segment, SplitRows, Splits, choose, identified, split_names
from lmplay_tui.errors import DataError
from lmplay_tui.files import is_file, sync
from lmplay_tui.plan.schema import DatasetSpec, Plan
from lmplay_tui.process import is_alive
from lmplay_tui.text import one_line

_PLACES = "lmplay_tui_places.json"  # in a saved folder: its rows' segments
_MOST_ROWS = 2**53


def saved_name(spec: DatasetSpec) -> str:
    """The stem of a dataset's folders in the datasets folder."""
    if spec.saved_as is not None and "[" not in spec.split:
        return spec.saved_as
    if spec.saved_as is not None:
        return re.sub(r"[^A-Za-z0-9_-]+", "_", f"{spec.saved_as}_{spec.split}")
    parts = [spec.path, spec.config, spec.revision, None if spec.split == "train" else spec.split]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join(part for part in parts if part))


def find(spec: DatasetSpec, datasets_folder: Path) -> tuple[Path, Path | None] | None:
    """The saved folders of a dataset (to train on, to validate on or None); None if it is not saved."""
    train, validation = _folders(spec, datasets_folder)
    if not _is_whole(train):
        whole = _unsliced(spec)
        return None if whole == spec else find(whole, datasets_folder)
    return train, validation if _is_whole(validation) else None


def _unsliced(spec: DatasetSpec) -> DatasetSpec:
    """The dataset whose copy a slice can be cut from: all of the split, where it names one."""
    names = set(split_names(spec.split))
    return replace(spec, split=names.pop()) if len(names) == 1 else spec


def read(spec: DatasetSpec, folders: tuple[Path, Path | None]) -> Splits:
    """The rows of a dataset saved in the datasets folder, as `find` gives its folders."""
    train, validation = folders
    rows = _read(spec, train)
    own = None if validation is None else _read(spec, validation)
    whole = _unsliced(spec)
    if whole == spec or train.name == f"{saved_name(spec)}.train":
        return Splits(rows, own)
    known = {whole.split: rows} | ({} if own is None else {spec.validation or "validation": own})
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


def _folders(spec: DatasetSpec, datasets_folder: Path) -> tuple[Path, Path]:
    name = saved_name(spec)
    return datasets_folder / f"{name}.train", datasets_folder / f"{name}.validation"


def _is_whole(folder: Path) -> bool:
    return is_file(folder / "state.json")


def save_datasets(plan: Plan, datasets_folder: Path, report: Report) -> list[Path]:
    """Save every dataset of `plan` that needs the network, and give the folders, also of those saved before.

    Raises what opening them raises, and `DataError` where the folder cannot be written.
    """
    paths: dict[Path, None] = {}
    for spec in (spec for stage in plan.stages for spec in stage.datasets):
        if spec.path == pydocs.NAME or local.is_local(spec.path):
            continue
        if find(spec, datasets_folder) is None:
            _save(spec, datasets_folder, report)
        train, validation = find(spec, datasets_folder) or _folders(spec, datasets_folder)
        paths |= {path: None for path in (train, validation) if path is not None}
    return list(paths)


def _save(spec: DatasetSpec, datasets_folder: Path, report: Report) -> None:
    found = hub.read(spec, report)
    train, validation = _folders(spec, datasets_folder)
    try:
        datasets_folder.mkdir(parents=True, exist_ok=True)
        if found.validation is not None:
            _write(spec, found.validation, validation, report)
        _write(spec, found.train, train, report)
    except OSError as error:
        shown = one_line(datasets_folder, 120)
        raise DataError(f"dataset {spec.name}: {shown}: {one_line(error.strerror or error)}") from error


def _write(spec: DatasetSpec, rows: SplitRows, folder: Path, report: Report) -> None:
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
