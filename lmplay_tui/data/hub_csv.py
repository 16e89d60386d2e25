"""Datasets of the hub whose files are CSV: each value is the text that the file spells.

The library reads CSV by pandas, which makes a number of `007` and nothing of `NA`, `null` and `None`. What it keeps of
them so, for other programs too, is left alone: these copies are kept beside.
"""

import json
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.plan.schema import DatasetSpec

_TEXTS = ("string", "large_string")
# In a column of numbers, what pandas takes for none.
_MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip


def cache() -> Path:
    """Where the library keeps what it has made of datasets of the hub."""
    return Path(quiet_datasets().config.HF_DATASETS_CACHE)


def csv_cache() -> Path:
    """Where what is made here of CSV is kept."""
    return cache() / "lmplay-tui-csv"


def kept(spec: DatasetSpec, place: Path) -> list[Path]:
    """The folders of a cache that hold the dataset's configuration."""
    found = [folder / (spec.config or "default") for folder in _of_any_configuration(spec, place)]
    return [folder for folder in found if folder.is_dir()]


def _of_any_configuration(spec: DatasetSpec, place: Path) -> list[Path]:
    owner, _, name = spec.path.partition("/")
    wanted = _plain(f"{owner}{name}")
    try:
        return [folder for folder in place.iterdir() if _plain(folder.name) == wanted]
    except OSError:  # nothing was ever downloaded here
        return []


def _plain(name: str) -> str:
    """A name as the cache may spell it: `TinyStories` is `tiny_stories` there."""
    return name.replace("_", "").lower()


def csv_builder(spec: DatasetSpec) -> Any:
    """The library's builder of a dataset of CSV files, its values made texts; None where it is none, or is not known.

    Raises what asking the hub raises.
    """
    library = quiet_datasets()
    before = kept(spec, cache())
    if before and not any(map(_is_csv, before)):  # the hub need not be asked twice
        return None
    try:
        builder = library.load_dataset_builder(
            spec.path, spec.config, revision=spec.revision, cache_dir=str(csv_cache())
        )
    except Exception:  # of many libraries, without a common base
        if library.config.HF_HUB_OFFLINE or _of_any_configuration(spec, cache()):
            return None  # the library looks into its own cache then, and says what is wrong
        raise
    if isinstance(builder, import_module("datasets.packaged_modules.csv.csv").Csv):
        words = _as_words(builder)
        # The library's versions have different names for the files.
        builder._generate_tables = lambda **given: _tables(given.get("files_iterables") or given["files"], words)
        return builder
    is_ours = isinstance(builder, import_module("datasets.packaged_modules.cache.cache").Cache)
    return builder if is_ours else None


def prepared(builder: Any) -> Any:
    """The splits of a dataset, downloaded and made if they are not kept."""
    builder.download_and_prepare()
    return builder.as_dataset()


def _is_csv(folder: Path) -> bool:
    try:
        about = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/*/dataset_info.json")]
        return any(one["builder_name"] == "csv" for one in about)
    except (OSError, ValueError, TypeError, KeyError):
        return True  # for all that is known


def _as_words(builder: Any) -> dict[str, Any]:
    """What pandas is told, so that columns come as they are spelled; those that a README calls numbers are numbers."""
    told: dict[str, Any] = builder.config.pd_read_csv_kwargs
    if builder.info.features is None:
        return told | {"dtype": str, "keep_default_na": False}
    others = {name for name, kind in builder.info.features.items() if getattr(kind, "dtype", None) not in _TEXTS}
    told |= {"dtype": dict.fromkeys(builder.info.features.keys() - others, str)}
    if told["na_values"] is None:
        told |= {"keep_default_na": False, "na_values": dict.fromkeys(others, _MISSING)}
    return told


def _tables(files: Any, words: dict[str, Any]) -> Iterator[tuple[str, pa.Table]]:
    pandas = import_module("pandas")
    for number, file in enumerate(chain.from_iterable(files)):
        for part, frame in enumerate(pandas.read_csv(file, iterator=True, **words)):
            yield f"{number}-{part}", pa.Table.from_pandas(frame)
