"""From what a plan says of a dataset to its rows: embedded, saved, local, or on the hub."""

from pathlib import Path

from lmplay_tui.data import hub, local, pydocs, saving
from lmplay_tui.data.columns import Columns
from lmplay_tui.data.order import Source
from lmplay_tui.data.splits import Report, SplitRows, choose
from lmplay_tui.data.table import Rows, open_rows
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line


def open_source(spec: DatasetSpec, *, datasets_folder: Path, report: Report) -> Source:
    """Open a dataset; of its rows only a few are read.

    Raises `UserError` (one line that names the dataset) where the plan asks for what is not there, `DataError` where
    the hub or the disk does not give it.
    """
    saved = saving.find(spec, datasets_folder)
    if spec.path == pydocs.NAME:
        found = choose(spec, {"train": pydocs.split_rows(spec.config, report)})
    elif saved is not None:
        found = saving.read(spec, saved)
    elif local.is_local(spec.path):
        found = local.read(spec, report)
    else:
        found = hub.read(spec, report)
    # LMPlay gave some columns names of its own when it saved.
    renamed = saved is not None
    train = _rows(spec, found.train, renamed=renamed)
    columns = train.columns
    validation = None
    notes = [*found.notes, *columns.notes]
    if found.validation is not None:
        try:
            validation = _rows(spec, found.validation, renamed=renamed, like=columns)
            validation.check_samples()
        except UserError as error:
            why = str(error).removeprefix(f"dataset {spec.name}: ")
            if spec.validation is not None:
                split = one_line(spec.validation, 60)
                raise UserError(f"dataset {spec.name}: its validation split {split}: {why}") from error
            # Such as a test split whose answers are kept secret.
            validation = None
            notes.append(f"its own validation split is left out, rows are held out of the others: {why}")
        else:
            if validation.columns.key() != columns.key():
                notes.append(f"its validation split is read by its own columns: {validation.columns.form()}")
    return Source(spec, train, validation, found.train.segments, columns.described(), tuple(notes))


def is_here(spec: DatasetSpec, datasets_folder: Path) -> bool:
    """Whether a dataset is opened without asking the hub."""
    return local.is_local(spec.path) or spec.path == pydocs.NAME or saving.find(spec, datasets_folder) is not None


def _rows(spec: DatasetSpec, rows: SplitRows, *, renamed: bool, like: Columns | None = None) -> Rows:
    """The rows of a split. `renamed`: columns of usual names will do where those named are not there."""
    try:
        return open_rows(spec, rows.table, like)
    except UserError:
        if not renamed:
            raise
        return open_rows(DatasetSpec(spec.name, spec.path), rows.table, like)
