"""How many rows a stage will read, found out before it is opened, where that costs next to nothing."""

from pathlib import Path

from lmplay_tui.data import local, pydocs, saving
from lmplay_tui.data.held_out import held_out
from lmplay_tui.data.library import quiet_datasets
from lmplay_tui.data.order import identity_of, rows_per_epoch
from lmplay_tui.data.sources import open_source
from lmplay_tui.data.splits import own_validation
from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage

SMALL_BYTES = 64 << 20  # of local files: as much is converted beside the training without being noticed


def count_rows(stage: Stage, options: TrainOptions, *, datasets_folder: Path) -> int | None:
    """Rows that a stage will read over all its epochs, as `open_stage` will count them; None where that is not known.

    No dataset is downloaded: the hub is only asked what it says of one. What is wrong with a dataset is not said
    here, but when the stage is opened.
    """
    sizes = []
    for spec in stage.datasets:
        found = _size(spec, datasets_folder)
        if found is None:
            return None
        rows, has_validation = found
        if not has_validation:
            rows = held_out(rows, options.validation_split, options.seed, identity_of(spec)).training_rows
        sizes.append(rows)
    return stage.rows_total(rows_per_epoch(stage, options, sizes)) if all(sizes) else None


def _size(spec: DatasetSpec, datasets_folder: Path) -> tuple[int, bool] | None:
    """The rows of the split to train on, and whether the dataset has a split of its own for validation."""
    is_here = spec.path == pydocs.NAME or saving.find(spec, datasets_folder) is not None
    if not is_here and local.is_local(spec.path):
        if local.size_bytes(Path(spec.path)) > SMALL_BYTES:
            return None
        is_here = True
    try:
        if not is_here:
            return _said_by_hub(spec)
        source = open_source(spec, datasets_folder=datasets_folder, report=lambda *_: None)
    except UserError:
        return None
    return source.train.num_rows, source.validation is not None


def _said_by_hub(spec: DatasetSpec) -> tuple[int, bool] | None:
    """By the dataset's card. A part of a split (`train[:10%]`) stands on none."""
    try:
        splits = quiet_datasets().load_dataset_builder(spec.path, spec.config, revision=spec.revision).info.splits or {}
    except Exception:  # of many libraries, without a common base; an estimate that cannot be had is no trouble
        return None
    rows = splits[spec.split].num_examples if spec.split in splits else None
    return (rows, own_validation(spec, splits) is not None) if rows else None
