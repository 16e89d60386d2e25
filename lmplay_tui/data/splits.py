"""Which split of a dataset is trained on and which is its own for validation."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lmplay_tui.errors import UserError
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

Report = Callable[[str, str, float | None], None]  # activity, detail, fraction


@dataclass(frozen=True)
class Segment:
    """Rows of a split that lie together, in one file or in one split of the hub.

    `identity` decides, with the rows' places, which are held out: the same however the rows are named.
    `first`: the absolute place of the first of its `rows` in that file or split, unsliced.
    """

    identity: str
    first: int
    rows: int


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split, or of a slice of one; the segments' rows together are the table's."""

    table: pa.Table
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Splits:
    """A dataset's rows to train on, those of its own split for validation, and facts to be told, a line each."""

    train: SplitRows
    validation: SplitRows | None
    notes: tuple[str, ...] = ()


VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test", "eval")


def own_validation(spec: DatasetSpec, known: Mapping[str, Any]) -> str | None:
    """The split to validate on: the one that `spec` names, else one with a usual name beside `train`."""
    if spec.validation is not None:
        return spec.validation
    trained = re.split(r"[\[+]", spec.split)[0].strip()
    return next((name for name in VALIDATION_NAMES if name in known), None) if trained == "train" else None


def choose(
    spec: DatasetSpec, known: Mapping[str, Any], load_split: Callable[[str], Any] | None
) -> Splits:
    """The rows to train and to validate on, of the splits `known`; others (`train[:10%]`) through `load_split`.

    Raises `UserError` where a split is not there.
    """
    validation = own_validation(spec, known)
    train = _split(spec, spec.split, known, load_split)
    return Splits(train, None if validation is None else _split(spec, validation, known, load_split))


def _split(
    spec: DatasetSpec, name: str, known: Mapping[str, Any], load_split: Callable[[str], Any] | None
) -> Any:
    if name in known:
        return known[name]
    if load_split is not None and re.search(r"[\[+]", name):
        return load_split(name)
    raise UserError(
        f"dataset {spec.name}: there is no split {one_line(name, 60)}{nearest(name, known)}; "
        f"it has {one_line(', '.join(known), 200)}"
    )
