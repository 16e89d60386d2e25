"""How many rows a stage will read, found out before it is opened, where that costs next to nothing."""

from collections.abc import Sequence
from pathlib import Path

from lmplay_tui.data import local, saving
from lmplay_tui.data.held_out import HeldOutRows, whole
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.data.order import Part, Source, rows_per_epoch
from lmplay_tui.data.sources import claims_of_plan, is_here, open_source
from lmplay_tui.data.splits import Segment, own_validation
from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage

SMALL_BYTES = 64 << 20  # of local files: as much is converted beside the training without being noticed


def is_at_hand(stage: Stage, datasets_folder: Path) -> bool:
    """Whether a stage is opened in next to no time: from this machine's disk, without converting large files."""
    return all(is_here(spec, datasets_folder) and not _is_large(spec, datasets_folder) for spec in stage.datasets)


def _is_large(spec: DatasetSpec, datasets_folder: Path) -> bool:
    is_file = local.is_local(spec.path) and saving.find(spec, datasets_folder) is None
    return is_file and local.size_bytes(Path(spec.path)) > SMALL_BYTES


def count_rows(
    stage: Stage, options: TrainOptions, *, datasets_folder: Path, stages: Sequence[Stage] = ()
) -> int | None:
    """Rows that a stage will read over all its epochs, as `open_stage` will count them; None where that is not known.

    `stages`: those of the plan. No dataset is downloaded: the hub is only asked what it says of one, and the count is
    then right to one row of it, but for rows that other stages validate on.
    What is wrong with a dataset is not said here, but when the stage is opened.
    """
    sizes: list[int] = []
    opened: dict[int, Source] = {}  # by number in the stage
    for number, spec in enumerate(stage.datasets):
        if not is_here(spec, datasets_folder):
            sizes.append(_said_by_hub(spec, options) or 0)
        elif _is_large(spec, datasets_folder):
            return None
        else:
            try:
                opened[number] = open_source(spec, datasets_folder=datasets_folder, report=_unheard)
            except UserError:
                return None
            sizes.append(0)
    try:
        claims = claims_of_plan(
            stage, list(opened.values()), stages, options, datasets_folder=datasets_folder, report=_unheard
        )
        for number, source in opened.items():
            part = Part(source, share=options.validation_split, seed=options.seed, claims=claims)
            sizes[number] = part.training_rows
    except UserError:
        return None
    return stage.rows_total(rows_per_epoch(stage, options, sizes)) if all(sizes) else None


def _unheard(activity: str, detail: str, fraction: float | None) -> None:
    """A report to nobody."""


def _said_by_hub(spec: DatasetSpec, options: TrainOptions) -> int | None:
    """By the dataset's card. A part of a split (`train[:10%]`) stands on none."""
    try:
        splits = quiet_datasets().load_dataset_builder(spec.path, spec.config, revision=spec.revision).info.splits or {}
    except Exception:  # of many libraries, without a common base; an estimate that cannot be had is no trouble
        return None
    rows: int | None = splits[spec.split].num_examples if spec.split in splits else None
    if not rows or own_validation(spec, splits) is not None:
        return rows
    # What is held out depends on the first row, which the card does not tell: by one row at most.
    return HeldOutRows(whole((Segment("", 0, rows),), options.validation_split), options.seed).training_rows
