"""The keys of a plan beside the options, each declared once with its type and bounds.

Checks that every table of a plan goes through; what they find is reported with its place.

`[train]` and `[stages.NAME]`, checked key by key and then as a whole.

What a dataset's name in a plan stands for, and what `[datasets.NAME]` says of one.

A plan as TOML that reads back as the same plan.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from lmplay_tui import options
from lmplay_tui.options import nearest, shown_value
from lmplay_tui.plan.builtin import KNOWN_NAMES, PYDOCS_PARTS, known_dataset
from lmplay_tui.plan.problems import KeyPath, Report
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage, Stopping
from lmplay_tui.text import printable

MAX_WORD = 500  # characters; with each one escaped, a line of a written plan stays within its limit
MAX_EPOCHS = 1_000_000
MAX_WEIGHT = 1_000_000
MAX_MIXED = 100  # datasets in one stage

NAME_PATTERN = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z")
RESERVED_NAMES = ("prev", "best", "past", "corrupted", "damaged", "run")  # what a run's own files are called
_NUMBERED = re.compile(r"step-\d{8,}", re.IGNORECASE)  # ... and those of `--keep`


def check_name(kind: str, name: str) -> str | None:
    """What is wrong with a name that files are called by (`kind`: stage, model, ...); None: nothing."""
    if not NAME_PATTERN.match(name):
        return f"is no {kind} name: 1 to 40 letters A-Z, digits, _ and -, the first a letter or digit"
    if name.lower() in RESERVED_NAMES or _NUMBERED.fullmatch(name):
        return f"is no {kind} name: a run's own files are called so"
    return None


def _shown_as_it_is(word: str) -> str:
    if "\n" in word or printable(word) != word:
        raise PydanticCustomError("control_characters", "text without control characters")
    return word


_Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD), AfterValidator(_shown_as_it_is)]
_Entries = Annotated[list[Any], Field(min_length=1, max_length=MAX_MIXED)]
_Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS)]
# LMPlay's names of saved datasets are folder names.
_FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
_Table = dict[str, Any]

TITLE: Any = _Word
STEPS: Any = Annotated[list[Any], Field(min_length=1)]
ENTRY: Any = _Word  # of `datasets`
WEIGHT: Any = Annotated[float, Field(gt=0, le=MAX_WEIGHT)]
TABLE: Any = _Table

PLAN_KEYS = ("title", "train", "datasets", "stages")
STAGE_KEYS: Mapping[str, Any] = {
    "dataset": _Word,
    "datasets": _Entries,
    "epochs": _Epochs,
    "weights": _Entries,
    "stopping": Stopping,
    "seed": "seed",  # as the option of this name
}
DATASET_KEYS: Mapping[str, Any] = {
    "path": _Word,
    "config": _Word,
    "revision": _Word,
    "split": _Word,
    "validation": _Word,
    "text": _Word,
    "title": _Word,
    "prompt": _Word,
    "system": _Word,
    "truth": _Word,
    "messages": _Word,
    "saved_as": _FolderName,
}

# LMPlay's own plans, in its spelling.
LMPLAY_PLAN_KEYS = ("datasets", "steps", "seed", "title", "train")
LMPLAY_DATASET_KEYS: Mapping[str, Any] = {
    "ds_loader": Literal["wiki", "openorca", "hf"],
    "args": Annotated[list[Any], Field(max_length=MAX_MIXED)],
    "kwargs": _Table,
}
LMPLAY_STEP_KEYS: Mapping[str, Any] = {
    "datasets": _Entries,
    "epochs": _Epochs,
    "step_name": _Word,
    "interleve_stopping_strategy": Stopping,
    "seed": "seed",
}
LMPLAY_KWARGS: Mapping[str, Any] = {
    "lang": _Word,
    "name": _Word,
    "revision": _Word,
    "text_column": _Word,
    "prompt_column": _Word,
    "truth_column": _Word,
}

# A plan cannot make anything run, and is no place for a secret.
_REFUSED = {
    **dict.fromkeys(
        ("trust_remote_code", "script", "script_version", "loading_script"),
        "a plan cannot make code run: take this key out",
    ),
    **dict.fromkeys(("token", "use_auth_token"), "is no place for a secret: set HF_TOKEN in the environment instead"),
}

_LIST_SENTENCES = {
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a table",
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def checked(kind: Any, value: object) -> tuple[Any, str | None]:
    """The value as its declared type, and what is wrong with it (None: nothing).

    `kind`: a declaration of this module, or the name of an option.
    """
    if value is None:  # JSON's null; TOML has none
        return None, "must have a value; without the key its default holds"
    if isinstance(kind, str):
        return options.check(kind, value, strict=True)
    try:
        return _adapter(kind).validate_python(value), None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = _LIST_SENTENCES.get(first["type"])
        said = said.format(**first.get("ctx", {})) if said else options.sentence(first)
        return None, f"{said}, got {options.shown_value(value)}"


def not_here(key: str, known: tuple[str, ...], *, hint: bool = True) -> str:
    """Why a key has no place among the `known` ones. `hint`: name the nearest of them."""
    if key in _REFUSED:
        return _REFUSED[key]
    if key in options.names():
        if options.where(key) is options.Where.LINE:
            return f"is set on the command line only: {options.flag(key)}"
        return "holds for a whole run: set it in [train]"
    return "unknown key" + (options.nearest(key, known) if hint else "")


def table_at(report: Report, path: KeyPath, value: object) -> dict[str, Any] | None:
    """The table at `path`; None, and reported, where it is something else."""
    table: dict[str, Any] | None
    table, problem = checked(TABLE, value)
    if problem is not None:
        report.add(path, problem)
    return table


def valid_keys(report: Report, path: KeyPath, table: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a table that are declared in `kinds` and have a valid value; the others are reported."""
    valid = {}
    for key, value in table.items():
        if key not in kinds:
            report.add((*path, key), not_here(key, tuple(kinds), hint=not report.full))
            continue
        typed, problem = checked(kinds[key], value)
        if problem is None:
            valid[key] = typed
        else:
            report.add((*path, key), problem)
    return valid


def valid_entries(report: Report, path: KeyPath, values: Iterable[object], kind: Any) -> list[tuple[KeyPath, Any]]:
    """The valid entries of a list, each with its place; the others are reported."""
    valid = []
    for index, value in enumerate(values):
        typed, problem = checked(kind, value)
        if problem is None:
            valid.append(((*path, index), typed))
        else:
            report.add((*path, index), problem)
    return valid


def check_unique(report: Report, names: Iterable[tuple[KeyPath, str]], kind: str) -> None:
    """Report names that differ in upper and lower case alone: files may lie on a disk that takes them for one."""
    seen: dict[str, str] = {}
    for path, name in names:
        folded = name.casefold()
        if folded in seen:
            report.add(path, f"there is a {kind} {shown_value(seen[folded])} already; upper and lower case are one")
        seen.setdefault(folded, name)


TEXT_KINDS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".text", ".md")  # also compressed
TABLE_KINDS = (".parquet", ".arrow")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
KINDS_SAID = f"{', '.join((*TEXT_KINDS, *TABLE_KINDS))}, the text ones also compressed: {', '.join(COMPRESSIONS)}"

# What a row is made of: one of these, in whole.
_COLUMN_SETS = (("messages",), ("text", "title"), ("prompt", "system", "truth"))
COLUMNS = tuple(column for columns in _COLUMN_SETS for column in columns)
_DECIDING = {"messages", "text", "prompt", "truth"}  # these say which of the sets was meant
_NEEDED = {"title": {"text"}, "prompt": {"truth"}, "truth": {"prompt"}, "system": {"prompt", "truth"}}

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def file_kind(name: str) -> tuple[str, str] | None:
    """How a file is read, by the name it bears: its kind and its compression ("": none); None where it is not."""
    path = PurePath(name.lower())
    kind = path.suffix
    if kind in COMPRESSIONS:
        inner = PurePath(path.stem).suffix
        return (inner, kind) if inner in TEXT_KINDS else None
    return (kind, "") if kind in TEXT_KINDS or kind in TABLE_KINDS else None


class Shelf:
    """The datasets that a plan may name: its own, the known ones, what lies on this disk, the hub's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._own: dict[str, DatasetSpec | None] = {}
        self._used: set[Path] = set()

    @property
    def folder(self) -> Path:
        """Where relative paths start: the plan's folder, or the working folder if all of them were found there.

        So a run that is resumed from elsewhere still finds its files.
        """
        return next(iter(self._used)) if len(self._used) == 1 else self._folder

    def define(self, name: str, spec: DatasetSpec | None) -> None:
        """Put a dataset of the plan's own here. None: there is one, but something is wrong with it."""
        self._own[name] = spec

    def find(self, name: str) -> tuple[DatasetSpec | None, str | None]:
        """What a stage means by `name`, and what is wrong with it (None: nothing that was not said before)."""
        if name in self._own:
            return self._own[name], None
        return self.at(name, name=name)

    def at(self, place: str, *, name: str) -> tuple[DatasetSpec | None, str | None]:
        """The dataset called `name` that lies at `place`: a known name, a local path or a hub name."""
        if (known := known_dataset(place)) is not None:
            return replace(known, name=name), None
        if (path := self._on_disk(place)) is not None:
            return _local(name, path)
        if place.startswith((".", "/", "~")) or file_kind(place) is not None:
            return None, f"no such file or folder: {shown_value(place)}"
        if _HUB_NAME.fullmatch(place):
            return DatasetSpec(name=name, path=place), None
        hint = nearest(place, [*KNOWN_NAMES, *self._own]) or (
            f": neither known ({', '.join(KNOWN_NAMES)}) nor a hub name (owner/name) nor the path of a file or folder"
        )
        return None, f"unknown dataset {shown_value(place)}{hint}"

    def _on_disk(self, place: str) -> Path | None:
        try:
            path = Path(place).expanduser()
            starts = [self._folder, Path.cwd()]
        except (RuntimeError, OSError):  # no such user; the working folder is gone
            path, starts = Path(place), [self._folder]
        for start in starts:
            try:
                found = _absolute(start / path)
                if not found.exists():
                    continue
            except (OSError, RuntimeError, ValueError):  # too long a name, no right to look, links in a circle, a NUL
                continue
            if not path.is_absolute():
                self._used.add(start)
            return found
        return None


def _absolute(path: Path) -> Path:
    """The path without `..`; a link keeps the name that it bears, which says how the file is read."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _local(name: str, path: Path) -> tuple[DatasetSpec | None, str | None]:
    if not path.is_dir() and file_kind(path.name) is None:
        return None, f"must be a folder or a file that ends in {KINDS_SAID}; got {shown_value(path.name)}"
    if len(str(path)) > MAX_WORD:
        return None, f"its whole path must have at most {MAX_WORD} characters"
    return DatasetSpec(name=name, path=str(path)), None


ReadSpec = Callable[[Report, KeyPath, str, Mapping[str, Any], Shelf], DatasetSpec | None]


def define_own(report: Report, table: Mapping[str, Any], shelf: Shelf, read: ReadSpec) -> None:
    """Put the datasets of `[datasets]` on the shelf; `read` checks the table of one."""
    for name, entry in table.items():
        path: KeyPath = ("datasets", name)
        problem = check_name("dataset", name) if known_dataset(name) is None else None
        if problem is not None:
            report.add(path, problem)
        found = table_at(report, path, entry)
        shelf.define(name, None if found is None else read(report, path, name, found, shelf))
    check_unique(report, [(("datasets", name), name) for name in table], "dataset")


def dataset_spec(
    report: Report, path: KeyPath, name: str, table: Mapping[str, Any], shelf: Shelf
) -> DatasetSpec | None:
    """The dataset of `[datasets.NAME]`; None where nobody can say what it is."""
    given = valid_keys(report, path, table, DATASET_KEYS)
    for column, said in column_problems(column for column in COLUMNS if column in table):
        report.add((*path, column), said)
    if "path" not in table:
        report.add((*path, "path"), "is missing: a hub name (owner/name), or the path of a file or folder")
    if "path" not in given:
        return None
    base, problem = shelf.at(given.pop("path"), name=name)
    if base is None:
        report.add((*path, "path"), problem or "")
        return None
    if base.path == "pydocs":
        _check_embedded(report, path, given)
    return altered(base, given)


def _check_embedded(report: Report, path: KeyPath, given: Mapping[str, str]) -> None:
    config = given.get("config", PYDOCS_PARTS[0])
    if config not in PYDOCS_PARTS:
        report.add((*path, "config"), f"must be {' or '.join(PYDOCS_PARTS)}, got {shown_value(config)}")
    if given.get("split", "train") != "train":
        report.add((*path, "split"), "must be train: pydocs has no other")
    for key in ("revision", "validation"):
        if key in given:
            report.add((*path, key), "is nothing that pydocs has")


def altered(base: DatasetSpec, given: Mapping[str, str]) -> DatasetSpec:
    """The dataset with what a plan says of it; columns are given all or none."""
    values: dict[str, Any] = {}
    if given:  # no longer what LMPlay saved under that name
        values["saved_as"] = None
    if any(column in given for column in COLUMNS):
        values |= dict.fromkeys(COLUMNS)
    return replace(base, **(values | dict(given)))


def column_problems(given: Iterable[str]) -> list[tuple[str, str]]:
    """Columns that do not go together, or that need another beside them: each with what is wrong."""
    there = set(given)
    sets = [[column for column in columns if column in there] for columns in _COLUMN_SETS]
    sets.sort(key=lambda columns: not _DECIDING & set(columns))
    first, *others = [columns for columns in sets if columns] or [[]]
    problems = [(column, f"does not go together with {first[0]}") for columns in others for column in columns]
    missing = sorted({other for column in first for other in _NEEDED.get(column, ())} - there)
    if missing:
        problems.append((first[0], f"needs {' and '.join(missing)} beside it"))
    return problems


SMALLEST_SHARE = 1e-6  # of a mixture's rows

_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


def train_options(report: Report, path: KeyPath, table: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `[train]`."""
    given = valid_keys(report, path, table, {name: name for name in options.train_names()})
    experiment = given.get("exp", "gpt2ish")
    if not _EXPERIMENT.fullmatch(experiment):
        report.add(
            (*path, "exp"),
            f"must be the name of an experiment, got {options.shown_value(experiment)}; "
            "one from a file is set on the command line only: --exp file.py:Name",
        )
    return given


@dataclass
class StageTable:
    """A stage as far as it can be read key by key."""

    name: str
    name_path: KeyPath  # where the name stands
    path: KeyPath
    datasets: list[tuple[KeyPath, str]]
    weights: list[float] | None = None
    rest: dict[str, Any] = field(default_factory=dict)  # epochs, stopping, seed
    options: dict[str, Any] = field(default_factory=dict)


def stage_table(report: Report, path: KeyPath, name: str, table: Mapping[str, Any]) -> StageTable:
    """Check the keys of `[stages.NAME]`."""
    names = options.stage_names()
    given = valid_keys(report, path, table, {**STAGE_KEYS, **{option: option for option in names}})
    if "dataset" in table and "datasets" in table:
        report.add((*path, "datasets"), "stands beside dataset: give one of the two")
    elif "dataset" not in table and "datasets" not in table:
        report.add((*path, "dataset"), "is missing")
    datasets = [((*path, "dataset"), given["dataset"])] if "dataset" in given and "datasets" not in table else []
    datasets += valid_entries(report, (*path, "datasets"), given.get("datasets", ()), ENTRY)
    return StageTable(
        name=name,
        name_path=path,
        path=path,
        datasets=datasets,
        weights=_weights(report, path, table, given),
        rest={key: given[key] for key in ("epochs", "stopping", "seed") if key in given},
        options={key: value for key, value in given.items() if key in names},
    )


def _weights(report: Report, path: KeyPath, table: Mapping[str, Any], given: Mapping[str, Any]) -> list[float] | None:
    if "weights" not in given:
        return None
    wanted = len(given["datasets"]) if "datasets" in given else 1
    number = len(given["weights"])
    weights = [weight for _, weight in valid_entries(report, (*path, "weights"), given["weights"], WEIGHT)]
    if ("datasets" in given or "datasets" not in table) and number != wanted:
        report.add((*path, "weights"), f"must be one for each dataset: {wanted}, got {number}")
    return weights if len(weights) == number else None


def finished_stages(report: Report, tables: Sequence[StageTable], shelf: Shelf) -> tuple[Stage, ...]:
    """The stages, after the checks between keys and between stages."""
    stages = []
    for table in tables:
        problem = check_name("stage", table.name)
        if problem is not None:
            report.add(table.name_path, problem)
        weights = None if table.weights is None else _shares(report, (*table.path, "weights"), table.weights)
        datasets = _found(report, table.datasets, shelf)
        stages.append(Stage(table.name, datasets, weights=weights, options=table.options, **table.rest))
    check_unique(report, [(table.name_path, table.name) for table in tables], "stage")
    return tuple(stages)


def check_held_out(report: Report, tables: Sequence[StageTable], train: Mapping[str, Any]) -> None:
    """One `validation_split` for the whole plan: else rows held out of one stage are trained in another."""
    name = "validation_split"
    own = [table for table in tables if name in table.options]
    if name in train or len(own) < len(tables):
        held = train.get(name, options.default(name))
    else:
        held = own[0].options[name] if own else None
    for table in own:
        if table.options[name] != held:
            report.add(
                (*table.path, name),
                f"must be the same in every stage, {held:g} as in the others: else rows held out of one stage are "
                "trained in another; set it once, in [train]",
            )


def _found(report: Report, names: Sequence[tuple[KeyPath, str]], shelf: Shelf) -> tuple[DatasetSpec, ...]:
    specs: dict[str, DatasetSpec | None] = {}
    for path, name in names:
        if name in specs:
            report.add(path, f"lists {options.shown_value(name)} a second time")
            continue
        specs[name], problem = shelf.find(name)
        if problem is not None:
            report.add(path, problem)
    return tuple(spec for spec in specs.values() if spec is not None)


def _shares(report: Report, path: KeyPath, weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    # What was divided here before sums to 1 but for its last bits: it must read back as it was written.
    shares = tuple(weights) if abs(total - 1) <= 1e-12 else tuple(weight / total for weight in weights)
    for index, share in enumerate(shares):
        if share < SMALLEST_SHARE:
            report.add((*path, index), f"must be at least a millionth of all weights, is {share:.1g} of them")
    return shares


def plan_text(plan: Plan) -> str:
    """The TOML of a plan, without comments."""
    shelf = Shelf(Path(plan.folder))
    specs = {spec.name: spec for stage in plan.stages for spec in stage.datasets}
    document: dict[str, Any] = {
        "title": plan.title,
        "train": dict(plan.train),
        # What the name alone says needs no table.
        "datasets": {name: _dataset(spec) for name, spec in specs.items() if shelf.find(name)[0] != spec},
        "stages": {stage.name: _stage(stage) for stage in plan.stages},
    }
    return tomli_w.dumps({key: value for key, value in document.items() if value})


def _dataset(spec: DatasetSpec) -> dict[str, str]:
    values = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "name"}
    return {key: value for key, value in values.items() if value is not None}


def _stage(stage: Stage) -> dict[str, Any]:
    names = [spec.name for spec in stage.datasets]
    table: dict[str, Any] = {"dataset": names[0]} if len(names) == 1 else {"datasets": names}
    table["epochs"] = stage.epochs
    if stage.weights is not None:
        table["weights"] = list(stage.weights)
    if len(names) > 1 or stage.stopping != "first_exhausted":
        table["stopping"] = stage.stopping
    if stage.seed is not None:
        table["seed"] = stage.seed
    return table | dict(stage.options)
