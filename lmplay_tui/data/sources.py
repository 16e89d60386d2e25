"""From what a plan says of a dataset to its rows: embedded, saved, local, or on the hub.

And how many rows a stage will read, before it is opened, where that costs next to nothing.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from lmplay_tui.data import hub, local, pydocs, saved
from lmplay_tui.data.columns import find_columns
from lmplay_tui.data.held_out import Claim, HeldOutRows, claims_on, pieces_of
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.data.order import Source, StagePart, rows_per_epoch
from lmplay_tui.data.rows import Columns, Rows
from lmplay_tui.data.splits import ReportProgress, Segment, SplitRows, choose, own_validation
from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from lmplay_tui.text import one_line

FEW_FILES, MOMENT_BYTES = 100, 4 << 20  # of local files: as many are read in a tenth of a second
SMALL_BYTES = 64 << 20  # of local files: as much is converted beside the training without being noticed


def open_source(spec: DatasetSpec, *, datasets_folder: Path, report: ReportProgress) -> Source:
    """Open a dataset; of its rows only a few are read.

    Raises `UserError` (one line that names the dataset) where the plan asks for what is not there, `DataError` where
    the hub or the disk does not give it.
    """
    copy = saved.find(spec, datasets_folder)
    notes: list[str] = []
    if spec.path == pydocs.NAME:
        found = choose(spec, {"train": pydocs.split_rows(spec.config, report)})
    elif copy is not None:
        found = saved.read(spec, copy)
    elif local.is_local(spec.path):
        found = local.read(spec, report)
    else:
        notes += saved.passed_over(spec, datasets_folder)
        found = hub.read(spec, report)
    # LMPlay gave some columns names of its own when it saved.
    renamed = copy is not None
    train = _rows(spec, found.train, renamed=renamed)
    columns = train.columns
    validation = None
    notes += [*found.notes, *columns.notes]
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
    own_segments = () if validation is None or found.validation is None else found.validation.segments
    return Source(
        spec, train, validation, found.train.segments, columns.described(), tuple(notes), own_segments
    )  # fmt: skip


def _rows(spec: DatasetSpec, rows: SplitRows, *, renamed: bool, like: Columns | None = None) -> Rows:
    """The rows of a split. `renamed`: columns of usual names will do where those named are not there."""
    try:
        return open_rows(spec, rows.table, like)
    except UserError:
        if not renamed:
            raise
        return open_rows(DatasetSpec(spec.name, spec.path), rows.table, like)


def open_rows(spec: DatasetSpec, table: pa.Table, like: Columns | None = None) -> Rows:
    """The rows of a table, the columns found that are read.

    `like`: those of the split to train on, to be read here too where they give a sample.
    Raises `UserError` where no columns fit, or, of the split to train on, where no row that is looked at gives a
    sample.
    """
    rows = Rows(spec.name, table, find_columns(spec, table, like))
    try:
        rows.check_samples()
    except UserError:
        if like is None:
            raise
        return _of_own_form(spec, table) or rows
    return rows


def _of_own_form(spec: DatasetSpec, table: pa.Table) -> Rows | None:
    """The rows by the columns of their own table, where these give samples."""
    try:
        return open_rows(spec, table)
    except UserError:
        return None


def claims_of_plan(
    stage: Stage, sources: Sequence[Source], stages: Sequence[Stage], options: TrainOptions, *, datasets_folder: Path,
    report: ReportProgress,
) -> list[Claim]:  # fmt: skip
    """What the plan's `stages` validate on, as far as it is known where `stage` is opened, whose `sources` are open.

    Of other stages: what lies on this machine, and other splits of what `sources` took from the hub. So nothing is
    downloaded here, and the answer does not depend on what else was opened before.
    """
    opened = {source.spec: source for source in sources}
    from_hub = {(source.spec.path, source.spec.config, source.spec.revision) for source in sources}
    claims: list[Claim] = []
    for other in (stage, *(other for other in stages if other.name != stage.name)):
        for spec in other.datasets:
            if spec not in opened:
                if not is_here(spec, datasets_folder) and (spec.path, spec.config, spec.revision) not in from_hub:
                    continue
                try:
                    opened[spec] = open_source(spec, datasets_folder=datasets_folder, report=report)
                except UserError:  # it will be said when the stage's turn comes
                    continue
            one, share = opened[spec], options.validation_split
            claims += claims_on(
                other.name, one.train, one.segments, one.validation, one.validation_segments,
                share=share, seed=options.seed,
            )  # fmt: skip
    return claims


def is_here(spec: DatasetSpec, datasets_folder: Path) -> bool:
    """Whether a dataset is opened without asking the hub."""
    return local.is_local(spec.path) or spec.path == pydocs.NAME or saved.find(spec, datasets_folder) is not None


def is_at_hand(stage: Stage, datasets_folder: Path) -> bool:
    """Whether a stage is opened in next to no time: from this machine's disk, without converting large files."""
    return all(is_here(spec, datasets_folder) and not _is_large(spec, datasets_folder) for spec in stage.datasets)


def opens_in_a_moment(spec: DatasetSpec, datasets_folder: Path) -> bool:
    """Whether a dataset is a file or a folder of a few megabytes, which is opened while its user waits."""
    if not local.is_local(spec.path) or saved.find(spec, datasets_folder) is not None:
        return False
    path = Path(spec.path)
    if local.is_saved(path):  # by `datasets`, which is imported for it: a second
        return False
    are_few = path.is_file() or len(list(islice(path.rglob("*"), FEW_FILES + 1))) <= FEW_FILES
    return are_few and local.size_bytes(path) <= MOMENT_BYTES


def _is_large(spec: DatasetSpec, datasets_folder: Path, small_bytes: int = SMALL_BYTES) -> bool:
    is_file = local.is_local(spec.path) and saved.find(spec, datasets_folder) is None
    return is_file and local.size_bytes(Path(spec.path)) > small_bytes


def count_rows(
    stage: Stage, options: TrainOptions, *, datasets_folder: Path, stages: Sequence[Stage] = (),
    small_bytes: int = SMALL_BYTES,
) -> int | None:  # fmt: skip
    """Rows that a stage will read over all its epochs, as `open_stage` will count them; None where that is not known.

    `stages`: those of the plan. A file of more than `small_bytes` is not converted for a count. No dataset is
    downloaded: the hub is only asked what it says of one, and the count is then right to one row of it, but for rows
    that other stages validate on.
    What is wrong with a dataset is not said here, but when the stage is opened.
    """
    sizes: list[int] = []
    opened: dict[int, Source] = {}  # by number in the stage
    for number, spec in enumerate(stage.datasets):
        if not is_here(spec, datasets_folder):
            sizes.append(_rows_on_card(spec, options) or 0)
        elif _is_large(spec, datasets_folder, small_bytes):
            return None
        else:
            try:
                opened[number] = open_source(spec, datasets_folder=datasets_folder, report=_no_report)
            except UserError:
                return None
            sizes.append(0)
    try:
        claims = claims_of_plan(
            stage, list(opened.values()), stages, options, datasets_folder=datasets_folder, report=_no_report
        )
        for number, source in opened.items():
            part = StagePart(source, share=options.validation_split, seed=options.seed, claims=claims)
            sizes[number] = part.training_rows
    except UserError:
        return None
    return stage.rows_total(rows_per_epoch(stage, options, sizes)) if all(sizes) else None


def _no_report(activity: str, detail: str, fraction: float | None) -> None:
    """What an opening in the background says of itself is not shown."""


def _rows_on_card(spec: DatasetSpec, options: TrainOptions) -> int | None:
    """The rows by the dataset's card. A part of a split (`train[:10%]`) stands on none."""
    try:
        splits = quiet_datasets().load_dataset_builder(spec.path, spec.config, revision=spec.revision).info.splits or {}
    except Exception:  # of many libraries, without a common base; an estimate that cannot be had is no trouble
        return None
    rows: int | None = splits[spec.split].num_examples if spec.split in splits else None
    if not rows or own_validation(spec, splits) is not None:
        return rows
    # What is held out depends on the first row, which the card does not tell: by one row at most.
    return HeldOutRows(pieces_of((Segment("", 0, rows),), options.validation_split), options.seed).training_rows
