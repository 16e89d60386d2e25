"""Datasets on this machine: files, folders of files, folders written by `datasets.save_to_disk`.

A `.txt` file's rows are its paragraphs: pieces between blank lines.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmplay_tui.data import splits
from lmplay_tui.errors import DataError, UserError, unchain
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_BUILDERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text",
    ".arrow": "arrow",
}


def is_local(path: str) -> bool:
    """Whether a dataset's path is one on this machine."""
    return Path(path).is_absolute()


def read(spec: DatasetSpec) -> tuple[pa.Table, pa.Table | None]:
    """The tables to train and to validate on. Files become Arrow once, in the cache of `datasets`.

    Raises `UserError` where there is nothing, or nothing that can be read.
    """
    path = Path(spec.path)
    shown = one_line(path, 120)
    if not path.exists():
        raise UserError(f"dataset {spec.name}: there is no file or folder {shown}")
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _chosen(spec, _opened(spec, lambda: _library().load_from_disk(str(path))), None)
        return _built(spec, str(path), _folder_arguments(spec, path))
    builder = _BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise UserError(
            f"dataset {spec.name}: {shown} is of no kind that is read: {', '.join(_BUILDERS)}, or a folder of them"
        )
    if path.stat().st_size == 0:
        raise UserError(f"dataset {spec.name}: {shown} is empty")
    arguments: dict[str, Any] = {"data_files": str(path)}
    if builder == "text":
        arguments["sample_by"] = "paragraph"
    if path.suffix.lower() == ".tsv":
        arguments["sep"] = "\t"
    return _built(spec, builder, arguments)


def read_saved(spec: DatasetSpec, folders: tuple[Path, Path | None]) -> tuple[pa.Table, pa.Table | None]:
    """The tables of a dataset saved in the datasets folder; the second is its validation split's, if it has one."""
    train, validation = folders
    return _from_disk(spec, train), None if validation is None else _from_disk(spec, validation)


def _from_disk(spec: DatasetSpec, folder: Path) -> pa.Table:
    return splits.arrow_table(_opened(spec, lambda: _library().load_from_disk(str(folder))))


def _folder_arguments(spec: DatasetSpec, folder: Path) -> dict[str, Any]:
    kinds = {path.suffix.lower() for path in folder.rglob("*") if path.is_file()} & _BUILDERS.keys()
    if not kinds:
        known = ", ".join(_BUILDERS)
        raise UserError(f"dataset {spec.name}: the folder {one_line(folder, 120)} holds none of {known}")
    return {"sample_by": "paragraph"} if kinds == {".txt"} else {}


def _library() -> Any:
    from lmplay_tui.data.library import quiet_datasets

    return quiet_datasets()


def _built(spec: DatasetSpec, path: str, arguments: dict[str, Any]) -> tuple[pa.Table, pa.Table | None]:
    found = _opened(spec, lambda: _library().load_dataset(path, **arguments))
    return _chosen(spec, found, lambda split: _library().load_dataset(path, **arguments, split=split))


def _chosen(
    spec: DatasetSpec, found: Any, load_split: Callable[[str], Any] | None
) -> tuple[pa.Table, pa.Table | None]:
    known = found if isinstance(found, dict) else {spec.split: found}
    return splits.choose(spec, known, load_split and (lambda name: _opened(spec, lambda: load_split(name))))


def _opened(spec: DatasetSpec, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except OSError as error:
        raise DataError(f"dataset {spec.name}: {one_line(spec.path, 120)}: {one_line(error, 200)}") from error
    except Exception as error:  # the parsers' own kinds, some of them without a common base
        said = one_line(unchain(error), 160) or type(error).__name__
        raise UserError(f"dataset {spec.name}: {one_line(spec.path, 120)} cannot be read: {said}") from error
