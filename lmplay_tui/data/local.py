"""Datasets on this machine: files, folders of files, folders written by `datasets.save_to_disk`.

A `.txt` file's rows are its paragraphs: pieces between blank lines.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lmplay_tui.data.background import in_background
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.data.progress import listening
from lmplay_tui.data.splits import Report, SplitRows, Splits, choose, of_dataset, of_saved
from lmplay_tui.errors import DataError, UserError, unchain
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

T = TypeVar("T")

# How the readers behind `datasets` call a dataset without rows, where they do not just run off a list's end.
_SAY_EMPTY = re.compile("BatchSize must be greater than 0|corresponds to no data")
_BUILDERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text",
    ".arrow": "arrow",
}


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


def read(spec: DatasetSpec, report: Report) -> Splits:
    """The rows to train and to validate on. Files become Arrow once, in the cache of `datasets`.

    Raises `UserError` where there is nothing, or nothing that can be read.
    """
    path = Path(spec.path)
    shown = one_line(path, 120)
    if not path.exists():
        raise UserError(f"dataset {spec.name}: there is no file or folder {shown}")
    if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
        return _opened(spec, lambda: choose(spec, of_saved(spec, quiet_datasets().load_from_disk(str(path)))))
    builder, arguments = _folder(spec, path) if path.is_dir() else _file(spec, path)

    def load() -> Splits:
        found = quiet_datasets().load_dataset(builder, **arguments)
        return choose(spec, {name: of_dataset(split) for name, split in found.items()})

    def tick() -> None:
        report("loading", f"{spec.name}: writing rows to the cache", progress.fraction())

    with listening() as progress:
        return in_background(lambda: _opened(spec, load), tick)


def read_saved(spec: DatasetSpec, train: Path, validation: Path | None) -> Splits:
    """The rows of a dataset saved in the datasets folder."""
    return Splits(_from_disk(spec, train), None if validation is None else _from_disk(spec, validation))


def _from_disk(spec: DatasetSpec, folder: Path) -> SplitRows:
    return _opened(spec, lambda: of_dataset(quiet_datasets().load_from_disk(str(folder))))


def _file(spec: DatasetSpec, path: Path) -> tuple[str, dict[str, Any]]:
    """The builder of `datasets` that reads a file, and its arguments."""
    shown = one_line(path, 120)
    kind = path.suffix.lower()
    if kind not in _BUILDERS:
        raise UserError(
            f"dataset {spec.name}: {shown} is of no kind that is read: {', '.join(_BUILDERS)}, or a folder of them"
        )
    if path.stat().st_size == 0:
        raise UserError(f"dataset {spec.name}: {shown} is empty")
    arguments: dict[str, Any] = {"data_files": str(path)}
    if kind == ".txt":
        arguments["sample_by"] = "paragraph"
    if kind == ".tsv":
        arguments["sep"] = "\t"
    return _BUILDERS[kind], arguments


def _folder(spec: DatasetSpec, path: Path) -> tuple[str, dict[str, Any]]:
    """As `_file`, for a folder: `datasets` finds its files and their splits by their names."""
    kinds = {file.suffix.lower() for file in path.rglob("*") if file.is_file()} & _BUILDERS.keys()
    if not kinds:
        shown, known = one_line(path, 120), ", ".join(_BUILDERS)
        raise UserError(f"dataset {spec.name}: the folder {shown} holds no file of a kind that is read: {known}")
    return str(path), {"sample_by": "paragraph"} if kinds == {".txt"} else {}


def _opened(spec: DatasetSpec, load: Callable[[], T]) -> T:
    path = one_line(spec.path, 120)
    try:
        return load()
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"dataset {spec.name}: {path}: {one_line(error.strerror or error)}") from error
    except Exception as error:  # the parsers' own kinds, without a common base
        cause = unchain(error)
        if isinstance(cause, StopIteration | IndexError) or _SAY_EMPTY.search(str(cause)):
            raise UserError(f"dataset {spec.name}: {path} holds no rows") from error
        said = one_line(cause, 160) or type(cause).__name__
        raise UserError(f"dataset {spec.name}: {path} cannot be read: {said}") from error
