"""What a plan says, read and checked: plain frozen values; and the names that it may give."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Stopping = Literal["first_exhausted", "all_exhausted"]

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
NAME_PATTERN = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z")
RESERVED_NAMES = ("prev", "best", "past", "corrupted", "damaged", "apart", "run")  # what a run's own files are called
_NUMBERED = re.compile(r"step-\d{8,}", re.IGNORECASE)  # ... and those of `--keep`


def check_name(kind: str, name: str) -> str | None:
    """What is wrong with a name that files are called by (`kind`: stage, model, ...); None: nothing."""
    if not NAME_PATTERN.match(name):
        return f"is no {kind} name: 1 to 40 letters A-Z, digits, _ and -, the first a letter or digit"
    if name.lower() in RESERVED_NAMES or _NUMBERED.fullmatch(name):
        return f"is no {kind} name: a run's own files are called so"
    return None


def name_from(text: str, between: str) -> str:
    """The text as far as files can be called so, `between` in the place of all else; empty where nothing is left."""
    return _NO_NAME.sub(between, text).strip("_-")[:40].rstrip("_-")


@dataclass(frozen=True)
class DatasetSpec:
    """Where rows come from and which columns are read.

    Either `text` (with or without `title`), or `prompt` and `truth`, or `messages` names the columns; where none
    is named, they are found by their usual names when the dataset is opened.
    """

    name: str  # as the plan calls it; also what messages and the screen show
    path: str  # hub name `owner/name`, absolute local path, or an embedded one: `pydocs`
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    validation: str | None = None  # the split to validate on; None: rows are held out of `split`
    text: str | None = None
    title: str | None = None
    prompt: str | None = None
    system: str | None = None  # a column put before the prompt
    truth: str | None = None
    messages: str | None = None
    saved_as: str | None = None  # LMPlay's name for it in the datasets folder


@dataclass(frozen=True)
class Stage:
    """One entry of a plan: which rows, how often, and the options that hold while it runs."""

    name: str
    datasets: tuple[DatasetSpec, ...]
    epochs: float = 1.0
    weights: tuple[float, ...] | None = None  # shares of a mixture, sum 1; None: in turn
    stopping: Stopping = "first_exhausted"
    seed: int | None = None  # of a mixture (LMPlay's steps carry one); None: the run's
    options: Mapping[str, Any] = field(default_factory=dict)  # options marked `stage`

    def rows_total(self, rows_per_epoch: int) -> int:
        """Rows that the stage reads: `ceil(epochs * rows)`."""
        # A product that is whole but for its last bits (0.1 * 30 = 3.0000000000000004) is that whole number.
        product = self.epochs * rows_per_epoch
        nearest = round(product)
        return nearest if math.isclose(product, nearest, rel_tol=1e-12) else math.ceil(product)


@dataclass(frozen=True)
class Plan:
    """A whole training plan."""

    name: str  # file stem or shipped name: part of the run's default name
    stages: tuple[Stage, ...]
    train: Mapping[str, Any] = field(default_factory=dict)  # options of [train]
    title: str | None = None
    purpose: str = ""  # the comment that the file opens with
    text: str = ""  # TOML that reads back as this plan: what checkpoints and run folders keep
    folder: str = ""  # absolute; relative dataset paths start here

    def stage(self, name: str) -> Stage:
        """The stage called `name`; `KeyError` if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)
