"""From what a plan says of a dataset to its rows: embedded, saved, local, or on the hub."""

from collections.abc import Sequence
from pathlib import Path

from lmplay_tui.data import hub, local, pydocs, saving
from lmplay_tui.data.columns import Columns
from lmplay_tui.data.order import Source
from lmplay_tui.data.splits import Report, SplitRows, choose
from lmplay_tui.data.table import Rows, open_rows
from lmplay_tui.data.validated import Claim, claims_on
from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
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
    own_segments = () if validation is None or found.validation is None else found.validation.segments
    return Source(
        spec, train, validation, found.train.segments, columns.described(), tuple(notes), own_segments
    )  # fmt: skip


def claims_of_plan(
    stage: Stage, sources: Sequence[Source], stages: Sequence[Stage], options: TrainOptions, *, datasets_folder: Path,
    report: Report,
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
    return local.is_local(spec.path) or spec.path == pydocs.NAME or saving.find(spec, datasets_folder) is not None


def _rows(spec: DatasetSpec, rows: SplitRows, *, renamed: bool, like: Columns | None = None) -> Rows:
    """The rows of a split. `renamed`: columns of usual names will do where those named are not there."""
    try:
        return open_rows(spec, rows.table, like)
    except UserError:
        if not renamed:
            raise
        return open_rows(DatasetSpec(spec.name, spec.path), rows.table, like)
