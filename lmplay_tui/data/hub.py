"""Datasets of the Hugging Face hub, through `datasets.load_dataset`."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from lmplay_tui.data import splits
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.errors import DataError
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line


def read(spec: DatasetSpec, report: Callable[[str, str, float | None], None]) -> tuple[pa.Table, pa.Table | None]:
    """The tables to train and to validate on."""
    report("downloading", spec.name, None)

    def load(split: str | None = None) -> Any:
        return quiet_datasets().load_dataset(spec.path, spec.config, revision=spec.revision, split=split)

    try:
        return splits.choose(spec, load(), load)
    except OSError as error:
        raise DataError(f"dataset {spec.name}: {one_line(error)}") from error
