"""From what a plan says of a dataset to its rows: embedded, saved, local, or on the hub."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from lmplay_tui.data import hub, local, pydocs, saving
from lmplay_tui.data.columns import Columns, find_columns
from lmplay_tui.data.order import Source
from lmplay_tui.data.table import Rows
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec

Report = Callable[[str, str, float | None], None]


def open_source(spec: DatasetSpec, *, datasets_folder: Path, report: Report) -> Source:
    """Open a dataset; of its rows only a few are read.

    Raises `UserError` (one line that names the dataset) where the plan asks for what is not there, `DataError` where
    the hub or the disk does not give it.
    """
    if spec.path == pydocs.NAME:
        return _source(spec, pydocs.table(spec.config, report), None)
    if (saved := saving.find(spec, datasets_folder)) is not None:
        return _source(spec, *local.read_saved(spec, saved), may_differ=True)
    if local.is_local(spec.path):
        return _source(spec, *local.read(spec))
    return _source(spec, *hub.read(spec, report))


def _source(
    spec: DatasetSpec, train: pa.Table, validation: pa.Table | None, *, may_differ: bool = False
) -> Source:
    """`may_differ`: LMPlay gave some columns names of its own when it saved."""
    columns = _columns(spec, train, may_differ=may_differ)
    return Source(
        spec,
        Rows(spec.name, train, columns),
        None if validation is None else Rows(spec.name, validation, columns),
    )


def _columns(spec: DatasetSpec, table: pa.Table, *, may_differ: bool) -> Columns:
    try:
        return find_columns(spec, table.schema)
    except UserError:
        if not may_differ:
            raise
        return find_columns(DatasetSpec(spec.name, spec.path), table.schema)
