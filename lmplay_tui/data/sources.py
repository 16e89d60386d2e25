"""From what a plan says of a dataset to its rows: embedded, saved, local, or on the hub."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from lmplay_tui.data import hub, local, pydocs, saving
from lmplay_tui.data.columns import Columns
from lmplay_tui.data.order import Source
from lmplay_tui.data.splits import Report
from lmplay_tui.data.table import Rows, open_rows
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec


def open_source(spec: DatasetSpec, *, datasets_folder: Path, report: Report) -> Source:
    """Open a dataset; of its rows only a few are read.

    Raises `UserError` (one line that names the dataset) where the plan asks for what is not there, `DataError` where
    the hub or the disk does not give it.
    """
    if spec.path == pydocs.NAME:
        table = pydocs.table(spec.config, report)
        return Source(spec, open_rows(spec, table), None)
    saved = saving.find(spec, datasets_folder)
    if saved is not None:
        found = local.read_saved(spec, *saved)
    elif local.is_local(spec.path):
        found = local.read(spec, report)
    else:
        found = hub.read(spec, report)
    # LMPlay gave some columns names of its own when it saved.
    renamed = saved is not None
    train = _rows(spec, found.train, renamed=renamed)
    if found.validation is None:
        return Source(spec, train, None)
    return Source(spec, train, _rows(spec, found.validation, renamed=renamed, like=train.columns))


def _rows(spec: DatasetSpec, dataset: Any, *, renamed: bool, like: Columns | None = None) -> Rows:
    """The rows of a `datasets.Dataset`. `renamed`: columns of usual names will do where those named are not there."""
    if dataset._indices is not None:  # a selection of rows: the table underneath holds them all
        dataset = dataset.flatten_indices()
    table: pa.Table = dataset.data.table
    try:
        return open_rows(spec, table, like)
    except UserError:
        if not renamed:
            raise
        return open_rows(DatasetSpec(spec.name, spec.path), table, like)
