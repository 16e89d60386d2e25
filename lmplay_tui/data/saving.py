"""The datasets folder: copies of hub datasets for runs without network, LMPlay's included."""

import re
from pathlib import Path

from lmplay_tui.plan.schema import DatasetSpec


def saved_name(spec: DatasetSpec) -> str:
    """The stem of a dataset's folders in the datasets folder."""
    if spec.saved_as is not None:
        return spec.saved_as
    parts = [spec.path, spec.config, spec.revision, None if spec.split == "train" else spec.split]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join(part for part in parts if part))


def find(spec: DatasetSpec, datasets_folder: Path) -> tuple[Path, Path | None] | None:
    """The saved folders of a dataset (to train on, to validate on or None); None if it is not saved."""
    train, validation = (datasets_folder / f"{saved_name(spec)}.{split}" for split in ("train", "validation"))
    if not (train / "state.json").is_file():
        return None
    return train, validation if (validation / "state.json").is_file() else None
