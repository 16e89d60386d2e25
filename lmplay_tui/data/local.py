"""Datasets on this machine: files, folders of files, folders written by `datasets.save_to_disk`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from lmplay_tui.background import call_with_ticks
from lmplay_tui.data.arrow_cache import BadFile, FileRows, Stopped, Work, open_files
from lmplay_tui.data.cells import kinds_of, with_kinds
from lmplay_tui.data.folders import Layout, lay_out
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.data.row_files import like_most, listed
from lmplay_tui.data.splits import ReportProgress, SplitRows, Splits, choose, of_dataset, of_saved, of_table
from lmplay_tui.errors import DataError, UserError, unchain
from lmplay_tui.files import open_given, read_given
from lmplay_tui.plan.dataset_specs import KINDS_SAID, file_kind
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_LISTS = ("dataset_dict.json", "dataset_info.json", "state.json")  # in a folder that `datasets` has saved
_JSON_BYTES = 32 << 20  # of a list worth reading: 100,000 files take as much

T = TypeVar("T")


def is_local(path: str) -> bool:
    """Whether a dataset's path is one on this machine."""
    return Path(path).is_absolute()


def size_bytes(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; 0 where there is nothing."""
    files = path.rglob("*") if path.is_dir() else (path,)
    try:
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def read(spec: DatasetSpec, report: ReportProgress) -> Splits:
    """The rows to train and to validate on. Files become Arrow once, in the user's cache.

    Raises `UserError` where there is nothing, or nothing that can be read.
    """
    path = Path(spec.path)
    shown = one_line(path, 120)
    if not path.exists():
        raise UserError(f"dataset {spec.name}: there is no file or folder {shown}")
    if spec.revision is not None:
        raise UserError(f"dataset {spec.name}: revision is nothing that {shown} has: it lies on this machine")
    if path.is_dir() and is_saved(path):
        _refuse_config(spec)
        return _opened(spec, lambda: choose(spec, of_saved(spec, _from_disk(spec, path))))
    work = Work()

    def tick() -> None:
        report("loading", f"{spec.name}: writing rows to the cache", work.fraction())

    try:
        return call_with_ticks(lambda: _opened(spec, lambda: _files(spec, path, work)), tick)
    finally:
        work.stopped = True  # where `report` has ended the waiting


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder: its state names data files, or its list names such folders."""
    match json_in(folder / "state.json"), json_in(folder / "dataset_dict.json"):
        case ({"_data_files": list()}, _):
            return True
        case (_, {"splits": [*splits]}):
            return all((folder / str(split) / "state.json").is_file() for split in splits)
    return False


def json_in(path: Path) -> Any:
    """What a file beside saved rows says; None where there is none, or it is no such file."""
    try:
        return json.loads(read_given(path, _JSON_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_saved(spec: DatasetSpec, folder: Path) -> SplitRows:
    """The rows of one split of `spec`, as `datasets.save_to_disk` wrote it."""
    return _opened(spec, lambda: of_dataset(_from_disk(spec, folder)))


def _from_disk(spec: DatasetSpec, folder: Path) -> Any:
    """What `datasets` gives of a folder that it has saved, once none of its lists leads out of it.

    And once each file that is read is one: the library waits for a pipe, and reads a list of any size.
    """
    shown = one_line(folder, 120)
    if "::" in str(folder):
        said = "`datasets` would take the :: in it for an address; give it another name"
        raise UserError(f"dataset {spec.name}: {shown} cannot be opened: {said}")
    match json_in(folder / "dataset_dict.json"):
        case {"splits": list() | dict() | str() as splits}:  # the library takes what can be iterated
            names = [str(split) for split in splits]
        case _:
            names = []
    parts = (folder, *(folder / name for name in names))
    data: list[Path] = []
    for part in parts:
        match json_in(part / "state.json"):
            case {"_data_files": [*files]}:
                named = [str(file.get("filename")) for file in files if isinstance(file, dict)]
                names += named
                data += [part / name for name in named]
    for name in names:
        if name in ("", ".", "..") or "/" in name or "::" in name:
            raise UserError(f"dataset {spec.name}: {shown}: {one_line(name, 100)} leads out of it, and is not read")
    _check_files(spec, [part / name for part in parts for name in _LISTS], data)
    return quiet_datasets().load_from_disk(str(folder))


def _check_files(spec: DatasetSpec, lists: list[Path], data: list[Path]) -> None:
    """Raise `DataError` for what is no plain file, and for a list without an end; what is not there is passed over."""
    for path in (*lists, *data):
        try:
            if path in lists:
                read_given(path, _JSON_BYTES)
            else:
                open_given(path).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"dataset {spec.name}: {one_line(path, 120)}: {error.strerror}") from error


def _refuse_config(spec: DatasetSpec) -> None:
    if spec.config is not None:
        raise UserError(
            f"dataset {spec.name}: there is no config {one_line(spec.config, 60)}: {one_line(spec.path, 120)} has no "
            "configurations"
        )


def _files(spec: DatasetSpec, path: Path, work: Work) -> Splits:
    layout = lay_out(spec, path) if path.is_dir() else _one_file(spec, path)
    notes = list(layout.notes)
    splits: dict[str, SplitRows] = {}
    every = list(dict.fromkeys(file for files in layout.splits.values() for file in files))
    for file in every:
        if file.stat().st_size == 0 and len(every) == 1:
            raise UserError(f"dataset {spec.name}: {one_line(file, 120)} is empty")
    opened, said = open_files(every, work)
    notes += said
    notes += _told(opened, path)
    known = {rows.path: rows for rows in opened}
    for split, files in layout.splits.items():
        others = like_most(spec, [(_name(file, path), known[file].table) for file in files])
        if others:
            notes.append(f"left out, for they share no column that is read with most rows: {listed(others)}")
        alike = [known[file] for file in files if _name(file, path) not in others]
        splits[split] = _split_rows(alike, notes)
    if not any(rows.table.num_rows for rows in splits.values()):
        raise UserError(f"dataset {spec.name}: {one_line(path, 120)} holds no rows")
    return choose(spec, splits, tuple(dict.fromkeys(notes)))


def _one_file(spec: DatasetSpec, path: Path) -> Layout:
    if file_kind(path.name) is None:
        shown = one_line(path, 120)
        raise UserError(f"dataset {spec.name}: {shown} is of no kind that is read: {KINDS_SAID}; or a folder of them")
    _refuse_config(spec)
    return Layout({"train": [path]})


def _told(opened: list[FileRows], path: Path) -> list[str]:
    """What there is to tell of the files, each fact once, with the files that it is true of."""
    facts: dict[str, list[str]] = {}
    for rows in opened:
        for note in rows.notes:
            facts.setdefault(note, []).append(_name(rows.path, path))
    return [f"{listed(names)}: {note}" for note, names in facts.items()]


def _name(file: Path, path: Path) -> str:
    return file.name if file == path else file.relative_to(path).as_posix()


def _split_rows(files: list[FileRows], notes: list[str]) -> SplitRows:
    """The files' rows one after the other, a segment each."""
    full = [file for file in files if file.table.num_rows] or files[:1]
    segments = tuple(segment for file in full for segment in of_table(file.table).segments)
    return SplitRows(_together(full, notes), segments)


def _together(files: list[FileRows], notes: list[str]) -> pa.Table:
    """One table of files whose columns may differ: what a file lacks is null in its rows.

    A column of several types takes the one that holds them all; else text, if all are scalars; else it is left out,
    which is noted.
    """
    fields: dict[str, list[pa.Field]] = {}
    for file in files:
        for field in file.table.schema:
            fields.setdefault(field.name, []).append(field)
    columns: dict[str, pa.Field] = {}
    for name, given in fields.items():
        kind = _common({field.type for field in given})
        if kind is None:
            types = one_line(", ".join(sorted({str(field.type) for field in given})), 120)
            notes.append(f"column {one_line(name, 60)} is left out: it holds {types} in different files")
            continue
        columns[name] = pa.field(name, kind)
        if written := [kinds for field in given if (kinds := kinds_of(field)) is not None]:
            missing = {"null"} if len(given) < len(files) else set()
            columns[name] = with_kinds(columns[name], missing.union(*written))
    schema = pa.schema(list(columns.values()), files[0].table.schema.metadata if files else None)  # names of labels
    tables = [pa.Table.from_arrays([_column(file.table, field) for field in schema], schema=schema) for file in files]
    return pa.concat_tables(tables) if tables else pa.table({})


def _common(kinds: set[pa.DataType]) -> pa.DataType | None:
    """A type for values of all these; None where there is none."""
    kinds = {kind for kind in kinds if not pa.types.is_null(kind)} or kinds
    if len(kinds) == 1:
        return next(iter(kinds))
    try:
        schemas = [pa.schema([pa.field("x", kind)]) for kind in sorted(kinds, key=str)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None if any(pa.types.is_nested(kind) or _is_bytes(kind) for kind in kinds) else pa.string()


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.schema.names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = table.column(field.name)
    return column if column.type == field.type else column.cast(field.type)


def _opened(spec: DatasetSpec, load: Callable[[], T]) -> T:
    path = one_line(spec.path, 120)
    try:
        return load()
    except BadFile as error:
        what = one_line(error.path, 120)
        joint = ", " if str(error).startswith("line ") else " "
        raise UserError(f"dataset {spec.name}: {what}{joint}{one_line(error, 240)}") from error
    except (UserError, Stopped):
        raise
    except OSError as error:
        raise DataError(f"dataset {spec.name}: {path}: {one_line(error.strerror or error, 300)}") from error
    except Exception as error:  # the libraries' own kinds, without a common base
        cause = unchain(error)
        if isinstance(cause, IndexError):  # how `datasets` says that a folder holds none
            raise UserError(f"dataset {spec.name}: {path} holds no rows") from error
        said = one_line(cause, 160) or type(cause).__name__
        raise UserError(f"dataset {spec.name}: {path} cannot be read: {said}") from error
